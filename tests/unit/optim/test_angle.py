"""The cosine of what the optimizer did and g_retain, against float64 numpy; sampled for what is larger than 2¹⁶."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from craft_trainer.optim.angle import UpdateAngle

SHAPES = [(3, 4), (5,), (), (2, 3, 2)]


def make(shapes: Sequence[tuple[int, ...]], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def flat(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.concatenate([tensor.detach().double().numpy().ravel() for tensor in tensors])


def measure(parameters: Sequence[nn.Parameter], retain: Sequence[Tensor], update: Sequence[Tensor]) -> float:
    """The angle's cosine around the step ``parameters += update``."""
    angle = UpdateAngle(parameters)
    for index, gradient in enumerate(retain):
        angle.keep(index, gradient)
    with torch.no_grad():
        for parameter, change in zip(parameters, update, strict=True):
            parameter.add_(change)
    return angle.cosine()


def exact(update: Sequence[Tensor], retain: Sequence[Tensor]) -> float:
    moved, gradient = flat(update), flat(retain)
    return float(moved @ gradient / np.linalg.norm(moved) / np.linalg.norm(gradient))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_cosine_of_the_flattened_vectors(seed: int) -> None:
    """Fails when the parameters' cosines are averaged, and when Δθ is the parameters rather than their change."""
    parameters = [nn.Parameter(tensor) for tensor in make(SHAPES, seed)]
    retain, update = make(SHAPES, seed + 10), make(SHAPES, seed + 20)
    assert measure(parameters, retain, update) == pytest.approx(exact(update, retain), abs=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_positive_means_that_the_step_raises_the_retention_loss(scale: float) -> None:
    """L_retain itself says so: its change after a small step along ±g_r. Fails for θ_before − θ_after."""
    weight = torch.tensor([2.0, -1.0, 0.5])
    for sign in (1.0, -1.0):
        parameter = nn.Parameter(torch.tensor([0.3, 0.2, -0.1]))
        before = scale * (weight @ parameter)
        before.backward()
        cosine = measure([parameter], [parameter.grad], [sign * 1e-3 * weight])
        rose = (scale * (weight @ parameter) - before).item()
        assert np.sign(rose) == sign
        assert cosine == pytest.approx(sign, abs=1e-4)


@pytest.mark.parametrize("similarity", [-0.7, 0.0, 0.2, 1.0])
def test_large_models_are_sampled(similarity: float) -> None:
    """2²⁰ + 2053 numbers in four tensors of which no part stands for the rest.

    Fails when the first numbers of every tensor are compared, and when one tensor is.
    """
    shapes = [(1024, 512), (2048,), (5,), (512, 1024)]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    retain, noise = make(shapes, 0), make(shapes, 1)
    update = [similarity * g + (1 - similarity**2) ** 0.5 * n for g, n in zip(retain, noise, strict=True)]
    update[0][512:] *= -0.2
    update[3][:, :512] *= 0.5
    assert measure(parameters, retain, update) == pytest.approx(exact(update, retain), abs=0.01)


@pytest.mark.parametrize("shape", [(1024, 1280), (1000, 1100), (2048, 384)])
def test_one_outlying_column_is_not_missed(shape: tuple[int, int]) -> None:
    """Fails with a stride that is odd but shares a factor with the row length: it walks through few columns only."""
    retain, update = make([shape, (7, shape[1])], 0), make([shape, (7, shape[1])], 1)
    retain[0][:, 1] *= 30
    update[0][:, 1] = -10 * retain[0][:, 1]
    parameters = [nn.Parameter(torch.zeros_like(tensor)) for tensor in retain]
    assert measure(parameters, retain, update) == pytest.approx(exact(update, retain), abs=0.15)


def test_small_parameters_count_by_their_size() -> None:
    """Fails when every tensor is sampled from its own start: a bias of two numbers would count like hundreds."""
    shapes = [(1000, 1000)] * 4 + [(2,)] * 60
    retain, update = make(shapes, 0), make(shapes, 1)
    for index in range(4, 64):
        retain[index] *= 1000
        update[index] = -0.1 * retain[index]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    difference = measure(parameters, retain, update) - exact(update, retain)
    assert abs(difference) < 0.25  # of 120 numbers eight are sampled


def test_parameters_that_retention_does_not_reach_are_part_of_the_step() -> None:
    """Fails with |Δθ| taken over the parameters with a retention gradient only."""
    trunk, head = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    angle = UpdateAngle([trunk, head])
    angle.keep(0, torch.tensor([1.0, 0.0]))
    with torch.no_grad():
        trunk += torch.tensor([3.0, 0.0])
        head += torch.tensor([0.0, 4.0])
    assert angle.cosine() == pytest.approx(0.6)


def test_a_sample_of_a_large_model_takes_half_a_megabyte() -> None:
    """Two copies of at most 2¹⁶ numbers; fails when what is kept is a view, which keeps the gradient alive."""
    parameter = nn.Parameter(torch.zeros(2**21 + 1))
    angle = UpdateAngle([parameter])
    angle.keep(0, torch.ones_like(parameter))
    kept = (angle._before, *angle._retain.values())
    assert len(kept) == 2
    assert sum(sample.untyped_storage().nbytes() for sample in kept) <= 2**19


def test_the_gradient_may_change_after_it_was_kept() -> None:
    """Merging reuses its memory. Fails when the sample is a view."""
    parameter, gradient = nn.Parameter(torch.zeros(3)), torch.tensor([1.0, 0.0, 0.0])
    angle = UpdateAngle([parameter])
    angle.keep(0, gradient)
    gradient.copy_(torch.tensor([0.0, 7.0, 0.0]))
    with torch.no_grad():
        parameter += torch.tensor([2.0, 0.0, 0.0])
    assert angle.cosine() == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype: torch.dtype) -> None:
    """Inner products of float16 would be infinite."""
    parameter = nn.Parameter(torch.zeros(100, dtype=dtype))
    gradient = torch.full((100,), 300.0, dtype=dtype)
    assert measure([parameter], [gradient], [-gradient]) == pytest.approx(-1.0)


def test_it_is_zero_when_nothing_moved() -> None:
    parameters = [nn.Parameter(tensor) for tensor in make(SHAPES, 0)]
    assert measure(parameters, make(SHAPES, 1), [torch.zeros(shape) for shape in SHAPES]) == 0.0


def test_it_is_zero_when_the_retention_gradient_is() -> None:
    parameters = [nn.Parameter(tensor) for tensor in make(SHAPES, 0)]
    assert measure(parameters, [torch.zeros(shape) for shape in SHAPES], make(SHAPES, 1)) == 0.0


def test_it_is_zero_when_nothing_was_kept_and_again_after_it_was_read() -> None:
    """A retention pass that is not made leaves nothing of the one before."""
    parameter = nn.Parameter(torch.ones(3))
    angle = UpdateAngle([parameter])
    assert angle.cosine() == 0.0
    angle.keep(0, torch.ones(3))
    with torch.no_grad():
        parameter += 1.0
    assert angle.cosine() == pytest.approx(1.0)
    assert angle.cosine() == 0.0
