"""Wilson intervals against the defining equation and closed forms; percentages that do not round away a failure."""

from math import sqrt
from statistics import NormalDist

import pytest

from craft_trainer.report.results import wilson
from craft_trainer.report.wording import percent

Z = NormalDist().inv_cdf(0.975)


def test_all_and_none_have_a_closed_form() -> None:
    assert wilson(10, 10) == pytest.approx((10 / (10 + Z**2), 1.0), abs=1e-12)
    assert wilson(10, 10).low == pytest.approx(0.7225, abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, Z**2 / (20 + Z**2)), abs=1e-12)
    assert wilson(0, 20).high == pytest.approx(0.1611, abs=5e-5)


@pytest.mark.parametrize(("successes", "episodes"), [(1, 2), (7, 20), (19, 20), (1, 500), (299, 300)])
def test_both_ends_solve_the_score_equation(successes: int, episodes: int) -> None:
    """The ends are the p with |p̂ − p| = z √(p(1−p)/n)."""
    rate = successes / episodes
    low, high = wilson(successes, episodes)
    assert low < rate < high
    for end in (low, high):
        assert abs(rate - end) == pytest.approx(Z * sqrt(end * (1 - end) / episodes), rel=1e-9)


def test_mirrored_counts_have_mirrored_intervals() -> None:
    low, high = wilson(3, 17)
    assert wilson(14, 17) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0, "0"),
        (1.0, "100"),
        (0.98, "98"),
        (0.004, "0.4"),
        (0.0002, "<0.1"),
        (299 / 300, "99.7"),
        (0.99999, ">99.9"),
        (0.994, "99"),
        (1.004, "100"),
        (1.25, "125"),
    ],
)
def test_percent(fraction: float, text: str) -> None:
    assert percent(fraction) == text
