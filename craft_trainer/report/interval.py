"""How far a success rate can be trusted."""

from math import sqrt
from typing import NamedTuple

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


class Interval(NamedTuple):
    """Two ends of a confidence interval of a fraction, 0 ≤ low ≤ high ≤ 1."""

    low: float
    high: float


def wilson(successes: int, episodes: int) -> Interval:
    """95 % Wilson score interval of the success probability behind ``successes`` of ``episodes`` ≥ 1.

    With p = k/n and z = 1.96: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n). It stays inside [0, 1] and keeps a
    width at p = 0 and p = 1, where the usual p ± z √(p(1−p)/n) collapses to a point.
    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209; Brown, Cai & DasGupta 2001, Stat. Sci. 16:101, eq. 4.
    """
    rate, z2 = successes / episodes, Z_95**2 / episodes
    centre = rate + z2 / 2
    half = sqrt(z2 * rate * (1 - rate) + z2**2 / 4)
    low, high = (centre - half) / (1 + z2), (centre + half) / (1 + z2)
    return Interval(0.0 if successes == 0 else low, 1.0 if successes == episodes else high)
