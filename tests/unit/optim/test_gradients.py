"""Gradients are moved, not copied; inner products and sums agree with flattened float64 vectors."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from craft_trainer.optim.gradients import combine, gramian, put, take

SHAPES = [(3, 4), (5,), (), (2, 3, 2), (1,)]


def make_parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]


def make_gradients(seed: int, missing: Sequence[int] = (), dtype: torch.dtype = torch.float32) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    return [None if index in missing else value for index, value in enumerate(values)]


def flat(gradients: Sequence[Tensor | None]) -> np.ndarray:
    """All gradients as one float64 vector; a missing one is a block of zeros."""
    blocks = [
        np.zeros(int(np.prod(shape))) if gradient is None else gradient.double().numpy().reshape(-1)
        for shape, gradient in zip(SHAPES, gradients, strict=True)
    ]
    return np.concatenate(blocks)


def clone(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if gradient is None else gradient.clone() for gradient in gradients]


def test_take_moves_every_gradient_out_without_a_copy() -> None:
    parameters = make_parameters()
    given = make_gradients(0, missing=[1])
    for parameter, gradient in zip(parameters, given, strict=True):
        parameter.grad = gradient
    taken = take(parameters)
    assert all(parameter.grad is None for parameter in parameters)
    assert [None if g is None else g.data_ptr() for g in taken] == [None if g is None else g.data_ptr() for g in given]


def test_put_undoes_take() -> None:
    parameters = make_parameters()
    given = make_gradients(1, missing=[0, 4])
    put(parameters, given)
    put(parameters, take(parameters))
    for parameter, gradient in zip(parameters, given, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            assert parameter.grad.data_ptr() == gradient.data_ptr()


def test_a_backward_after_take_does_not_reach_what_was_taken() -> None:
    parameter = nn.Parameter(torch.tensor([2.0, 3.0]))
    (parameter**2).sum().backward()
    (first,) = take([parameter])
    (7 * parameter).sum().backward()
    (second,) = take([parameter])
    assert first.tolist() == [4.0, 6.0]
    assert second.tolist() == [7.0, 7.0]


def test_put_refuses_another_number_of_gradients() -> None:
    with pytest.raises(ValueError, match="zip"):
        put(make_parameters(), make_gradients(0)[:-1])


@pytest.mark.parametrize(
    ("task_missing", "retain_missing"),
    [([], []), ([0], []), ([], [3, 4]), ([1, 2], [2, 3]), ([0, 1, 2, 3, 4], []), ([], [0, 1, 2, 3, 4])],
)
def test_gramian_is_that_of_the_flattened_vectors(task_missing: list[int], retain_missing: list[int]) -> None:
    task, retain = make_gradients(2, task_missing), make_gradients(3, retain_missing)
    t, r = flat(task), flat(retain)
    gram = gramian(task, retain)
    assert gram.dtype == torch.float64
    np.testing.assert_allclose(gram.numpy(), [[t @ t, t @ r], [t @ r, r @ r]], rtol=1e-6, atol=1e-9)


def test_gramian_of_disjoint_parameters_is_diagonal() -> None:
    task, retain = make_gradients(2, missing=[0, 1, 2]), make_gradients(3, missing=[3, 4])
    gram = gramian(task, retain)
    assert gram[0, 1] == gram[1, 0] == 0
    assert (gram.diagonal() > 0).all()


def test_gramian_without_any_gradient_is_zero() -> None:
    nothing = make_gradients(0, missing=range(len(SHAPES)))
    assert torch.equal(gramian(nothing, nothing), torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gramian_of_half_precision_neither_overflows_nor_rounds(dtype: torch.dtype) -> None:
    """A float16 inner product of these would be infinite: 300² · 5 > 65504."""
    task = [300 * g for g in make_gradients(4, dtype=dtype)]
    retain = make_gradients(5, dtype=dtype)
    t, r = flat(task), flat(retain)
    np.testing.assert_allclose(gramian(task, retain).numpy(), [[t @ t, t @ r], [t @ r, r @ r]], rtol=1e-5)


def test_gramian_leaves_the_gradients_alone() -> None:
    task, retain = make_gradients(6), make_gradients(7, missing=[1])
    before = flat(task).tolist(), flat(retain).tolist()
    gramian(task, retain)
    assert (flat(task).tolist(), flat(retain).tolist()) == before


def test_gramian_of_a_gradient_that_is_not_finite_is_not_finite() -> None:
    task = make_gradients(8)
    task[0][1, 2] = float("inf")
    assert not gramian(task, make_gradients(9)).isfinite().all()


@pytest.mark.parametrize(("task_weight", "retain_weight"), [(1.0, 0.7), (0.5, 0.5), (1.0, -2.5), (1.0, 0.0)])
@pytest.mark.parametrize(("task_missing", "retain_missing"), [([], []), ([0, 3], [1]), ([2], [2])])
def test_combine_is_the_weighted_sum_of_the_flattened_vectors(
    task_weight: float, retain_weight: float, task_missing: list[int], retain_missing: list[int]
) -> None:
    task, retain = make_gradients(10, task_missing), make_gradients(11, retain_missing)
    expected = task_weight * flat(task) + retain_weight * flat(retain)
    merged = combine(clone(task), clone(retain), task_weight, retain_weight)
    np.testing.assert_allclose(flat(merged), expected, rtol=1e-6, atol=1e-7)


def test_combine_keeps_none_only_where_neither_loss_has_a_gradient() -> None:
    merged = combine(make_gradients(12, missing=[0, 2]), make_gradients(13, missing=[1, 2]), 1.0, 0.5)
    assert [gradient is None for gradient in merged] == [False, False, True, False, False]


def test_combine_reuses_the_memory_of_its_first_operand() -> None:
    task, retain = make_gradients(14, missing=[0]), make_gradients(15)
    merged = combine(task, retain, 1.0, 0.5)
    first = [retain[0], *task[1:]]
    assert [g.data_ptr() for g in merged] == [g.data_ptr() for g in first]


def test_combine_with_unit_and_zero_weight_is_the_task_gradient_bit_for_bit() -> None:
    task = make_gradients(16)
    merged = combine(clone(task), make_gradients(17), 1.0, 0.0)
    assert all(torch.equal(m, t) for m, t in zip(merged, task, strict=True))
