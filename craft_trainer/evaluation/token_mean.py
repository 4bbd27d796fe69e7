"""A mean over tokens with its interval over rows."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from craft_trainer.evaluation.metrics.mcq_comparison.intervals import mean_interval

Numbers = NDArray[np.float64]


class Mean(NamedTuple):
    """A mean over tokens, in nats, and the ends of its 95 % interval over rows."""

    mean: float
    low: float
    high: float


def mean_over_tokens(values: Numbers, tokens: Numbers) -> Mean:
    """Average the ``values`` of rows, each weighted by its ``tokens``, with a 95 % bootstrap interval over rows.

    The mean R = Σ n·v / Σ n is a ratio of two means. Its interval is that of the mean of R + n (v − R) / mean(n), the
    ratio's linearisation (Cochran 1977, Sampling Techniques, §6.4).
    """
    mean = float((tokens * values).sum() / tokens.sum())
    return Mean(mean, *mean_interval(mean + tokens * (values - mean) / tokens.mean()))
