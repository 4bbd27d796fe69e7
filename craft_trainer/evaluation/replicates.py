"""Methods compared over seeds and streams: a robust mean, its interval, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
QUARTER = 0.25  # cut from each end: what is left is the middle half
MOST_PAIRS_FOR_EXACT = 14  # 2^n sign flips

Scores = Float[np.ndarray[Any, Any], "seeds tasks"]


def trimmed_mean(scores: Float[np.ndarray[Any, Any], "..."], trimmed: float = QUARTER) -> float:
    """Average what is left when a fraction is cut from each end, rounded down: by default the middle half.

    Source: the interquartile mean (IQM) of Agarwal et al. 2021, arXiv 2108.13264.
    """
    return float(stats.trim_mean(np.asarray(scores, dtype=np.float64), trimmed, axis=None))


def stratified_interval(
    strata: Sequence[Scores], *, trimmed: float = QUARTER, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the trimmed mean of all ``strata``, by a stratified bootstrap over seeds.

    A stratum is a stream. Seeds are drawn with replacement within each, and all tasks of a drawn seed come with it:
    one policy solved them, so they are no independent runs. Tasks that were trained apart are a stratum each. With
    fewer than five seeds the interval is too narrow. Source: Agarwal et al. 2021, arXiv 2108.13264.

    Raises:
        ValueError: there is no stratum, or one has no seed or no task.
    """
    checked = [np.asarray(stratum, dtype=np.float64) for stratum in strata]
    if not checked or any(stratum.ndim != 2 or not stratum.size for stratum in checked):
        raise ValueError(
            f"strata have the shapes {[one.shape for one in checked]}: expected (seeds, tasks), none empty"
        )
    generator = np.random.default_rng(seed)
    drawn = [one[generator.integers(len(one), size=(num_resamples, len(one)))] for one in checked]
    found = stats.trim_mean(np.concatenate([one.reshape(num_resamples, -1) for one in drawn], axis=1), trimmed, axis=1)
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """One method less another on the same streams and seeds.

    Attributes:
        num_pairs: how many runs both have.
        mean: of the differences.
        interval: 95 % paired t interval of the mean; None for a single pair.
        p: two-sided sign-flip test of a difference of 0, adjusted for all comparisons made together (Holm).
    """

    num_pairs: int
    mean: float
    interval: tuple[float, float] | None
    p: float


def paired_differences(comparisons: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> dict[str, Difference]:
    """Compare pairs of runs: every value is a method's scores and its rival's, run by run on the same stream and seed.

    The p values are those of the exact sign-flip test (drawn flips where more than 14 pairs differ). It cannot fall
    below 2 / 2ⁿ with n pairs: five seeds of one stream never reach 5 %. Together they are corrected by Holm's procedure
    (Holm 1979, Scand. J. Stat. 6:65).

    Raises:
        ValueError: a comparison has no pair, or lists of different lengths.
    """
    if not comparisons:
        return {}
    found = {name: _difference(np.subtract(*_pairs(name, *both))) for name, both in comparisons.items()}
    adjusted = multipletests([one.p for one in found.values()], method="holm")[1]
    return {
        name: Difference(one.num_pairs, one.mean, one.interval, float(p))
        for (name, one), p in zip(found.items(), adjusted, strict=True)
    }


def _pairs(name: str, mine: Sequence[float], rival: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not mine or len(mine) != len(rival):
        raise ValueError(f"{name}: {len(mine)} runs beside {len(rival)}: pairs need one of each")
    return np.asarray(mine, dtype=np.float64), np.asarray(rival, dtype=np.float64)


def _difference(differences: NDArray[np.float64]) -> Difference:
    num_pairs, mean = len(differences), float(differences.mean())
    interval = None
    if num_pairs > 1:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, num_pairs - 1) * differences.std(ddof=1) / sqrt(num_pairs))
        interval = (mean - half, mean + half)
    return Difference(num_pairs, mean, interval, _sign_flip(differences))


def _sign_flip(differences: NDArray[np.float64]) -> float:
    differences = differences[differences != 0]  # the others are the same with either sign
    if len(differences) < 2:
        return 1.0
    tested = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=2**MOST_PAIRS_FOR_EXACT,
        rng=np.random.default_rng(0),
    )
    return float(tested.pvalue)
