"""Distances of hidden features, anchor by anchor, in closed form."""

import math

import pytest
import torch

from craft_trainer.anchors.features import Features
from craft_trainer.losses.hidden import DISTANCES, Hidden, cosine, l1, mse

A, B = "hidden/a/none", "hidden/b/none"
VARIANCE = {A: torch.tensor(4.0), B: torch.tensor(0.5)}
TEACHER = Features({A: torch.full((2, 3, 4), -1.0), B: torch.ones(2, 5)}, None)
MOVES = torch.tensor([1.0, 3.0])  # how far each of the two anchors is moved
UNIT = torch.tensor(1.0)


def student(*, a: float = 0.0, b: float = 0.0) -> Features:
    """The teacher, moved by a constant in every number; thrice as far for the second anchor."""
    return Features({A: TEACHER.hidden[A] + a * MOVES[:, None, None], B: TEACHER.hidden[B] + b * MOVES[:, None]}, None)


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


@pytest.mark.parametrize("distance", ["mse", "l1"])
def test_half_precision_students_are_compared_in_float32(distance: str) -> None:
    """300² is beyond the range of float16."""
    teacher = torch.full((4, 1000), 100.0)
    moved = (teacher + 300).half()
    expected = {"mse": 300.0**2, "l1": 300.0}[distance]
    assert DISTANCES[distance](moved, teacher, UNIT).tolist() == pytest.approx([expected] * 4)


def test_hidden_is_the_mean_over_layers_each_in_its_own_variance() -> None:
    expected = MOVES**2 * (2**2 / 4.0 + 3**2 / 0.5) / 2
    torch.testing.assert_close(Hidden()(student(a=2.0, b=3.0), TEACHER, VARIANCE), expected)


def test_the_gradient_is_that_of_the_closed_form() -> None:
    """d/ds mean((s − t)²)/v = 2 (s − t)/(n v), here for 12 numbers per anchor, in one of two layers."""
    moved = student(a=2.0)
    moved.hidden[A].requires_grad_()
    Hidden()(moved, TEACHER, VARIANCE).sum().backward()
    expected = (1 / 2 * 2 * 2.0 * MOVES / (12 * 4.0))[:, None, None].expand(2, 3, 4)
    torch.testing.assert_close(moved.hidden[A].grad, expected)


def test_a_layer_the_student_lacks_is_an_error() -> None:
    with pytest.raises(KeyError, match="hidden/b/none"):
        Hidden()(Features({A: TEACHER.hidden[A]}, None), TEACHER, VARIANCE)
