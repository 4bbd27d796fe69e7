"""lambda_history.csv is read as it is, or refused with the file and what is wrong with it; series arithmetic."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from craft_trainer.report.figures.training import median_over_seeds, rolling_mean, thinned
from craft_trainer.report.history import load_history

type WriteHistory = Callable[..., Path]


def test_columns(write_history: WriteHistory) -> None:
    history = load_history(write_history(3, num_steps=4))
    assert history.step.tolist() == [1, 2, 3, 4]
    assert history.multiplier.tolist() == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert history.conflict.tolist() == [1, 0, 1, 0]
    assert history.last_tenth().step.tolist() == [4]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epsilon", "eps", "no column epsilon; expected"),
        ("0.02", "lots", "line 2, column multiplier is 'lots', expected a number"),
        ("0.02", "", "line 2, column multiplier is '', expected a number"),
        ("0.02", "nan", "column multiplier has values that are not finite"),
        ("0.02", "9" * 200_000, "line 1 is not CSV (field larger than field limit"),
        ("\n3,", "\n2,", "column step does not ascend"),
        ("-0.3,1,", "-0.3,1.5,", "column conflict has values outside"),
    ],
)
def test_a_damaged_file_is_refused(write_history: WriteHistory, old: str, new: str, message: str) -> None:
    path = write_history(0, num_steps=4)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        load_history(path)


def test_a_file_without_steps_is_refused(write_history: WriteHistory) -> None:
    with pytest.raises(ValueError, match="a header and no steps"):
        load_history(write_history(0, num_steps=0))


def test_rolling_mean_equals_a_loop() -> None:
    values = np.random.default_rng(0).normal(size=30)
    values[[4, 17]] = np.nan, np.inf
    means = rolling_mean(values, 5)
    assert np.isnan(means[[0, 1, 28, 29]]).all()
    for centre in range(2, 28):
        window = values[centre - 2 : centre + 3]
        assert means[centre] == pytest.approx(window[np.isfinite(window)].mean())


def test_rolling_mean_of_a_short_series_is_its_mean() -> None:
    assert np.nanmax(rolling_mean(np.array([1.0, 2.0, 6.0]), 10)) == pytest.approx(3.0)
    assert rolling_mean(np.array([1.0, np.nan, 6.0]), 1).tolist() == pytest.approx([1.0, np.nan, 6.0], nan_ok=True)


def test_median_over_seeds_with_different_steps() -> None:
    series = {
        0: (np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, np.nan])),
        1: (np.array([1.0, 3.0]), np.array([5.0, 7.0])),
        2: (np.array([1.0, 4.0]), np.array([2.0, np.nan])),
    }
    steps, median = median_over_seeds(series)
    assert steps.tolist() == [1, 2, 3, 4]
    assert median.tolist() == pytest.approx([2.0, 1.0, 7.0, np.nan], nan_ok=True)


def test_thinning_keeps_the_extremes_and_the_ends() -> None:
    steps = np.arange(50_000).astype(np.float64)
    values = np.random.default_rng(0).normal(size=50_000)
    values[[123, 44_321, 100]] = 99.0, -99.0, np.nan
    kept_steps, kept = thinned(steps, values)
    assert len(kept) <= 1202
    assert {0.0, 123.0, 44_321.0, 49_999.0} <= set(kept_steps)
    assert np.array_equal(values[kept_steps.astype(int)], kept)
    assert np.array_equal(thinned(steps[:1000], values[1000:2000])[1], values[1000:2000])
