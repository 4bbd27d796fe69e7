"""Retention losses of hidden features and outputs, anchor by anchor, in closed form."""

import math

import pytest
import torch
from torch import Tensor

from craft_trainer.anchors.features import Features
from craft_trainer.losses.terms import DISTANCES, TERMS, cosine, l1, mse, retention_loss, retention_terms

A, B = "hidden/a/none", "hidden/b/none"
VARIANCE = {A: torch.tensor(4.0), B: torch.tensor(0.5), "output": torch.tensor(2.0)}
TEACHER = Features({A: torch.full((2, 3, 4), -1.0), B: torch.ones(2, 5)}, torch.zeros(2, 8, 4))
MOVES = torch.tensor([1.0, 3.0])  # how far each of the two anchors is moved
UNIT = torch.tensor(1.0)


def student(*, a: float = 0.0, b: float = 0.0, output: float | None = 0.0) -> Features:
    """The teacher, moved by a constant in every number; thrice as far for the second anchor."""
    moved = None if output is None else TEACHER.output + output * MOVES[:, None, None]
    return Features({A: TEACHER.hidden[A] + a * MOVES[:, None, None], B: TEACHER.hidden[B] + b * MOVES[:, None]}, moved)


def loss(moved: Features, distance: str = "mse", **weights: float) -> Tensor:
    return retention_loss(moved, TEACHER, VARIANCE, weights=weights, hidden_distance=distance)


def test_mse_is_a_fraction_of_the_variance() -> None:
    teacher = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    moved = teacher + torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    torch.testing.assert_close(mse(moved, teacher, torch.tensor(3.0)), torch.tensor([(1 + 1) / 2, (4 + 0) / 2]) / 3)


def test_l1_is_in_standard_deviations() -> None:
    """Seen to fail with the variance in place of its root."""
    teacher = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    moved = teacher + torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    torch.testing.assert_close(l1(moved, teacher, torch.tensor(9.0)), torch.tensor([(1 + 1) / 2, (2 + 0) / 2]) / 3)


@pytest.mark.parametrize("distance", DISTANCES.values())
@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4), (5, 2, 3, 4)])
def test_every_anchor_has_its_own_distance(distance: object, shape: tuple[int, ...]) -> None:
    """As if it were alone in the batch. Seen to fail with the mean over the batch as well."""
    generator = torch.Generator().manual_seed(0)
    moved, teacher = (torch.randn(shape, generator=generator) for _ in range(2))
    together = distance(moved, teacher, torch.tensor(3.0))
    alone = [distance(moved[i : i + 1], teacher[i : i + 1], torch.tensor(3.0)) for i in range(5)]
    assert together.shape == (5,)
    torch.testing.assert_close(together, torch.cat(alone))
    assert len(set(together.tolist())) == 5


def test_predicting_the_teachers_mean_costs_one() -> None:
    """What the unit means: a student that knows only the mean misses all of the variance."""
    teacher = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1.0, 10.0])
    variance = teacher.var(dim=0, correction=0).mean()
    everywhere = mse(teacher.mean(dim=0).expand_as(teacher), teacher, variance)
    assert everywhere.mean().item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("distance", "gap"), [("mse", 0.25), ("l1", 0.5)])
def test_losses_do_not_depend_on_the_scale_of_the_features(scale: float, distance: str, gap: float) -> None:
    """Half a standard deviation is ¼ of the variance or ½ a deviation, whatever the model's own unit."""
    teacher = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * scale
    deviation = torch.tensor(scale)
    torch.testing.assert_close(
        DISTANCES[distance](teacher + deviation / 2, teacher, deviation**2), torch.full((6,), gap), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("angle", [0.0, math.pi / 3, math.pi / 2, math.pi])
def test_cosine_of_an_angle(angle: float) -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    moved = 7 * teacher @ turn  # the length does not matter
    assert cosine(moved, teacher, torch.tensor(123.0)).tolist() == pytest.approx([1 - math.cos(angle)] * 2, abs=1e-6)


def test_cosine_of_several_tokens_is_their_mean() -> None:
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    moved = torch.tensor([[[0.0, 1.0], [0.0, -1.0]]])  # a right angle and the opposite
    assert cosine(moved, teacher, UNIT).tolist() == pytest.approx([(1 + 2) / 2])


@pytest.mark.parametrize("distance", DISTANCES)
def test_padding_is_nothing(distance: str) -> None:
    """It is zero in both, and the mean is over the other tokens: more of it changes nothing."""
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    moved = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]], requires_grad=True)
    losses = DISTANCES[distance](moved, teacher, UNIT)
    assert losses.tolist() == pytest.approx([0.0, 1.0])
    losses.sum().backward()
    assert moved.grad.isfinite().all()
    padded = [torch.nn.functional.pad(values, (0, 0, 0, 3)) for values in (moved, teacher)]
    torch.testing.assert_close(DISTANCES[distance](*padded, UNIT), losses)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_feature_of_nothing_is_at_distance_zero(distance: str) -> None:
    """The mean over the images of a sample without images. Seen to fail with the cosine of nothing."""
    teacher = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert DISTANCES[distance](teacher, teacher, UNIT).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_teacher_itself_loses_nothing(distance: str) -> None:
    teacher = Features({A: torch.randn(2, 3, 4), B: torch.randn(2, 5)}, torch.randn(2, 8, 4))
    value = retention_loss(teacher, teacher, VARIANCE, weights={"hidden": 1, "output": 1}, hidden_distance=distance)
    assert value.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_hidden_is_the_mean_over_layers_each_in_its_own_variance() -> None:
    expected = MOVES**2 * (2**2 / 4.0 + 3**2 / 0.5) / 2
    torch.testing.assert_close(loss(student(a=2.0, b=3.0), hidden=1.0), expected)


def test_output_is_in_units_of_its_variance_whatever_the_hidden_distance() -> None:
    moved = student(output=3.0)
    assert torch.equal(loss(moved, output=1.0), loss(moved, "cosine", output=1.0))
    torch.testing.assert_close(loss(moved, output=1.0), MOVES**2 * 3**2 / 2.0)


def test_terms_are_weighted_and_summed() -> None:
    moved = student(a=2.0, output=3.0)
    expected = MOVES**2 * (0.25 * (2**2 / 4.0) / 2 + 10 * 3**2 / 2.0)
    torch.testing.assert_close(loss(moved, hidden=0.25, output=10.0), expected)


def test_a_term_without_weight_is_not_held() -> None:
    assert torch.equal(loss(student(a=2.0, output=3.0), hidden=1.0), loss(student(a=2.0, output=None), hidden=1.0))


def test_every_term_has_its_function() -> None:
    assert set(retention_terms("mse")) == set(TERMS)


@pytest.mark.parametrize("distance", ["mse", "l1"])
def test_half_precision_students_are_compared_in_float32(distance: str) -> None:
    """300² is beyond the range of float16."""
    teacher = torch.full((4, 1000), 100.0)
    moved = (teacher + 300).half()
    expected = {"mse": 300.0**2, "l1": 300.0}[distance]
    assert DISTANCES[distance](moved, teacher, UNIT).tolist() == pytest.approx([expected] * 4)


def test_the_gradient_is_that_of_the_closed_form() -> None:
    """d/ds mean((s − t)²)/v = 2 (s − t)/(n v), here for 12 numbers per anchor, in one of two layers."""
    moved = student(a=2.0)
    moved.hidden[A].requires_grad_()
    retention_loss(moved, TEACHER, VARIANCE, weights={"hidden": 3.0}, hidden_distance="mse").sum().backward()
    expected = (3.0 / 2 * 2 * 2.0 * MOVES / (12 * 4.0))[:, None, None].expand(2, 3, 4)
    torch.testing.assert_close(moved.hidden[A].grad, expected)


def test_an_output_that_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError, match="retention term 'output' needs the teacher's output"):
        loss(student(output=None), output=1.0)
    without = TEACHER._replace(output=None)
    with pytest.raises(KeyError, match="retention term 'output' needs the teacher's output"):
        retention_loss(student(), without, VARIANCE, weights={"output": 1.0}, hidden_distance="mse")


def test_hidden_features_that_are_missing_are_an_error() -> None:
    without = TEACHER._replace(hidden={})
    with pytest.raises(KeyError, match="retention term 'hidden' needs hidden features"):
        retention_loss(student(), without, VARIANCE, weights={"hidden": 1.0}, hidden_distance="mse")


def test_a_layer_the_student_lacks_is_an_error() -> None:
    with pytest.raises(KeyError, match="hidden/b/none"):
        loss(Features({A: TEACHER.hidden[A]}, None), hidden=1.0)
