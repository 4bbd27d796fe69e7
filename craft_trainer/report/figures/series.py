"""Arithmetic on series over steps, before they are drawn."""

from collections.abc import Mapping

import numpy as np

from craft_trainer.report.history import Series

type Curve = tuple[Series, Series]  # steps, values

MAX_BINS = 600  # of a line: more than the points a page is wide, in bins of two


def rolling_mean(values: Series, window: int) -> Series:
    """Mean of the finite ones among the ``window`` ≥ 1 values around every position. Shape [steps] → [steps].

    NaN where the window holds nothing finite, and near both ends, where it would stick out. A series shorter than the
    window is averaged as a whole.
    """
    ones = np.ones(min(window, len(values)))
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), ones, "valid")
    number = np.convolve(known, ones, "valid")
    first = (len(ones) - 1) // 2
    means = np.full(len(values), np.nan)
    means[first : first + len(total)] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return means


def median_over_seeds(series: Mapping[int, Curve]) -> Curve:
    """(steps, median): at every step that any seed has, the median over the seeds that have it, NaN left out."""
    steps = np.unique(np.concatenate([own for own, _ in series.values()]))
    table = np.full((len(series), len(steps)), np.nan)
    for row, (own, values) in zip(table, series.values(), strict=True):
        row[np.searchsorted(steps, own)] = values
    voted = np.isfinite(table).any(axis=0)
    median = np.full(len(steps), np.nan)
    median[voted] = np.nanmedian(np.where(np.isfinite(table), table, np.nan)[:, voted], axis=0)
    return steps, median


def thinned(steps: Series, values: Series) -> Curve:
    """At most 1202 points that draw the same line: lowest and highest value of each of 600 bins, and both ends."""
    if len(values) <= 2 * MAX_BINS:
        return steps, values
    keep = {0, len(values) - 1}
    for part in np.array_split(np.arange(len(values)), MAX_BINS):
        known = part[np.isfinite(values[part])]
        ends = (known[np.argmin(values[known])], known[np.argmax(values[known])]) if len(known) else part[:1]
        keep.update(int(index) for index in ends)
    index = sorted(keep)
    return steps[index], values[index]
