"""Statistics of paired differences: the interval of a mean, McNemar's test, and the items that it needs.

This file is also published next to the `evaluate` script, so it imports nothing of the package.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

NUM_RESAMPLES = 9999
FEWEST = 20  # items; below it a bootstrap interval of a mean is too narrow to rely on
CONFIDENCE = 0.95
POWER = 0.8
MOST_ITEMS_FOR_BCA = 5000  # its jackknife takes n² steps, and beyond this the two kinds of interval are the same


def mean_interval(
    changes: NDArray[np.float64], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of paired ``changes``, shape (n,), in their unit.

    Whole items are drawn, so it is the paired bootstrap of mean(second) − mean(first). Bias-corrected and accelerated
    (Efron 1987, J. Am. Stat. Assoc. 82:171), from 5,000 items on percentiles. Where all changes are the same there is
    nothing to draw and both ends are that change: an interval without width says nothing of other items.
    """
    largest = float(np.abs(changes).max())
    if np.ptp(changes) <= 1e-12 * max(1.0, largest):
        return float(changes.mean()), float(changes.mean())
    method = "BCa" if len(changes) <= MOST_ITEMS_FOR_BCA else "percentile"
    result = stats.bootstrap(
        (changes / largest,),  # scipy takes cubes, which may overflow
        np.mean,
        n_resamples=num_resamples,
        batch=max(1, 2_000_000 // len(changes)),  # 16 MB at a time
        confidence_level=CONFIDENCE,
        method=method,
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return float(low * largest), float(high * largest)


def mcnemar_p(num_right_to_wrong: int, num_wrong_to_right: int) -> float:
    """Two-sided exact p of the McNemar test: are b and c of b + c changed items as likely as heads and tails?

    min(1, 2 P(X ≤ min(b, c))) with X ~ Binomial(b + c, ½); 1 if nothing changed.
    Source: McNemar 1947, Psychometrika 12:153, in its exact form; statsmodels ``mcnemar(exact=True)``.
    """
    return float(mcnemar([[0, num_right_to_wrong], [num_wrong_to_right, 0]], exact=True).pvalue)


def items_needed(difference: float, discordance: float) -> int:
    """Items with which McNemar's test at 5 % sees an accuracy ``difference`` with 80 % power.

    n = ((z_0.975 √ψ + z_0.8 √(ψ − δ²)) / δ)², rounded up, with δ the difference and ψ ≥ |δ| the ``discordance``, the
    fraction of items that change sides; a smaller ψ is taken as |δ|. Near δ = 0 it is 2.8² ψ/δ².
    Source: Connor 1987, Biometrics 43:207, eq. 3.
    """
    changed = max(discordance, abs(difference))
    z_level, z_power = stats.norm.ppf([(1 + CONFIDENCE) / 2, POWER])
    root = z_level * np.sqrt(changed) + z_power * np.sqrt(changed - difference**2)
    return int(np.ceil((root / difference) ** 2))
