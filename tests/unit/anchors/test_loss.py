"""Retention losses in closed form."""

import math

import pytest
import torch

from craft_trainer.anchors.features import Features
from craft_trainer.anchors.loss import cosine, mse, retention_loss

A, B = "hidden/a/none", "hidden/b/none"
VARIANCE = {A: torch.tensor(4.0), B: torch.tensor(0.5), "output": torch.tensor(2.0)}
TEACHER = Features({A: torch.zeros(2, 3, 4), B: torch.ones(2, 5)}, torch.zeros(2, 8, 4))


def student(*, a: float = 0.0, b: float = 0.0, output: float | None = 0.0) -> Features:
    """The teacher, moved by a constant in every number."""
    moved = None if output is None else TEACHER.output + output
    return Features({A: TEACHER.hidden[A] + a, B: TEACHER.hidden[B] + b}, moved)


def loss(moved: Features, distance: str = "mse", **weights: float) -> float:
    return retention_loss(moved, TEACHER, VARIANCE, weights=weights, hidden_distance=distance).item()


def test_mse_is_a_fraction_of_the_variance() -> None:
    teacher = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    moved = teacher + torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    assert mse(moved, teacher, torch.tensor(3.0)).item() == pytest.approx((1 + 1 + 4 + 0) / 4 / 3)


def test_predicting_the_teachers_mean_costs_one() -> None:
    """What the unit means: a student that knows only the mean misses all of the variance."""
    teacher = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1.0, 10.0])
    variance = teacher.var(dim=0, correction=0).mean()
    assert mse(teacher.mean(dim=0).expand_as(teacher), teacher, variance).item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("angle", [0.0, math.pi / 3, math.pi / 2, math.pi])
def test_cosine_of_an_angle(angle: float) -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    moved = 7 * teacher @ turn  # the length does not matter
    assert cosine(moved, teacher, torch.tensor(123.0)).item() == pytest.approx(1 - math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_the_teacher_itself_loses_nothing(distance: str) -> None:
    teacher = Features({A: torch.randn(2, 3, 4), B: torch.randn(2, 5)}, torch.randn(2, 8, 4))
    value = retention_loss(teacher, teacher, VARIANCE, weights={"hidden": 1, "output": 1}, hidden_distance=distance)
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_hidden_is_the_mean_over_layers_each_in_its_own_variance() -> None:
    assert loss(student(a=2.0, b=3.0), hidden=1.0) == pytest.approx((2**2 / 4.0 + 3**2 / 0.5) / 2)


def test_output_is_in_units_of_its_variance_whatever_the_hidden_distance() -> None:
    moved = student(output=3.0)
    assert loss(moved, output=1.0) == loss(moved, "cosine", output=1.0) == pytest.approx(3**2 / 2.0)


def test_terms_are_weighted_and_summed() -> None:
    moved = student(a=2.0, output=3.0)
    assert loss(moved, hidden=0.25, output=10.0) == pytest.approx(0.25 * (2**2 / 4.0) / 2 + 10 * 3**2 / 2.0)


def test_a_term_without_weight_is_not_held() -> None:
    assert loss(student(a=2.0, output=3.0), hidden=1.0) == loss(student(a=2.0, output=None), hidden=1.0)


def test_half_precision_students_are_compared_in_float32() -> None:
    teacher = torch.full((4, 1000), 100.0)
    moved = (teacher + 8).half()
    assert mse(moved, teacher, torch.tensor(1.0)).item() == pytest.approx(64.0)


def test_the_gradient_is_that_of_the_closed_form() -> None:
    """d/ds mean((s − t)²)/v = 2 (s − t)/(n v), here for a layer of 24 numbers, one of two layers."""
    moved = student(a=2.0)
    moved.hidden[A].requires_grad_()
    retention_loss(moved, TEACHER, VARIANCE, weights={"hidden": 3.0}, hidden_distance="mse").backward()
    torch.testing.assert_close(moved.hidden[A].grad, torch.full((2, 3, 4), 3.0 / 2 * 2 * 2.0 / (24 * 4.0)))


def test_an_output_that_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError, match="needs the teacher's output"):
        loss(student(output=None), output=1.0)
    without = TEACHER._replace(output=None)
    with pytest.raises(KeyError, match="needs the teacher's output"):
        retention_loss(student(), without, VARIANCE, weights={"output": 1.0}, hidden_distance="mse")


def test_a_layer_the_student_lacks_is_an_error() -> None:
    with pytest.raises(KeyError, match="hidden/b/none"):
        loss(Features({A: TEACHER.hidden[A]}, None), hidden=1.0)
