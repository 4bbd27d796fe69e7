"""Every policy family: its layers are the residual stream, its tokens are known, its output is what its loss is of."""

import pytest
import torch
from lerobot.configs.types import NormalizationMode
from paligemmas import NUM_LAYERS
from policies import ACTIONS, SIZE, batch_of
from torch.nn.functional import cross_entropy, mse_loss

from craft_trainer.anchors.features import FeatureSpec, capture, extract
from craft_trainer.models.base import AT_INPUT

KINDS = sorted(SIZE)
IN_BFLOAT16 = [(kind, {"dtype": "bfloat16"}) for kind in ("pi0", "pi05", "pi0_fast")]
AS_IT_IS = dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
ALOHA = {"adapt_to_pi_aloha": True, "dims": (14, 14), "max_state_dim": 14, "max_action_dim": 15}
FLOWS = ["pi0", "pi05", "smolvla"]


def all_specs(model):
    """Every layer of the family, its tokens averaged."""
    paths = [model.module_path(index) for index in range(len(model._family().layers(model.policy)))]
    return [FeatureSpec(path, "mean_masked") for path in paths]


def select(batch, rows):
    return {key: [value[row] for row in rows] if key == "task" else value[rows] for key, value in batch.items()}


@pytest.mark.parametrize(("kind", "options"), [(kind, {}) for kind in KINDS] + IN_BFLOAT16)
def test_features_are_a_function_of_the_batch(make_twin, kind, options):
    """Fails if a family draws noise in predict, and if dropout or random crops stay on."""
    model = make_twin(kind, **options).train()
    batch, specs = batch_of(model), all_specs(model)
    first, second = (extract(model, batch, specs, output=True) for _ in range(2))
    assert torch.equal(first.output, second.output)
    assert all(torch.equal(first.hidden[spec.column], second.hidden[spec.column]) for spec in specs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_that_ends_early_gives_the_same_hidden_states(make_twin, kind):
    """Fails if a captured state is written to by what follows it."""
    model = make_twin(kind)
    batch = batch_of(model)
    for spec in all_specs(model):
        early = extract(model, batch, [spec], output=False)
        assert early.output is None
        whole = extract(model, batch, all_specs(model), output=True)
        assert torch.equal(early.hidden[spec.column], whole.hidden[spec.column])


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_does_not_depend_on_its_batch(make_twin, kind):
    """Padding of the text differs between batches: fails if ``valid`` misses it (``None`` in a layout)."""
    model = make_twin(kind)
    batch, specs = batch_of(model), all_specs(model)
    together = extract(model, batch, specs, output=True)
    alone = extract(model, select(batch, [1]), specs, output=True)
    torch.testing.assert_close(alone.output, together.output[1:2], rtol=1e-4, atol=1e-5)
    for spec in specs:
        torch.testing.assert_close(alone.hidden[spec.column], together.hidden[spec.column][1:2], rtol=1e-4, atol=1e-5)


def test_layers_of_pi0_fast_are_huggingfaces_hidden_states(make_twin, monkeypatch):
    """Fails if a layer is read one too early or before the final norm."""
    model = make_twin("pi0_fast")
    language_model = model.policy.model.paligemma_with_expert.paligemma.model.language_model
    forward, outputs = language_model.forward, []

    def with_hidden_states(**inputs):
        outputs.append(forward(output_hidden_states=True, **inputs))
        return outputs[-1]

    monkeypatch.setattr(language_model, "forward", with_hidden_states)
    specs = [FeatureSpec(model.module_path(layer), "cls_token") for layer in range(-NUM_LAYERS, 0)]
    hidden = extract(model, batch_of(model), specs, output=True).hidden
    expected = outputs[0].hidden_states[1:]
    assert len(expected) == len(specs)
    for spec, state in zip(specs, expected, strict=True):
        assert torch.equal(hidden[spec.column], state[:, 0])


@pytest.mark.parametrize("kind", FLOWS)
def test_layers_of_joint_transformers_are_the_residual_stream(make_twin, kind):
    """What leaves a layer is what enters its second norm plus its gated MLP: fails if a path is of another layer."""
    model = make_twin(kind)
    paths = [f"policy.{path}" for path in model._family().layers(model.policy)]
    stacks = [path.removesuffix(".norm") for path in paths if path.endswith(".norm")]
    assert len(paths) == len(stacks) * NUM_LAYERS == 2 * NUM_LAYERS
    layers = [f"{stack}.layers.{index}" for stack in stacks for index in range(NUM_LAYERS)]
    parts, states = {}, {}
    for layer in layers:
        keep_parts(parts, layer, model.get_submodule(layer))
    with (
        torch.no_grad(),
        capture(model, {*paths, *(f"{stack}.norm{AT_INPUT}" for stack in stacks)}, states, stop=False),
    ):
        model.predict(model.prepare(batch_of(model)))
    for path, layer in zip(paths, layers, strict=True):
        expected = parts[layer]["residual"] + parts[layer]["mlp"] * parts[layer]["gate"]
        before_norm = f"{path}{AT_INPUT}" if path.endswith(".norm") else path
        torch.testing.assert_close(states[before_norm], expected)
    assert paths[-1].endswith(".norm")


def keep_parts(parts, name, layer):
    """Store what ``layer`` adds up, each time it is computed; copies, for SmolVLA adds in place."""
    parts[name] = {"gate": 1.0}

    def keep_norm(_module, inputs, output):
        parts[name]["residual"] = inputs[0].clone()
        if isinstance(output, tuple) and output[1] is not None:
            parts[name]["gate"] = output[1]

    layer.post_attention_layernorm.register_forward_hook(keep_norm)
    layer.mlp.register_forward_hook(lambda _module, _inputs, output: parts[name].update(mlp=output.clone()))


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_the_velocity_is_what_the_task_loss_is_of(make_twin, kind, monkeypatch):
    """Fails if noise and actions change places, and if the padded dimensions of an action stay."""
    model = make_twin(kind)
    batch = batch_of(model)
    inputs = model.prepare(batch)
    monkeypatch.setattr(model.policy.model, "sample_noise", lambda *_: inputs["noise"])
    monkeypatch.setattr(model.policy.model, "sample_time", lambda *_: inputs["time"])
    target = (inputs["noise"] - inputs["actions"])[..., :ACTIONS]
    assert mse_loss(model.predict(inputs), target).item() == pytest.approx(model(**batch)["loss"].item(), rel=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"train_expert_only": False}, {"num_expert_layers": 1}, ALOHA | {"normalization_mapping": AS_IT_IS}]
)
def test_the_velocity_of_smolvla_is_what_the_task_loss_is_of(make_twin, options):
    """Fails if Aloha's actions are left in its own units, or changed in place."""
    model = make_twin("smolvla", **options)
    batch = batch_of(model)
    inputs = model.prepare(batch)
    num_actions = batch["action"].shape[-1]
    seen = model.preprocessor({key: value for key, value in batch.items() if not key.startswith("noise/")})
    loss, _ = model.policy(seen, noise=inputs["noise"], time=inputs["time"])
    wrong = (model.predict(inputs) - (inputs["noise"] - inputs["actions"])[..., :num_actions]).square()
    assert wrong[~batch["action_is_pad"]].mean().item() == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
def test_what_the_u_net_predicts_is_what_the_task_loss_is_of(make_twin, prediction_type, monkeypatch):
    """Fails if the actions are noised at another diffusion step."""
    model = make_twin("diffusion", prediction_type=prediction_type)
    batch = batch_of(model)
    inputs = model.prepare(batch)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: inputs["noise"])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: inputs["time"])
    target = inputs["noise"] if prediction_type == "epsilon" else inputs["actions"]
    assert mse_loss(model.predict(inputs), target).item() == pytest.approx(model(**batch)["loss"].item(), rel=1e-6)


def test_the_logits_are_what_the_task_loss_is_of(make_twin):
    """Fails if ``valid`` marks a token itself instead of the position that predicts it."""
    model = make_twin("pi0_fast")
    batch = batch_of(model)
    inputs = model.prepare(batch)
    logits = model.predict(inputs)
    valid = model.token_layout("", inputs, logits.shape).valid
    assert not valid[:, -1].any()
    assert (~valid[:, :-1]).any()
    following = inputs["action_tokens"].roll(-1, dims=1)
    loss = cross_entropy(logits[valid], following[valid])
    assert loss.item() == pytest.approx(model(**batch)["loss"].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, {}) for kind in KINDS] + [("smolvla", {"train_expert_only": False, "freeze_vision_encoder": False})],
)
def test_gradients_of_the_output_reach_what_the_task_loss_trains(make_twin, kind, options):
    """Fails if predict detaches or if a part of the model is left out."""

    def reached(scalar):
        model.zero_grad()
        scalar.backward()
        return {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}

    model = make_twin(kind, **options)
    batch = batch_of(model)
    trained = reached(model(**batch)["loss"])
    assert reached(extract(model, batch, [], output=True).output.square().sum()) == trained
    spec = FeatureSpec(model.module_path(-1), "mean_masked")
    by_hidden = reached(extract(model, batch, [spec], output=False).hidden[spec.column].square().sum())
    assert by_hidden < trained
    assert len(trained - by_hidden) <= 4  # the head, and what the last layer does not add up


def test_a_frozen_backbone_has_no_gradient_and_a_trained_one_has(make_twin):
    for train_expert_only in (True, False):
        model = make_twin("smolvla", train_expert_only=train_expert_only)
        spec = FeatureSpec(model.module_path(0), "mean_image_tokens")
        hidden = extract(model, batch_of(model), [spec], output=False).hidden[spec.column]
        hidden.square().sum().backward()
        first = model.policy.model.vlm_with_expert.vlm.model.text_model.layers[0].mlp.down_proj.weight
        assert (first.grad is not None and bool(first.grad.any())) is not train_expert_only
