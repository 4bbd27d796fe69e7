"""The task loss of single samples is the model's own loss, where that draws nothing at random."""

import pytest
import torch
from policies import ACTIONS, CHUNK, SIZE, batch_of
from tiny_lm import tiny_llama
from torch import nn

from craft_trainer.anchors.features import extract, labels_of
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.task_loss import UNLEARNED, next_token_losses, step_losses

KINDS = sorted(SIZE)
LABELS = torch.tensor([[7, 3, 5, UNLEARNED], [UNLEARNED] * 4, [UNLEARNED, UNLEARNED, 2, 9]])


def rows(batch, chosen):
    return {key: [value[row] for row in chosen] if key == "task" else value[chosen] for key, value in batch.items()}


def own_loss(model, batch, monkeypatch):
    """The policy's own forward at the noise and time of ``batch``, in evaluation mode."""
    inputs, policy = model.prepare(batch), model.policy
    with monkeypatch.context() as patch:
        if policy.config.type == "diffusion":
            patch.setattr(torch, "randn", lambda *_, **__: inputs["noise"])
            patch.setattr(torch, "randint", lambda *_, **__: inputs["time"])
        elif "noise" in inputs:
            patch.setattr(policy.model, "sample_noise", lambda *_: inputs["noise"])
            patch.setattr(policy.model, "sample_time", lambda *_: inputs["time"])
        return model.eval()(**batch)["loss"].item()


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, {}) for kind in KINDS]
    + [("diffusion", {"prediction_type": "sample"}), ("diffusion", {"do_mask_loss_for_padding": True})],
)
def test_it_is_the_policys_own_loss_of_every_sample(make_twin, kind, options, monkeypatch):
    """Seen to fail with noise and actions exchanged, and with padded steps that count."""
    model = make_twin(kind, **options)
    batch = batch_of(model)
    found = extract(model.train(), batch, [], output=True, task=True).task
    expected = [own_loss(model, rows(batch, [row]), monkeypatch) for row in range(3)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert labels_of(model, batch) == ["action"]


def test_the_loss_of_act_is_the_error_of_its_chunk(tiny_policy, tiny_dataset, monkeypatch):
    """With a VAE and without: its latent is drawn in training alone. Oracle: the policy in evaluation mode."""
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    for use_vae in (False, True):
        model = tiny_policy(use_vae=use_vae)
        dataset = PolicyDataset.of(model, str(tiny_dataset))
        batch = dataset.batch([0, len(dataset) - 2, len(dataset) - 1])
        batch = {key: batch[key] for key in model.input_keys()}
        assert batch["action_is_pad"].any()
        found = extract(model.train(), batch, [], output=True, task=True).task
        expected = [own_loss(model, rows(batch, [row]), monkeypatch) for row in range(3)]
        assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_without_actions_there_is_none_and_the_output_is_the_same(tiny_policy, tiny_dataset):
    """Anchors without actions are anchors of a policy that does not read them, and their task loss is unknown."""
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    model = tiny_policy()
    batch = PolicyDataset.of(model, str(tiny_dataset)).batch([0, 5])
    seen = {key: batch[key] for key in model.input_keys() if not key.startswith("action")}
    without = extract(model, seen, [], output=True, task=True)
    assert without.task is None
    assert torch.equal(without.output, extract(model, batch, [], output=True, task=True).output)
    assert labels_of(model, seen) == []


def test_next_token_losses_are_huggingfaces_of_each_sample_alone():
    model = as_anchored_model(tiny_llama().eval())
    batch = {"input_ids": LABELS.clamp_min(1), "labels": LABELS}
    found = extract(model, batch, [], output=True, task=True).task
    alone = [model.network(input_ids=batch["input_ids"][[row]], labels=LABELS[[row]])["loss"] for row in (0, 2)]
    torch.testing.assert_close(found[[0, 2]], torch.stack(alone))
    assert found[1] == 0  # no label: HuggingFace's own is no number


def test_next_token_losses_are_differentiable_where_there_are_labels():
    logits = torch.randn(3, 4, 11, requires_grad=True)
    next_token_losses(LABELS, logits).sum().backward()
    reached = logits.grad.any(dim=-1)
    assert reached.tolist() == [[True, True, False, False], [False] * 4, [False, True, True, False]]


def test_padded_steps_do_not_count():
    """By hand: the mean over the numbers of the other steps; 0 where all are padding."""
    errors = torch.arange(2.0 * CHUNK * ACTIONS).view(2, CHUNK, ACTIONS)
    padding = torch.zeros(2, CHUNK, dtype=torch.bool)
    padding[0, 2:], padding[1] = True, True
    assert step_losses(errors, padding).tolist() == [errors[0, :2].mean().item(), 0.0]
    assert step_losses(errors, None).tolist() == pytest.approx(errors.mean(dim=(1, 2)).tolist())


def test_a_loss_of_whole_batches_is_none_of_samples():
    """A classifier's own loss is known as the mean of a batch alone: see docs/method.md."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = as_anchored_model(BertForSequenceClassification(BertConfig(vocab_size=11, **sizes)).eval())
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.long), "labels": torch.tensor([0, 1])}
    assert isinstance(model.network, nn.Module)
    assert extract(model, batch, [], output=True, task=True).task is None
    assert labels_of(model, batch) == ["labels"]
