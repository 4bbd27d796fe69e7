"""Anchor batches: permutations, shares, and the same answer every time."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from craft_trainer.anchors.sampling import anchor_rows, proportional_rows

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


def shared_counts(shares: dict[str, float], batch_size: int, *, seed: int = 0, draw: int = 0) -> Counter[str]:
    return Counter(GROUPS[row] for row in proportional_rows(GROUPS, shares, batch_size, seed=seed, draw=draw))


def test_shares_decide_what_one_anchor_of_each_group_leaves() -> None:
    """Of 23 anchors 3 are for the groups to be present; 20 are shared 3 : 1 : 0."""
    assert shared_counts({"push": 3.0, "open": 0.0, "close": 1.0}, 23) == {"push": 16, "open": 1, "close": 6}


def test_what_cannot_be_divided_goes_to_the_largest_remainders() -> None:
    """7 shared 0.5 : 0.3 : 0.2 is 3.5, 2.1, 1.4. Seen to fail with the smallest remainders."""
    assert shared_counts({"push": 5, "close": 3, "open": 2}, 10) == {"push": 1 + 4, "close": 1 + 2, "open": 1 + 1}


SHARES = st.lists(st.floats(0, 1e6), min_size=1, max_size=6)


@given(SHARES, st.integers(1, 60), st.integers(0, 1000))
def test_counts_are_within_one_of_their_ideal(shares: list[float], batch_size: int, draw: int) -> None:
    """Every group is there, if the batch has room for all. Seen to fail without the one anchor for each."""
    groups = [f"g{index % len(shares)}" for index in range(7 * len(shares))]
    named = {f"g{index}": share for index, share in enumerate(shares)}
    rows = proportional_rows(groups, named, batch_size, seed=1, draw=draw)
    counts = Counter(groups[row] for row in rows)
    assert len(rows) == batch_size
    assert all(type(row) is int for row in rows)
    if batch_size < len(shares):
        assert set(counts.values()) == {1}
        assert min(named[group] for group in counts) >= max(named[group] for group in named if group not in counts)
        return
    total = sum(shares) or len(shares)
    weights = {group: (share if sum(shares) else 1.0) / total for group, share in named.items()}
    for group, weight in weights.items():
        assert abs(counts[group] - (1 + weight * (batch_size - len(shares)))) < 1 + 1e-9, (group, counts)


def test_no_shares_are_equal_shares() -> None:
    assert shared_counts({"push": 0, "open": 0, "close": 0}, 15) == {"push": 5, "open": 5, "close": 5}
    assert shared_counts({"push": -1, "open": 0, "close": 2}, 15) == {"push": 1, "open": 1, "close": 13}  # not below 0


def test_a_batch_without_room_for_all_takes_the_largest_shares_and_draws_lots_among_equals() -> None:
    assert shared_counts({"push": 1, "open": 3, "close": 2}, 2) == {"open": 1, "close": 1}
    alone = Counter(group for draw in range(300) for group in shared_counts(dict.fromkeys(GROUPS, 1.0), 1, draw=draw))
    assert all(abs(count - 100) < 4 * (300 * 2 / 9) ** 0.5 for count in alone.values())
    assert set(alone) == {"push", "open", "close"}


def test_a_group_with_too_few_anchors_repeats_them_and_another_does_not() -> None:
    rows = proportional_rows(GROUPS, {"push": 1, "open": 1, "close": 0}, 41, seed=0, draw=0)
    rows_of = {name: [row for row in rows if GROUPS[row] == name] for name in ("push", "open", "close")}
    assert {name: len(chosen) for name, chosen in rows_of.items()} == {"push": 20, "open": 20, "close": 1}
    assert len(set(rows_of["push"])) == 20
    assert set(rows_of["open"]) <= set(range(50, 57))


def test_a_proportional_draw_depends_on_its_arguments_alone() -> None:
    """Not on the order of the shares, nor on numpy's global state."""
    shares = {"push": 3.0, "open": 1.0, "close": 2.0}
    first = proportional_rows(GROUPS, shares, 20, seed=0, draw=4)
    np.random.seed(1)
    assert proportional_rows(GROUPS, dict(reversed(shares.items())), 20, seed=0, draw=4) == first
    assert proportional_rows(GROUPS, shares, 20, seed=1, draw=4) != first
    assert proportional_rows(GROUPS, shares, 20, seed=0, draw=5) != first


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_divide_one_proportional_draw(world_size: int) -> None:
    """Their slices, one after the other, are the draw of a single process with the batch of all.

    Seen to fail when every rank counted shares of its own batch.
    """
    shares = {"push": 3.0, "open": 1.0, "close": 2.0}
    for draw in range(4):
        parts = [
            proportional_rows(GROUPS, shares, 4, seed=2, draw=draw, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        assert {len(part) for part in parts} == {4}
        together = [row for part in parts for row in part]
        assert together == proportional_rows(GROUPS, shares, 4 * world_size, seed=2, draw=draw)
        assert len(set(together)) == 4 * world_size  # no group is so small that it repeats an anchor


def test_every_anchor_of_a_group_has_the_same_chance_in_a_proportional_draw() -> None:
    shares = {"a": 2.0, "b": 1.0}
    groups = ["a"] * 10 + ["b"] * 10
    counts = Counter(row for d in range(2000) for row in proportional_rows(groups, shares, 8, seed=0, draw=d))
    for start, drawn in ((0, 5), (10, 3)):
        deviation = (2000 * drawn / 10 * (1 - drawn / 10)) ** 0.5
        assert all(abs(counts[row] - 200 * drawn) < 4 * deviation for row in range(start, start + 10))
