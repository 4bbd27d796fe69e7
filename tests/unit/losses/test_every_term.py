"""What every retention term and every loss of a method promises: those that are added are tested here too."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import ToyModel
from toy_run import COLUMN, SCALES, SPECS, X, Y, moved, teacher_of_the_toy

from craft_trainer.anchors.features import TASK_SCALE, TOKEN_SCALE, AnchorBatch, Features, FeatureSpec, token_targets
from craft_trainer.losses.distillation import DistillationLoss
from craft_trainer.losses.hidden import DISTANCES
from craft_trainer.losses.loss import RetentionLoss, TrainingStart
from craft_trainer.losses.term import Need, RetentionTerm, Scales
from craft_trainer.losses.terms import TERMS
from craft_trainer.models.base import TokenLayout
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.methods import METHODS

ANCHORS, LENGTH, VOCABULARY = 5, 6, 7
EVERY, POOLED = FeatureSpec("every", "none"), FeatureSpec("pooled", "mean_masked")
LENGTHS = torch.tensor([6, 3, 1, 5, 6])
VALID = torch.arange(LENGTH) < LENGTHS[:, None]
UNITS = {
    EVERY.column: torch.tensor(2.0),
    POOLED.column: torch.tensor(0.5),
    "output": torch.tensor(3.0),
    TOKEN_SCALE: torch.tensor(1.5),
    TASK_SCALE: torch.tensor(0.8),
}
SIGNED = {"token_ce", "task"}  # a student surer, or better, than its teacher is below 0


class Given:
    """As much of the settings as a term reads."""

    def __init__(self, hidden_distance: str) -> None:
        self.hidden_distance = hidden_distance


CASES = {
    f"{name}-{distance}": term.configured(Given(distance)) for name, term in TERMS.items() for distance in DISTANCES
}
every_term = pytest.mark.parametrize("term", CASES.values(), ids=CASES)


class Padded:
    """As much of a model as ``token_targets`` asks for."""

    def token_layout(self, path: str, inputs: Any, shape: torch.Size) -> TokenLayout:
        del path, shape
        return TokenLayout(valid=inputs["valid"])


def raw(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a model computes: the vectors of every token, one vector per sample, and what comes out at the end."""
    shapes = ((ANCHORS, LENGTH, 4), (ANCHORS, 3), (ANCHORS, LENGTH, VOCABULARY))
    generator = torch.Generator().manual_seed(seed)
    every, pooled, output = (torch.randn(shape, generator=generator) for shape in shapes)
    return every * VALID[..., None], pooled, output


def student_of(every: Tensor, pooled: Tensor, output: Tensor) -> Features:
    return Features({EVERY.column: every, POOLED.column: pooled}, output, task=task_loss(output))


def task_loss(output: Tensor) -> Tensor:
    """Of the valid positions, against labels of 0."""
    return (output.square().mean(dim=-1) * VALID[: len(output)]).sum(dim=-1)


def teacher_of(every: Tensor, pooled: Tensor, output: Tensor, k: int = 3) -> Features:
    tokens = token_targets(Padded(), {"valid": VALID[: len(output)]}, output, k)  # type: ignore[arg-type]
    return student_of(every, pooled, output)._replace(tokens=tokens)


TEACHER, STUDENT = teacher_of(*raw(0)), student_of(*raw(1))


def row_of(features: Features, row: int) -> Features:
    one = slice(row, row + 1)
    tokens = features.tokens
    return Features(
        {name: value[one] for name, value in features.hidden.items()},
        features.output[one],
        None if tokens is None else type(tokens)(*(value[one] for value in tokens)),
        features.task[one],
    )


@every_term
def test_the_teacher_itself_loses_nothing(term: RetentionTerm) -> None:
    losses = term(student_of(*raw(0)), TEACHER, UNITS)
    assert losses.shape == (ANCHORS,)
    assert losses.abs().max() < 1e-6


@every_term
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_student_that_moved_loses_something(term: RetentionTerm, seed: int) -> None:
    """And never less than nothing, unless the term says so."""
    losses = term(student_of(*raw(seed)), TEACHER, UNITS)
    assert (losses.abs() > 1e-3).all()
    assert term.name in SIGNED or losses.min() > 0


@every_term
def test_every_anchor_has_its_own_loss(term: RetentionTerm) -> None:
    """As if it were alone in the batch, whatever the others are and wherever it stands."""
    together = term(STUDENT, TEACHER, UNITS)
    alone = [term(row_of(STUDENT, row), row_of(TEACHER, row), UNITS) for row in range(ANCHORS)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert len(set(together.tolist())) == ANCHORS


@every_term
def test_padding_does_not_count(term: RetentionTerm) -> None:
    """Whatever the student says there. An output has no padding: every action of a chunk counts."""
    if Need.OUTPUT in term.needs:
        return
    every, pooled, output = raw(1)
    noise = 100 * ~VALID[..., None] * torch.randn(ANCHORS, LENGTH, 1, generator=torch.Generator().manual_seed(9))
    padded = term(student_of(every + noise, pooled, output * (1 + noise)), TEACHER, UNITS)
    torch.testing.assert_close(padded, term(STUDENT, TEACHER, UNITS), rtol=0, atol=0)


@every_term
def test_its_gradient_reaches_what_it_reads_of_the_student_alone(term: RetentionTerm) -> None:
    """And only the anchors themselves: none of the batch's others."""
    leaves = [value.requires_grad_() for value in raw(1)]
    term(student_of(*leaves), TEACHER, UNITS)[0].backward()
    reached = {
        Need.HIDDEN: [leaves[0], leaves[1]],
        Need.OUTPUT | Need.TOKENS | Need.TASK: [leaves[2]],
    }
    for need, values in reached.items():
        for value in values:
            assert (value.grad is not None) is bool(term.needs & need)
            if value.grad is not None:
                assert value.grad[0].abs().max() > 0
                assert value.grad[1:].abs().max() == 0


def without(piece: Need, features: Features, scales: Scales) -> tuple[Features, dict[str, Tensor]]:
    """The anchors of a teacher, or a student, of which ``piece`` is not there."""
    gone = {
        Need.HIDDEN: (features._replace(hidden={}), {EVERY.column, POOLED.column, COLUMN}),
        Need.OUTPUT: (features._replace(output=None), {"output"}),
        Need.TOKENS: (features._replace(tokens=None), {TOKEN_SCALE}),
        Need.LABELS: (features, set()),
        Need.TASK: (features._replace(task=None), {TASK_SCALE}),
    }
    less, keys = gone[piece]
    return less, {name: value for name, value in scales.items() if name not in keys}


@every_term
@pytest.mark.parametrize("piece", list(Need), ids=str)
def test_what_a_term_needs_is_what_it_reads(term: RetentionTerm, piece: Need) -> None:
    """Without a piece that it does not declare nothing changes; without one that it does, it is refused."""
    less, scales = without(piece, TEACHER, UNITS)
    specs = [] if piece is Need.HIDDEN else [EVERY, POOLED]
    if piece in term.needs:
        with pytest.raises(ValueError, match=f"retention term {term.name!r} cannot be held"):
            DistillationLoss(specs, scales, {term: 1.0})
    else:
        DistillationLoss(specs, scales, {term: 1.0})
        assert torch.equal(term(STUDENT, less, scales), term(STUDENT, TEACHER, UNITS))


@every_term
def test_a_student_runs_no_further_than_a_term_needs(term: RetentionTerm) -> None:
    """Hidden features alone end the pass at their layer, so there is no output."""
    ends = DistillationLoss([EVERY, POOLED], UNITS, {term: 1.0})
    assert ends._output is bool(term.needs & (Need.OUTPUT | Need.TOKENS | Need.TASK))
    assert ends._specs == ([EVERY, POOLED] if Need.HIDDEN in term.needs else [])
    student = STUDENT._replace(hidden={}) if Need.HIDDEN not in term.needs else STUDENT
    student = student if ends._output else student._replace(output=None)
    assert torch.equal(term(student, TEACHER, UNITS), term(STUDENT, TEACHER, UNITS))


def test_every_term_is_found_by_its_name_and_names_its_unit() -> None:
    assert all(TERMS[term.name] is term for term in TERMS.values())
    assert all(term().unit and term.needs for term in TERMS.values())


# the losses of the methods


class Labelled(ToyModel):
    """The toy, which has a loss only where there are targets."""

    def forward(self, x: Tensor, y: Tensor | None = None, return_loss: bool = True) -> dict[str, Tensor]:
        return {} if y is None else super().forward(x, y)


LOSSES = {name: fixed["loss"] for name, fixed in METHODS.items() if fixed["loss"] is not None}


def value(kind: type[RetentionLoss], settings: CraftConfig, *, lacking: Need = Need.NOTHING) -> Tensor:
    """The loss of a toy that has moved, on anchors that lack a piece."""
    teacher, scales = teacher_of_the_toy(), SCALES
    if lacking:
        teacher, scales = without(lacking, teacher, scales)
    inputs = {"x": X} if lacking is Need.LABELS else {"x": X, "y": Y}
    batch, model = AnchorBatch(inputs, teacher, ["old"] * 6), Labelled()
    specs = [] if lacking is Need.HIDDEN else SPECS
    loss = kind.begin(TrainingStart(model, specs, lambda: scales, 6, lambda _: batch, settings, False))
    losses = loss(moved(model), batch)
    assert losses.shape == ((6,) if kind.per_anchor else (1,))
    return losses


@pytest.mark.parametrize("method", LOSSES)
@pytest.mark.parametrize("piece", list(Need), ids=str)
def test_what_a_loss_needs_is_what_it_reads(method: str, piece: Need) -> None:
    """The toy's anchors have no tokens, and its terms are hidden and output."""
    kind, settings = LOSSES[method], CraftConfig(output_dir="unused", use_cpu=True)
    begin = partial(value, kind, settings)
    needs = Need.HIDDEN | Need.OUTPUT if kind is DistillationLoss else kind.needs
    if piece in needs:
        with pytest.raises(ValueError, match=r"cannot be held|hold no targets"):
            begin(lacking=piece)
    else:
        assert torch.equal(begin(lacking=piece), begin())
        assert begin().min() > 0
