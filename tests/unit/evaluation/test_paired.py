"""Two models on the same items: against exact enumeration, statsmodels, scipy and cases worked out by hand."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

stats = pytest.importorskip("scipy.stats", reason="pip install 'craft-trainer[mcq]': the statistics are scipy's")
pytest.importorskip("statsmodels", reason="pip install 'craft-trainer[mcq]': the McNemar test is statsmodels'")

from craft_trainer.evaluation.metrics.mcq_comparison.intervals import (  # noqa: E402
    items_needed,
    mcnemar_p,
    mean_interval,
)
from craft_trainer.evaluation.metrics.mcq_comparison.paired import (  # noqa: E402
    VERDICTS,
    accuracy_verdict,
    compare,
    conclude,
    margin_verdict,
)


def models(num_lost, num_won, num_items, shift=0.0, noise=1.0, seed=0):
    """Correctness with that many flips, and margins of the second model that are ``shift`` nats higher."""
    first = np.arange(num_items) % 2 == 0
    second = first.copy()
    second[np.flatnonzero(first)[:num_lost]] = False
    second[np.flatnonzero(~first)[:num_won]] = True
    generator = np.random.default_rng(seed)
    margins = generator.normal(0, 3, num_items)
    changes = shift + noise * generator.normal(0, 1, num_items)
    return {"correct1": first, "correct2": second, "margins1": margins, "margins2": margins + changes}


def compared(*arguments, **options):
    return compare(**models(*arguments, **options), num_resamples=999)


@pytest.mark.parametrize(("lost", "won"), [(0, 1), (5, 0), (6, 0), (13, 4), (4, 13), (7, 7), (30, 61)])
def test_mcnemar_is_the_exact_binomial_test(lost, won):
    assert mcnemar_p(lost, won) == pytest.approx(stats.binomtest(lost, lost + won, 0.5).pvalue, rel=1e-9)


def test_mcnemar_without_changes_is_one():
    assert mcnemar_p(0, 0) == 1.0


def test_the_counts_and_flips_are_those_of_a_loop():
    correct1, correct2 = [True, True, False, False, True], [True, False, True, False, False]
    numbers = compare(correct1, correct2, margins1=[1, 2, -1, -1, 3], margins2=[1, -2, 1, -1, -2], ids=list("abcde"))
    assert (numbers.right_to_wrong, numbers.wrong_to_right) == (["b", "e"], ["c"])
    assert (numbers.num_right_to_wrong, numbers.num_wrong_to_right, numbers.num_items) == (2, 1, 5)
    assert (numbers.accuracy1, numbers.accuracy2, numbers.accuracy_difference) == (0.6, 0.4, pytest.approx(-0.2))
    assert numbers.margin_gold_change == pytest.approx(-1.4)  # 0 − 4 + 2 + 0 − 5 over 5


def test_exchanging_the_models_turns_every_sign():
    numbers = models(12, 5, 90, shift=-0.3)
    turned = {"correct1": numbers["correct2"], "correct2": numbers["correct1"]}
    turned |= {"margins1": numbers["margins2"], "margins2": numbers["margins1"]}
    one, other = compare(**numbers), compare(**turned)
    assert one.accuracy_difference == -other.accuracy_difference
    assert one.margin_gold_change == pytest.approx(-other.margin_gold_change)
    assert one.mcnemar_p == other.mcnemar_p
    assert (one.right_to_wrong, one.wrong_to_right) == (other.wrong_to_right, other.right_to_wrong)
    for name in ("accuracy_difference_ci", "margin_gold_change_ci"):
        low, high = getattr(one, name)
        assert (-high, -low) == pytest.approx(getattr(other, name), abs=0.03)  # other draws


def test_the_interval_is_near_the_paired_normal_one():
    """An unpaired interval would be far wider: the margins of the items differ by more than the models do."""
    numbers = models(0, 0, 400, shift=-0.3)
    changes = numbers["margins2"] - numbers["margins1"]
    low, high = stats.t.interval(0.95, 399, changes.mean(), stats.sem(changes))
    assert mean_interval(changes) == pytest.approx((low, high), abs=0.02)
    unpaired = 2 * 1.96 * np.hypot(stats.sem(numbers["margins1"]), stats.sem(numbers["margins2"]))
    assert high - low < unpaired / 3


def test_both_kinds_of_interval_agree_where_one_takes_over(monkeypatch):
    from craft_trainer.evaluation.metrics.mcq_comparison import intervals

    changes = np.random.default_rng(3).exponential(2, 2000) - 2.1
    accelerated = mean_interval(changes, num_resamples=1999)
    monkeypatch.setattr(intervals, "MOST_ITEMS_FOR_BCA", 0)
    assert mean_interval(changes, num_resamples=1999) == pytest.approx(accelerated, abs=0.02)


def test_the_interval_covers_the_truth():
    """95 % nominal, 20 skewed items (the fewest of which the margin is judged): 86 of 100 or more over 300 draws."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        low, high = mean_interval(generator.exponential(1, 20) - 1, num_resamples=499)
        hits += low <= 0 <= high
    assert hits / 300 > 0.86


def test_the_seed_fixes_the_interval():
    changes = np.random.default_rng(0).normal(0, 1, 50)
    assert mean_interval(changes, seed=1) == mean_interval(changes, seed=1)
    assert mean_interval(changes, seed=1) != mean_interval(changes, seed=2)


@pytest.mark.parametrize("value", [0.0, -1.5, 0.1])
@pytest.mark.parametrize("num_items", [1, 2, 50])
def test_changes_without_spread_give_that_change(value, num_items):
    """scipy gives nan and a warning here. Seen to fail without the guard."""
    assert mean_interval(np.full(num_items, value)) == pytest.approx((value, value))


def test_few_or_far_changes_give_finite_ends_without_a_warning():
    """scipy's acceleration overflows on large numbers. Seen to fail without the scaling."""
    generator = np.random.default_rng(0)
    for number in range(300):
        n = int(generator.choice([2, 3, 5, 20, 60]))
        changes = [
            generator.choice([-1.0, 0.0, 1.0], n),
            np.eye(n)[0] * generator.normal(),
            generator.normal(0, 1, n) * 10.0 ** generator.integers(-20, 150),
            generator.standard_cauchy(n) ** 3,
            5 + generator.choice([0.0, 1e-9], n),
        ][number % 5]
        low, high = mean_interval(changes, num_resamples=99)
        assert np.isfinite([low, high]).all()
        slack = 1e-9 * np.abs(changes).max()
        assert low - slack <= changes.mean() <= high + slack


def test_the_interval_has_the_unit_of_the_changes():
    changes = np.random.default_rng(0).normal(1, 1, 40)
    assert mean_interval(1000 * changes) == pytest.approx(tuple(1000 * end for end in mean_interval(changes)))


def test_the_number_of_items_is_the_published_example():
    """p10 = 0.45, p01 = 0.05, level 5 % two-sided, power 80 %: 23 pairs (example of powerandsamplesize.com)."""
    assert items_needed(0.4, 0.5) == 23
    assert items_needed(-0.4, 0.5) == 23


@pytest.mark.parametrize(("difference", "discordance"), [(0.05, 0.2), (0.03, 0.15), (0.02, 0.1)])
def test_that_many_items_have_the_power(difference, discordance):
    """Power by enumerating how many items flip and which way; McNemar's test without continuity correction."""
    n = items_needed(difference, discordance)
    flips = np.arange(n + 1)
    power = 0.0
    chance_up = (discordance + difference) / (2 * discordance)
    for num_flips, weight in zip(flips, stats.binom.pmf(flips, n, discordance), strict=True):
        if weight > 1e-9 and num_flips:
            up = np.arange(num_flips + 1)
            rejected = (2 * up - num_flips) ** 2 / num_flips > stats.chi2.ppf(0.95, 1)
            power += weight * stats.binom.pmf(up, num_flips, chance_up)[rejected].sum()
    assert power == pytest.approx(0.8, abs=0.02)
    assert n == pytest.approx(2.8**2 * discordance / difference**2, rel=0.05)


VERDICT_CASES = {
    ("fell", "fell"): (30, 5, -1.0),
    ("fell", "undecided"): (30, 5, 0.0),
    ("fell", "rose"): (30, 5, 1.0),
    ("rose", "fell"): (5, 30, -1.0),
    ("rose", "undecided"): (5, 30, 0.0),
    ("rose", "rose"): (5, 30, 1.0),
    ("undecided", "fell"): (9, 6, -1.0),
    ("undecided", "undecided"): (9, 6, 0.0),
    ("undecided", "rose"): (9, 6, 1.0),
}


@pytest.mark.parametrize("verdict", VERDICT_CASES, ids="-".join)
def test_the_sentence_fits_the_numbers(verdict):
    """Accuracy by McNemar, margin by its interval, each by itself: also when they point in opposite directions.

    Seen to fail with the verdicts taken from the accuracy alone.
    """
    lost, won, shift = VERDICT_CASES[verdict]
    numbers = compared(lost, won, 120, shift=shift)
    assert (accuracy_verdict(numbers), margin_verdict(numbers)) == verdict
    assert VERDICTS[verdict] in numbers.conclusion
    assert ("80 % power" in numbers.conclusion) == (verdict[0] == "undecided")
    claims_damage = "is damaged" in numbers.conclusion or "sign of damage" in numbers.conclusion
    assert claims_damage == (verdict in {("fell", "fell"), ("fell", "undecided"), ("undecided", "fell")})


def test_every_verdict_has_a_sentence():
    assert set(VERDICTS) == set(VERDICT_CASES)


def test_the_direction_in_words_is_that_of_the_difference():
    worse, better = compared(30, 5, 120, shift=-1.0), compared(5, 30, 120, shift=1.0)
    assert "Accuracy fell from 50.0 % to 29.2 %" in worse.conclusion
    assert "margin fell by" in worse.conclusion
    assert "Accuracy rose from 50.0 % to 70.8 %" in better.conclusion
    assert "margin rose by" in better.conclusion


def test_an_interval_without_zero_does_not_claim_what_mcnemar_does_not():
    """5 items lost, none won: the bootstrap interval excludes 0, the exact test does not (p = 0.0625)."""
    numbers = compared(5, 0, 100)
    assert numbers.accuracy_difference_ci[1] < 0
    assert numbers.mcnemar_p == 0.0625
    assert accuracy_verdict(numbers) == "undecided"


@pytest.mark.parametrize("num_items", [1, 2, 19])
def test_the_margin_of_few_items_claims_nothing(num_items):
    numbers = compared(0, 0, num_items, shift=-50.0)
    assert numbers.margin_gold_change < -40
    assert margin_verdict(numbers) == "undecided"
    assert "too few" in numbers.conclusion


def test_no_flips_are_no_proof_that_none_will():
    """Of 100 items none flipped: up to 1 − 0.025^(1/100) may. Seen to fail with a bound of 0."""
    numbers = compared(0, 0, 100)
    assert numbers.discordance_bound == pytest.approx(1 - 0.025 ** (1 / 100))
    assert "3.6 %" in numbers.conclusion
    assert numbers.items_for_difference_seen is None
    assert numbers.items_for_two_points == items_needed(0.02, numbers.discordance_bound)


def test_identical_models_are_told():
    numbers = compared(0, 0, 30, noise=0.0)
    assert "nothing changed" in numbers.conclusion
    assert "damage" not in numbers.conclusion


def test_enough_items_are_said_to_be_enough():
    numbers = compared(9, 6, 120)
    enough = replace(numbers, items_for_two_points=100)
    assert "would probably have shown it" in conclude(enough)
    assert "would probably have shown it" not in numbers.conclusion


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct2": [True]}, "the same items in the same order"),
        ({"margins2": [0.0]}, "the same items in the same order"),
        ({"ids": ["a"]}, "the same items in the same order"),
        ({"margins1": [0.0, float("nan")], "ids": ["a", "b"]}, "item b: margins1"),
        ({"num_resamples": 10}, "at least 99"),
        ({name: [] for name in ("correct1", "correct2", "margins1", "margins2")}, "no items"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    good = {"correct1": [True, False], "correct2": [True, True], "margins1": [1.0, -1.0], "margins2": [1.0, 2.0]}
    with pytest.raises(ValueError, match=message):
        compare(**(good | change))


def test_the_statistics_need_neither_torch_nor_evaluate():
    heavy = {"torch", "transformers", "datasets", "evaluate"}
    code = f"import sys, {compare.__module__}; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
