"""Gradients are moved, not copied; inner products per block and sums agree with flattened float64 vectors."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from craft_trainer.optim.gradients import combine, gramians, put, take

SHAPES = [(3, 4), (5,), (), (2, 3, 2), (1,)]
WHOLE = [list(range(len(SHAPES)))]
PARTITIONS = [WHOLE, [[0], [1], [2], [3], [4]], [[3, 0], [4, 2, 1]], [[1, 4], [0], [2, 3]]]


def make_parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]


def make_gradients(seed: int, missing: Sequence[int] = (), dtype: torch.dtype = torch.float32) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    return [None if index in missing else value for index, value in enumerate(values)]


def flat(gradients: Sequence[Tensor | None], indices: Sequence[int] = WHOLE[0]) -> np.ndarray:
    """The gradients of ``indices`` as one float64 vector; a missing one is a block of zeros."""
    blocks = [
        np.zeros(int(np.prod(SHAPES[index]))) if gradients[index] is None else gradients[index].double().numpy().ravel()
        for index in indices
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


@pytest.mark.parametrize("blocks", PARTITIONS, ids=str)
@pytest.mark.parametrize(
    ("task_missing", "retain_missing"),
    [([], []), ([0], []), ([], [3, 4]), ([1, 2], [2, 3]), ([0, 1, 2, 3, 4], []), ([], [0, 1, 2, 3, 4])],
)
def test_gramians_are_those_of_the_flattened_vectors_of_every_block(
    task_missing: list[int], retain_missing: list[int], blocks: list[list[int]]
) -> None:
    """Fails when blocks are taken to be contiguous, when t·t and r·r change places, and when one t·r is left out."""
    task, retain = make_gradients(2, task_missing), make_gradients(3, retain_missing)
    grams = gramians(task, retain, blocks)
    assert grams.dtype == torch.float64
    assert grams.shape == (len(blocks), 2, 2)
    for block, gram in zip(blocks, grams, strict=True):
        t, r = flat(task, block), flat(retain, block)
        np.testing.assert_allclose(gram.numpy(), [[t @ t, t @ r], [t @ r, r @ r]], rtol=1e-6, atol=1e-9)


@given(st.lists(st.integers(0, 3), min_size=len(SHAPES), max_size=len(SHAPES)))
def test_gramians_of_blocks_add_up_to_that_of_the_whole(numbers: list[int]) -> None:
    """Any partition, also with blocks of nothing."""
    task, retain = make_gradients(2, missing=[1]), make_gradients(3, missing=[2])
    blocks = [[index for index, number in enumerate(numbers) if number == block] for block in range(4)]
    total = gramians(task, retain, blocks).sum(dim=0)
    torch.testing.assert_close(total, gramians(task, retain, WHOLE)[0], rtol=1e-12, atol=1e-12)


def test_gramians_of_no_parameters_are_none() -> None:
    """As when every block was merged before the end."""
    assert gramians([], [], []).shape == (0, 2, 2)


def test_gramian_of_disjoint_parameters_is_diagonal() -> None:
    (gram,) = gramians(make_gradients(2, missing=[0, 1, 2]), make_gradients(3, missing=[3, 4]), WHOLE)
    assert gram[0, 1] == gram[1, 0] == 0
    assert (gram.diagonal() > 0).all()


def test_gramian_without_any_gradient_is_zero() -> None:
    nothing = make_gradients(0, missing=range(len(SHAPES)))
    assert torch.equal(gramians(nothing, nothing, WHOLE), torch.zeros(1, 2, 2, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gramian_of_half_precision_neither_overflows_nor_rounds(dtype: torch.dtype) -> None:
    """A float16 inner product of these would be infinite: 300² · 5 > 65504."""
    task = [300 * g for g in make_gradients(4, dtype=dtype)]
    retain = make_gradients(5, dtype=dtype)
    t, r = flat(task), flat(retain)
    expected = [[[t @ t, t @ r], [t @ r, r @ r]]]
    np.testing.assert_allclose(gramians(task, retain, WHOLE).numpy(), expected, rtol=1e-5)


def test_many_parameters_are_summed_in_float64() -> None:
    """2000 squares of 1 beside one of 2²⁴ are lost one by one in float32."""
    task = [torch.tensor([4096.0]), *(torch.ones(1) for _ in range(2000))]
    (gram,) = gramians(task, task, [list(range(len(task)))])
    assert gram[0, 0] == 4096**2 + 2000


def test_gramians_leave_the_gradients_alone() -> None:
    task, retain = make_gradients(6), make_gradients(7, missing=[1])
    before = flat(task).tolist(), flat(retain).tolist()
    gramians(task, retain, WHOLE)
    assert (flat(task).tolist(), flat(retain).tolist()) == before


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_only_the_gramian_of_the_block_with_a_gradient_that_is_not_finite_is_not(value: float) -> None:
    """1e30 is finite but its square is not."""
    task = make_gradients(8)
    task[0][1, 2] = value
    grams = gramians(task, make_gradients(9), [[1, 2], [0], [3, 4]])
    assert grams.isfinite().all(dim=(1, 2)).tolist() == [True, False, True]


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


def test_a_gradient_of_weight_zero_alone_is_none() -> None:
    """Seen to fail: the optimizer decayed by it a parameter that plain training leaves alone."""
    merged = combine(make_gradients(12, missing=[0, 2]), make_gradients(13, missing=[1, 2]), 1.0, 0.0)
    assert [gradient is None for gradient in merged] == [True, False, True, False, False]


def test_combine_reuses_the_memory_of_its_first_operand() -> None:
    task, retain = make_gradients(14, missing=[0]), make_gradients(15)
    merged = combine(task, retain, 1.0, 0.5)
    first = [retain[0], *task[1:]]
    assert [g.data_ptr() for g in merged] == [g.data_ptr() for g in first]


def test_combine_with_unit_and_zero_weight_is_the_task_gradient_bit_for_bit() -> None:
    task = make_gradients(16)
    merged = combine(clone(task), make_gradients(17), 1.0, 0.0)
    assert all(torch.equal(m, t) for m, t in zip(merged, task, strict=True))
