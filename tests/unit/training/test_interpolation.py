"""The line between two models, tensor by tensor."""

import pytest
import torch
from torch import nn

from craft_trainer.training.interpolation import WeightLine


def model(seed, **options):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to(**options)
    made(torch.randn(5 + seed, 3, **options))
    for _ in range(seed):
        made(torch.randn(5, 3, **options))
    return made


def copied(state):
    return {name: tensor.clone() for name, tensor in state.items()}


def test_between_the_ends_every_tensor_of_numbers_is_interpolated():
    """And counters are the tuned model's, unless α = 0. Seen to fail with the line of the tensors as they are now."""
    teacher, tuned = model(1), model(2)
    ours, theirs = copied(teacher.state_dict()), copied(tuned.state_dict())
    line = WeightLine(teacher, tuned)
    for alpha in (0.25, 0.75, 0.5):
        line.move(alpha)
        for name, tensor in tuned.state_dict().items():
            if name.endswith("num_batches_tracked"):
                assert tensor == theirs[name] != ours[name]
            else:
                torch.testing.assert_close(tensor, (1 - alpha) * ours[name] + alpha * theirs[name])
    for alpha, expected in ((1.0, theirs), (0.0, ours), (1.0, theirs)):
        line.move(alpha)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tuned.state_dict().items())
    assert all(torch.equal(tensor, ours[name]) for name, tensor in teacher.state_dict().items())


def test_what_is_not_finite_in_the_tuned_model_leaves_the_teacher_whole():
    """0 · ∞ would be no number. Seen to fail with arithmetic at α = 0."""
    teacher, tuned = model(1), model(2)
    with torch.no_grad():
        tuned[0].bias[0] = torch.inf
    WeightLine(teacher, tuned).move(0.0)
    assert torch.equal(tuned[0].bias, teacher[0].bias)


def test_a_coarser_tuned_model_is_widened_and_a_finer_one_refused():
    coarse, fine = model(1, dtype=torch.bfloat16), model(2)
    saved = copied(coarse.state_dict())
    WeightLine(fine, coarse).move(1.0)
    assert coarse[0].weight.dtype == torch.float32
    assert torch.equal(coarse[0].weight, saved["0.weight"].float())
    with pytest.raises(ValueError, match=r"0\.weight is torch\.bfloat16 in the teacher and torch\.float32"):
        WeightLine(model(1, dtype=torch.bfloat16), model(2))


@pytest.mark.parametrize(
    ("tuned", "said"),
    [
        (nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)), r"0\.weight is \[4, 3\] in the teacher and \[5, 3\]"),
        (nn.Sequential(nn.Linear(3, 4)), r"1\.bias is in one of the two models only"),
    ],
)
def test_other_shapes_and_other_tensors_are_refused_by_name(tuned, said):
    with pytest.raises(ValueError, match=said):
        WeightLine(model(1), tuned)


def test_quantised_weights_are_refused():
    def quantised():
        made = nn.Module()
        made.weight = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
        return made

    with pytest.raises(ValueError, match=r"weight holds torch\.int8: quantised"):
        WeightLine(quantised(), quantised())


@pytest.mark.parametrize("options", [{"use_dora": True}, {"bias": "lora_only"}, {"init_lora_weights": "pissa"}])
def test_adapters_that_change_their_base_are_refused(options):
    """Seen to fail with the tensors outside the low-rank update not compared."""
    peft = pytest.importorskip("peft")
    teacher, base = model(1), model(1)
    tuned = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0"], **options))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "bias" in name and parameter.requires_grad:
                parameter.add_(1)
    with pytest.raises(ValueError, match="is not the teacher's: the adapter is one on another base, or it changes"):
        WeightLine(teacher, tuned)


def test_a_copied_head_is_interpolated_from_the_teachers_own():
    """Beside a scaled update: at α = ½ both are half way. Seen to fail with the copy left as it is."""
    peft = pytest.importorskip("peft")
    teacher = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    base = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    base.load_state_dict(teacher.state_dict())
    tuned = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["1"]))
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    head = tuned.base_model.model[1].modules_to_save["default"].weight.detach().clone()
    update = tuned.base_model.model[0].get_delta_weight("default").detach().clone()
    WeightLine(teacher, tuned).move(0.5)
    merged = tuned.merge_and_unload()
    torch.testing.assert_close(merged[0].weight, teacher[0].weight + 0.5 * update)
    torch.testing.assert_close(merged[1].weight, (teacher[1].weight + head) / 2)


def test_an_adapter_as_the_teacher_and_other_adapters_are_refused():
    peft = pytest.importorskip("peft")
    adapter = peft.get_peft_model(model(1), peft.LoraConfig(r=2, target_modules=["0"]))
    with pytest.raises(ValueError, match="the teacher is a PEFT adapter"):
        WeightLine(adapter, model(2))
    other = peft.get_peft_model(model(1), peft.IA3Config(target_modules=["0"], feedforward_modules=[]))
    with pytest.raises(ValueError, match="the adapter is IA3, of which α cannot scale"):
        WeightLine(model(1), other)
