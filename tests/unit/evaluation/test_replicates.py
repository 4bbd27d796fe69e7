"""Robust means, bootstrap over seeds, paired differences: by hand, and against what is known of their distribution."""

import itertools

import numpy as np
import pytest
from scipy import stats

from craft_trainer.evaluation.replicates import paired_differences, stratified_interval, trimmed_mean


def test_the_middle_half_is_averaged():
    assert trimmed_mean(np.array([[0.0, 0.4], [0.6, 1.0]])) == pytest.approx(0.5)
    assert trimmed_mean(np.array([0.0, 0.0, 0.2, 0.3, 0.4, 0.5, 1.0, 1.0])) == pytest.approx(0.35)


def test_the_interval_covers_in_about_95_of_100_draws():
    generator = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        strata = [generator.normal(centre, 0.1, size=(20, 2)) for centre in (0.45, 0.55)]
        low, high = stratified_interval(strata, num_resamples=300, seed=seed)
        covered += low <= 0.5 <= high
    assert 178 <= covered <= 199


def test_all_tasks_of_a_seed_are_drawn_together():
    """The sum of two opposed tasks is the same for every seed. Drawn apart, the interval would have a width."""
    opposed = np.array([[0.0, 1.0], [1.0, 0.0], [0.2, 0.8], [0.8, 0.2]])
    middles = [trimmed_mean(opposed[list(rows)]) for rows in itertools.product(range(4), repeat=4)]
    assert middles == pytest.approx([0.5] * 4**4)
    assert stratified_interval([opposed]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_the_interval_is_the_same_every_time_and_strata_stay_whole():
    strata = [np.zeros((3, 2)), np.ones((3, 2))]
    assert stratified_interval(strata) == stratified_interval(strata) == (0.5, 0.5)  # never three of one stream
    with pytest.raises(ValueError, match="none empty"):
        stratified_interval([np.zeros((0, 2))])
    with pytest.raises(ValueError, match="none empty"):
        stratified_interval([])


def test_paired_differences_have_the_t_interval_and_the_exact_p():
    mine, rival = [0.9, 0.8, 1.0, 0.7, 0.95], [0.5, 0.6, 0.7, 0.8, 0.5]
    found = paired_differences({"views − replay": (mine, rival)})["views − replay"]
    oracle = stats.ttest_rel(mine, rival).confidence_interval()
    assert found.mean == pytest.approx(0.25)
    assert found.interval == pytest.approx((oracle.low, oracle.high))
    differences = np.subtract(mine, rival)
    flipped = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=5)]
    assert found.p == pytest.approx(np.mean([value >= abs(differences.sum()) - 1e-12 for value in flipped]))


def test_several_comparisons_are_corrected_together():
    """Holm by hand: with p of 2/32 and 2/16 the smaller is doubled, and the other is not below it."""
    clear = ([0.1, 0.2, 0.3, 0.4, 0.5], [0.0] * 5)
    other = ([0.1, 0.2, 0.3, 0.4], [0.0] * 4)
    alone = paired_differences({"clear": clear})["clear"].p
    both = paired_differences({"clear": clear, "other": other})
    assert alone == pytest.approx(2 / 32)
    assert (both["clear"].p, both["other"].p) == (pytest.approx(4 / 32), pytest.approx(2 / 16))
    assert paired_differences({}) == {}


def test_pairs_that_are_equal_leave_the_test_exact():
    """Seen to fail: beyond 14 pairs flips were drawn, though the six that differ have 2⁶ signs."""
    mine = [1.0, 0.9, 1.0, 0.8, 1.0, 0.7, *14 * [1.0]]
    theirs = [0.9, 0.7, 0.6, 0.7, 0.9, 0.6, *14 * [1.0]]
    found = paired_differences({"views": (mine, theirs)})["views"]
    assert (found.num_pairs, found.p) == (20, pytest.approx(2 / 64))


def test_equal_runs_differ_by_nothing_and_one_pair_has_no_interval():
    found = paired_differences({"same": ([1.0, 1.0], [1.0, 1.0]), "one": ([1.0], [0.0])})
    assert (found["same"].mean, found["same"].interval, found["same"].p) == (0.0, (0.0, 0.0), 1.0)
    assert (found["one"].interval, found["one"].p) == (None, 1.0)
    with pytest.raises(ValueError, match="2 runs beside 1"):
        paired_differences({"apart": ([1.0, 0.0], [1.0])})
