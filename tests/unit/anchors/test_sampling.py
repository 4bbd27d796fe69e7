"""Anchor batches: permutations, shares, and the same answer every time."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from craft_trainer.anchors.sampling import anchor_rows

GROUPS = ["push"] * 50 + ["open"] * 7 + ["close"] * 20


def sequence(num_anchors: int, batch_size: int, num_rows: int, *, seed: int = 0) -> list[int]:
    """The rows of consecutive draws, at least ``num_rows``."""
    draws = range(-(-num_rows // batch_size))
    return [row for draw in draws for row in anchor_rows(num_anchors, batch_size, seed=seed, draw=draw)]


@pytest.mark.parametrize(("num_anchors", "batch_size"), [(12, 4), (12, 5), (12, 6), (7, 6)])
def test_every_epoch_is_a_permutation(num_anchors: int, batch_size: int) -> None:
    rows = sequence(num_anchors, batch_size, 4 * num_anchors)
    for epoch in range(4):
        assert sorted(rows[epoch * num_anchors : (epoch + 1) * num_anchors]) == list(range(num_anchors))


def test_epochs_are_in_different_orders() -> None:
    rows = sequence(30, 30, 90)
    assert len({tuple(rows[start : start + 30]) for start in (0, 30, 60)}) == 3


def test_two_batches_are_one_of_twice_the_size() -> None:
    """So that two processes, each with half of a batch, see what one sees."""
    for draw in range(6):
        whole = anchor_rows(13, 8, seed=1, draw=draw)
        halves = [anchor_rows(13, 4, seed=1, draw=2 * draw + half) for half in range(2)]
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
