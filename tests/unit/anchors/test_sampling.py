"""Anchor batches and anchor choice: permutations, strata, and the same answer every time."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from craft_trainer.anchors.sampling import anchor_rows, stratified_rows

GROUPS = ["push"] * 50 + ["open"] * 7 + ["close"] * 20


def sequence(num_anchors: int, batch_size: int, num_rows: int, *, world_size: int = 1, seed: int = 0) -> list[int]:
    """The rows all ranks see, in the order of draws and ranks."""
    rows: list[int] = []
    for draw in range(-(-num_rows // (batch_size * world_size))):
        for rank in range(world_size):
            rows += anchor_rows(num_anchors, batch_size, seed=seed, draw=draw, rank=rank, world_size=world_size)
    return rows


@pytest.mark.parametrize(("num_anchors", "batch_size", "world_size"), [(12, 4, 1), (12, 5, 1), (12, 2, 3), (7, 3, 2)])
def test_every_epoch_is_a_permutation(num_anchors: int, batch_size: int, world_size: int) -> None:
    rows = sequence(num_anchors, batch_size, 4 * num_anchors, world_size=world_size)
    for epoch in range(4):
        assert sorted(rows[epoch * num_anchors : (epoch + 1) * num_anchors]) == list(range(num_anchors))


def test_epochs_are_in_different_orders() -> None:
    rows = sequence(30, 30, 90)
    assert len({tuple(rows[start : start + 30]) for start in (0, 30, 60)}) == 3


def test_ranks_share_no_row_within_an_epoch() -> None:
    """Twelve ranks of eight rows are two draws of an epoch of 192."""
    for epoch in range(3):
        draws = [(2 * epoch + half, rank) for half in range(2) for rank in range(12)]
        seen = [anchor_rows(192, 8, seed=3, draw=draw, rank=rank, world_size=12) for draw, rank in draws]
        assert set().union(*seen) == set(range(192))


def test_two_ranks_see_what_one_process_with_twice_the_batch_sees() -> None:
    for draw in range(6):
        whole = anchor_rows(13, 8, seed=1, draw=draw)
        halves = [anchor_rows(13, 4, seed=1, draw=draw, rank=rank, world_size=2) for rank in range(2)]
        assert halves[0] + halves[1] == whole


def test_a_batch_larger_than_the_set_repeats_it_evenly() -> None:
    counts = Counter(anchor_rows(5, 13, seed=0, draw=0))
    assert set(counts) == set(range(5))
    assert set(counts.values()) <= {2, 3}


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31), st.integers(0, 10_000))
def test_rows_depend_on_the_arguments_alone(num_anchors: int, batch_size: int, seed: int, draw: int) -> None:
    np.random.seed(draw)  # the global state must not matter
    first = anchor_rows(num_anchors, batch_size, seed=seed, draw=draw)
    for other in range(6):  # past the size of the cache of permutations
        anchor_rows(num_anchors, batch_size, seed=seed + 1, draw=draw + other)
    assert anchor_rows(num_anchors, batch_size, seed=seed, draw=draw) == first
    assert len(first) == batch_size
    assert set(first) <= set(range(num_anchors))
    assert all(type(row) is int for row in first)


def test_another_seed_is_another_order() -> None:
    assert anchor_rows(50, 50, seed=0, draw=0) != anchor_rows(50, 50, seed=1, draw=0)


@pytest.mark.parametrize("num_rows", [3, 6, 21])
def test_groups_are_equally_represented(num_rows: int) -> None:
    chosen = stratified_rows(GROUPS, num_rows, seed=0)
    assert set(Counter(GROUPS[row] for row in chosen).values()) == {num_rows // 3}


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [(41, {"open": 7, "close": 17, "push": 17}), (57, {"open": 7, "close": 20, "push": 30}), (77, Counter(GROUPS))],
)
def test_a_small_group_is_taken_whole_and_the_rest_shared(num_rows: int, expected: dict[str, int]) -> None:
    assert Counter(GROUPS[row] for row in stratified_rows(GROUPS, num_rows, seed=0)) == expected


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.data())
def test_counts_differ_by_one_at_most_unless_a_group_is_used_up(groups: list[str], data: st.DataObject) -> None:
    num_rows = data.draw(st.integers(0, len(groups)))
    chosen = stratified_rows(groups, num_rows, seed=0)
    assert len(set(chosen)) == num_rows
    assert chosen == sorted(chosen)
    taken, available = Counter(groups[row] for row in chosen), Counter(groups)
    most = max(taken.values(), default=0)
    assert all(taken[group] >= most - 1 or taken[group] == available[group] for group in available)


def test_the_choice_is_deterministic_and_depends_on_the_seed() -> None:
    assert stratified_rows(GROUPS, 30, seed=4) == stratified_rows(GROUPS, 30, seed=4)
    assert stratified_rows(GROUPS, 30, seed=4) != stratified_rows(GROUPS, 30, seed=5)


def test_every_row_of_a_group_has_the_same_chance() -> None:
    counts = Counter(row for seed in range(2000) for row in stratified_rows(["a"] * 10, 3, seed=seed))
    deviation = (2000 * 0.3 * 0.7) ** 0.5  # of a binomial count with mean 600
    assert all(abs(counts[row] - 600) < 4 * deviation for row in range(10))


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="78 anchors asked of 77 samples"):
        stratified_rows(GROUPS, 78, seed=0)
