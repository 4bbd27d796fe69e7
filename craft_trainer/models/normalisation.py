"""Normalisation statistics belong to the policy: how far new data lies outside them, and what other ones change."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from numpy.typing import NDArray

from craft_trainer.models.lerobot import PolicyModel, with_floor

Statistics = Mapping[str, Mapping[str, Any]]
DEVIATIONS = 10.0  # mean and deviation: so far outside is no noise
RANGES = 3.0  # minimum and maximum, or quantiles, which become −1 and 1
CENTRE_AND_SPREAD = {
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}


class Outside(NamedTuple):
    """One dimension of a feature whose values in a dataset lie far outside what the policy was normalised for."""

    feature: str
    dimension: int
    reached: float  # the largest normalised value
    limit: float


def far_outside(model: PolicyModel, statistics: Statistics) -> list[Outside]:
    """Dimensions of a dataset with these ``statistics`` that the policy's own normalisation sends far outside.

    A dimension that never moved in the old data has a deviation of almost 0, and the smallest move explodes.
    """
    found = []
    for step, feature in _normalised(model):
        bounds = statistics.get(feature, {})
        if "min" not in bounds or "max" not in bounds:
            continue
        mode = step.norm_map[step.features[feature].type]
        low, high = (_numbers(step.stats[feature][name]) for name in CENTRE_AND_SPREAD[mode])
        centre, spread = (low, high) if mode is NormalizationMode.MEAN_STD else ((low + high) / 2, (high - low) / 2)
        ends = [np.abs(_numbers(bounds[name]) - centre) / (spread + step.eps) for name in ("min", "max")]
        limit = DEVIATIONS if mode is NormalizationMode.MEAN_STD else RANGES
        reached = np.maximum(*ends)
        found += [Outside(feature, int(d), float(reached[d]), limit) for d in np.flatnonzero(reached > limit)]
    return found


def replace_statistics(model: PolicyModel, statistics: Statistics, *, min_std: float = 0.0) -> list[str]:
    """Normalise by ``statistics`` from now on; says in a line for each feature how far its own were from them.

    It changes what every old action of the policy means, so it is done only when it is asked for.
    """
    new = with_floor(statistics, min_std)
    changes = [
        f"{feature}: {_change(step.stats[feature], new[feature])}"
        for step, feature in _normalised(model)
        if feature in new
    ]
    for step in (*model.preprocessor.steps, *model.postprocessor.steps):
        if isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
            step.stats = {**step.stats, **{key: value for key, value in new.items() if key in step.features}}
            step.to(device=step.device)
    return changes


def _change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """How the statistics of a feature that both have differ, the largest difference of any dimension."""
    moved = {name: np.abs(_numbers(new[name]) - _numbers(old[name])).max() for name in old if name in new}
    shown = [
        f"{name} by up to {moved[name]:.3g}" for name in ("mean", "std", "min", "max", "q01", "q99") if name in moved
    ]
    return ", ".join(shown)


def _normalised(model: PolicyModel) -> Iterator[tuple[NormalizerProcessorStep, str]]:
    """Every feature that the policy's preprocessor normalises, images left out, with the step that does."""
    for step in model.preprocessor.steps:
        if isinstance(step, NormalizerProcessorStep):
            for name, feature in step.features.items():
                mode = step.norm_map.get(feature.type, NormalizationMode.IDENTITY)
                if feature.type is not FeatureType.VISUAL and mode in CENTRE_AND_SPREAD and name in step.stats:
                    yield step, name


def _numbers(value: Any) -> NDArray[np.float64]:
    if isinstance(value, torch.Tensor):
        value = value.cpu().numpy()
    return np.atleast_1d(np.asarray(value, dtype=np.float64)).reshape(-1)
