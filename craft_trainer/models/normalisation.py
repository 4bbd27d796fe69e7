"""Normalisation statistics belong to the policy: what they lack, how far new data is outside, what others change."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from lerobot.utils.constants import ACTION, OBS_STATE
from numpy.typing import NDArray

from craft_trainer.models.base import Moments

if TYPE_CHECKING:
    from craft_trainer.models.lerobot import PolicyModel

type Step = NormalizerProcessorStep | UnnormalizerProcessorStep
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


def check_statistics(model: "PolicyModel") -> None:
    """Refuse, by a ValueError, a policy that lacks statistics: LeRobot hands on what it cannot normalise as it is."""
    for step, feature, mode in _normalised(model):
        there = step.stats.get(feature, {})
        missing = [name for name in CENTRE_AND_SPREAD[mode] if name not in there]
        if missing:
            others = ", ".join(there or step.stats) or "none"
            raise ValueError(
                f"{feature} is to be normalised ({mode.value}), and the policy's statistics lack its "
                f"{' and '.join(missing)} (they have {others}). Take a dataset's: --adapt_to DATASET for a base "
                "checkpoint, or `train --statistics dataset`. A dataset without quantiles gets them from LeRobot's "
                "augment_dataset_quantile_stats"
            )


def far_outside(model: "PolicyModel", statistics: Statistics) -> list[Outside]:
    """Dimensions of a dataset with these ``statistics`` that the policy's own normalisation sends far outside.

    A dimension that never moved in the old data has a deviation of almost 0, and the smallest move explodes.
    """
    found = []
    for step, feature, mode in _normalised(model):
        bounds = statistics.get(feature, {})
        if isinstance(step, UnnormalizerProcessorStep) or _is_image(step, feature) or not {"min", "max"} <= set(bounds):
            continue
        low, high = (_numbers(step.stats[feature][name]) for name in CENTRE_AND_SPREAD[mode])
        centre, spread = (low, high) if mode is NormalizationMode.MEAN_STD else ((low + high) / 2, (high - low) / 2)
        ends = [np.abs(_numbers(bounds[name]) - centre) / (spread + step.eps) for name in ("min", "max")]
        limit = DEVIATIONS if mode is NormalizationMode.MEAN_STD else RANGES
        reached = np.maximum(*ends)
        found += [Outside(feature, int(d), float(reached[d]), limit) for d in np.flatnonzero(reached > limit)]
    return found


def replace_statistics(model: "PolicyModel", statistics: Statistics, *, min_std: float = 0.0) -> list[str]:
    """Normalise by ``statistics`` from now on; says for each feature how far its own were from them.

    Images keep their own, if there are any. It changes what every old action of the policy means, so it is done only
    when it is asked for.

    Raises:
        ValueError: ``statistics`` lack some that the policy needs.
    """
    new = with_floor(statistics, min_std)
    changes: dict[str, str] = {}
    for step, feature, _ in list(_normalised(model)):
        own = step.stats.get(feature)
        if feature in new and not (own and _is_image(step, feature)):
            changes.setdefault(feature, f"{feature}: {_change(own, new[feature]) if own else 'it had none'}")
            step.stats = {**step.stats, feature: new[feature]}
            step.to(device=step.device)
    check_statistics(model)
    return list(changes.values())


def with_floor(statistics: Statistics, min_std: float) -> dict[str, dict[str, Any]]:
    """Statistics whose standard deviations of observations are at least ``min_std``."""
    return {
        key: {
            name: np.maximum(value, min_std) if name == "std" and key.startswith("observation.") else value
            for name, value in feature.items()
        }
        for key, feature in statistics.items()
    }


def observed_moments(model: "PolicyModel") -> Moments:
    """The mean and the deviation of every number that the policy observes, by the data's names; pictures are left out.

    They count even where the policy takes a feature as it is. Where there is no mean, it is the middle, and the
    deviation a quarter, of the range that the statistics do have.

    Raises:
        ValueError: it observes numbers that it has no statistics of.
    """
    steps = [step for step in model.preprocessor.steps if isinstance(step, NormalizerProcessorStep)]
    statistics = {name: values for step in steps for name, values in (step.stats or {}).items()}
    names = {new: old for old, new in model.renamed.items()}
    config, found = model.policy_config, {}
    for feature in (name for name in config.input_features if name not in config.image_features):
        there = statistics.get(feature, {})
        ends = next((pair for pair in CENTRE_AND_SPREAD.values() if set(pair) <= there.keys()), None)
        if ends is None:
            raise ValueError(
                f"the policy has no statistics of {feature}, so nothing can be drawn from them or perturbed in their "
                "units: take another source, without views"
            )
        low, high = (_numbers(there[name]) for name in ends)
        mean, std = (low, high) if ends == ("mean", "std") else ((low + high) / 2, (high - low) / 4)
        found[names.get(feature, feature)] = (torch.from_numpy(mean).float(), torch.from_numpy(std).float())
    return found


def num_normalised(model: "PolicyModel") -> dict[str, int]:
    """Count the numbers that the statistics of each feature hold, images left out."""
    return {
        name: _numbers(step.stats[name][CENTRE_AND_SPREAD[mode][0]]).size
        for step, name, mode in _normalised(model)
        if not _is_image(step, name)
    }


def _change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe the largest difference, in any dimension, between the statistics of a shared feature."""
    both = {name: (_numbers(old[name]), _numbers(new[name])) for name in old if name in new}
    if any(mine.shape != theirs.shape for mine, theirs in both.values()):
        return "of another number of dimensions"
    moved = {name: np.abs(theirs - mine).max() for name, (mine, theirs) in both.items()}
    told = [name for name in ("mean", "std", "min", "max", "q01", "q99") if name in moved]
    return ", ".join(f"{name} by up to {moved[name]:.3g}" for name in told)


def _normalised(model: "PolicyModel") -> Iterator[tuple[Step, str, NormalizationMode]]:
    """Every feature that the policy reads or predicts and that a step of its processors should normalise, and how."""
    config = model.policy_config
    cameras = {} if hasattr(config, "empty_cameras") else config.image_features  # those do without some
    for step in (*model.preprocessor.steps, *model.postprocessor.steps):
        if not isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
            continue
        for name, feature in step.features.items():
            mode = step.norm_map.get(feature.type, NormalizationMode.IDENTITY)
            read = name in (OBS_STATE, ACTION, *cameras) or feature.type is FeatureType.ENV
            chosen = step.normalize_observation_keys is None or name in (ACTION, *step.normalize_observation_keys)
            if mode in CENTRE_AND_SPREAD and read and chosen:
                yield step, name, mode


def _is_image(step: Step, feature: str) -> bool:
    return step.features[feature].type is FeatureType.VISUAL


def _numbers(value: Any) -> NDArray[np.float64]:
    if isinstance(value, torch.Tensor):
        value = value.cpu().numpy()
    return np.atleast_1d(np.asarray(value, dtype=np.float64)).reshape(-1)
