"""Drift on the task itself: KL(teacher‖student) against torch's own, and randomness that leaves no trace."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from tiny_lm import VOCABULARY, TokenTask, collate, tiny_llama
from torch import Tensor
from torch.nn.functional import kl_div

from craft_trainer.anchors.features import DEFAULT_TOP_K
from craft_trainer.models.families import as_anchored_model
from craft_trainer.training.drift import TaskDrift, one_text_a_row, preserve_rng_state

SMALL = DEFAULT_TOP_K - 2  # tokens to predict that are all kept
BATCH = collate([TokenTask()[row] for row in (0, 1, 2, 5)])


def llama(num_outputs: int = SMALL, **options: Any) -> Any:
    model = tiny_llama(**options)
    model.lm_head = torch.nn.Linear(16, num_outputs)
    return model


def batch() -> dict[str, Tensor]:
    return BATCH | {"row": torch.arange(4)}


def perturb(model: torch.nn.Module, by: float) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=by)


@torch.no_grad()
def log_probs(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    outputs = model.eval()(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    return outputs.logits.double().log_softmax(-1)


def whole_kl(log_p: Tensor, log_q: Tensor) -> float:
    """Sample by sample over what is not padding, then the mean of the samples."""
    per_token = kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    rows = zip(per_token, BATCH["attention_mask"].bool(), strict=True)
    return torch.stack([values[valid].mean() for values, valid in rows]).mean().item()


def test_it_is_zero_at_the_start() -> None:
    model = llama()
    assert TaskDrift(as_anchored_model(model), batch()).measure(as_anchored_model(model)) == pytest.approx(0, abs=1e-6)


def test_it_is_the_divergence_of_teacher_and_student_over_the_whole_vocabulary() -> None:
    """Seen to fail with KL(student‖teacher)."""
    model, inputs = llama(), batch()
    drift, before = TaskDrift(as_anchored_model(model), inputs), log_probs(model, inputs)
    perturb(model, 0.05)
    expected = whole_kl(before, log_probs(model, inputs))
    assert expected > 0.05
    assert drift.measure(as_anchored_model(model)) == pytest.approx(expected, rel=1e-5)


def test_of_a_larger_vocabulary_it_is_a_lower_bound() -> None:
    model, inputs = llama(VOCABULARY), batch()
    drift, before = TaskDrift(as_anchored_model(model), inputs), log_probs(model, inputs)
    perturb(model, 0.05)
    assert 0 < drift.measure(as_anchored_model(model)) < whole_kl(before, log_probs(model, inputs))


def test_it_grows_as_the_student_moves_away_and_has_no_memory() -> None:
    model = llama()
    drift, measured = TaskDrift(as_anchored_model(model), batch()), []
    for _ in range(4):
        measured.append(drift.measure(as_anchored_model(model)))
        perturb(model, 0.03)  # the same direction again
    assert measured == sorted(measured)
    assert measured[3] > 1.5 * measured[1] > 0
    assert drift.measure(as_anchored_model(llama())) == pytest.approx(0, abs=1e-6)  # back at the teacher


def test_labels_and_what_the_model_does_not_read_do_not_matter() -> None:
    model, without = llama(), {key: value for key, value in batch().items() if key not in ("labels", "row")}
    drifts = [TaskDrift(as_anchored_model(model), inputs) for inputs in (batch(), without)]
    perturb(model, 0.05)
    assert drifts[0].measure(as_anchored_model(model)) == drifts[1].measure(as_anchored_model(model))


def test_measuring_changes_nothing() -> None:
    """No dropout, and mode, gradients and generators are as before. Seen to fail in training mode."""
    model = llama(attention_dropout=0.5).train()
    drift = TaskDrift(as_anchored_model(model), batch())
    state = torch.random.get_rng_state()
    measured = {drift.measure(as_anchored_model(model)) for _ in range(2)}
    assert len(measured) == 1
    assert measured.pop() == pytest.approx(0, abs=1e-6)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_texts_that_share_a_row_are_measured_one_by_one() -> None:
    """As padding-free training flattens them. Seen to fail: they ran together, and the batch was one sample."""
    lengths = BATCH["attention_mask"].sum(dim=1).tolist()
    texts = [BATCH["input_ids"][row, :length] for row, length in enumerate(lengths)]
    ids, positions = torch.cat(texts)[None], torch.cat([torch.arange(length) for length in lengths])[None]
    flat = {"input_ids": ids, "labels": ids, "position_ids": positions}
    rows = one_text_a_row(flat)
    model, inputs = llama(), batch()
    drift, before = TaskDrift(as_anchored_model(model), rows), log_probs(model, inputs)
    perturb(model, 0.05)
    expected = whole_kl(before, log_probs(model, inputs))
    assert drift.measure(as_anchored_model(model)) == pytest.approx(expected, rel=1e-5)
    assert TaskDrift.begin(as_anchored_model(model), flat) is None


@pytest.mark.parametrize("masked", [True, False])
def test_packed_rows_become_rows_of_one_text(masked: bool) -> None:
    ids = torch.tensor([[11, 12, 13, 21, 22, 0], [31, 41, 42, 51, 52, 53]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 0, 1, 0, 1, 2]])
    mask = torch.ones_like(ids)
    mask[0, 5] = int(not masked)  # without a mask it is a text of one token
    found = one_text_a_row({"input_ids": ids, "position_ids": positions} | ({"attention_mask": mask} if masked else {}))
    texts = [[11, 12, 13], [21, 22, 0], [31, 0, 0], [41, 42, 0], [51, 52, 53]]
    lengths = [3, 2, 1, 2, 3]
    if not masked:
        texts.insert(2, [0, 0, 0])
        lengths.insert(2, 1)
    assert found["input_ids"].tolist() == texts
    assert found["attention_mask"].sum(dim=1).tolist() == lengths
    assert found["position_ids"].tolist() == [[n if n < length else 0 for n in range(3)] for length in lengths]


def test_what_is_of_no_token_cannot_be_split() -> None:
    positions = torch.tensor([[0, 1, 0, 1]])
    packed = {"input_ids": positions, "position_ids": positions}
    with pytest.raises(ValueError, match=r"holds several texts, and which of them pixel_values is of is not known"):
        one_text_a_row(packed | {"pixel_values": torch.zeros(1, 3, 8, 8)})
    whole = {"input_ids": positions, "pixel_values": torch.zeros(1, 3, 8, 8)}
    assert one_text_a_row(whole) is whole


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(1).item()


def test_what_is_drawn_inside_is_not_drawn() -> None:
    """Of every generator a data collator may use. Seen to fail with torch's alone."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    expected = [draw() for _ in range(3)]
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    first = draw()
    with preserve_rng_state():
        inside = [draw() for _ in range(5)]
    assert [first, draw(), draw()] == expected
    assert inside[:2] == expected[1:]


def test_generators_are_put_back_after_an_error_too() -> None:
    states = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()

    def failing_collator() -> None:
        with preserve_rng_state():
            draw()
            raise RuntimeError("collator")

    with pytest.raises(RuntimeError, match="collator"):
        failing_collator()
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.random.get_rng_state(), states[2])
