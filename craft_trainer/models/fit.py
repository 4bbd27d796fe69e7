"""Check that a LeRobot dataset has what a policy reads and predicts: features, cameras, sizes."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.utils.constants import ACTION, OBS_STATE

MISSING = "missing"
CAMERAS = ("image", "video")  # what a dataset calls columns of them


def require_fit(
    config: PreTrainedConfig,
    dataset: str,
    features: Mapping[str, Mapping[str, Any]],
    *,
    renamed: Mapping[str, str],
    normalised: Mapping[str, int] | None = None,
) -> None:
    """Compare the ``features`` of ``dataset`` with those of a policy of ``config``; neither is loaded for it.

    Args:
        renamed: the data's names → the policy's, where they differ.
        normalised: how many numbers the statistics of each of the policy's features are, where that is known.

    Raises:
        ValueError: a camera, the state or the actions are missing, or have another shape; it names all of them.
    """
    kept = own_names(renamed, features)
    named = {new: old for old, new in renamed.items() if new not in kept}
    _require_cameras(config, dataset, [name for name, one in features.items() if one["dtype"] in CAMERAS], named)
    misfits = list(_misfits(config, features, named, normalised or {}))
    if misfits:
        listed = ", ".join(f"{name} is {there} in {dataset} and {own} in the policy" for name, there, own in misfits)
        missing = [name for name, there, _ in misfits if there == MISSING]
        rename = json.dumps({"name in the data": missing[0]}) if missing else ""
        named_otherwise = f". If the data has another name for it, pass --rename '{rename}'" if missing else ""
        raise ValueError(
            f"{listed}: it is another robot's. Give data of the policy's own, start from a base checkpoint with "
            f"--adapt_to {dataset}, or from a new policy (--policy_type){named_otherwise}"
        )


def own_names(renamed: Mapping[str, str], features: Collection[str]) -> dict[str, str]:
    """Features that are ``renamed``, and that this data has by the policy's own name: that name → the one renamed."""
    return {new: old for old, new in renamed.items() if old not in features and new in features and new not in renamed}


def _require_cameras(config: PreTrainedConfig, dataset: str, cameras: Sequence[str], named: Mapping[str, str]) -> None:
    """Policies that know of empty cameras do with some of theirs, if the dataset has no others."""
    read = [named.get(key, key) for key in config.image_features if ".empty_camera_" not in key]
    missing, others = [key for key in read if key not in cameras], [key for key in cameras if key not in read]
    does_without = hasattr(config, "empty_cameras") and len(missing) < len(read) and not others
    if missing and not does_without:
        example = json.dumps({others[0] if others else "observation.images.…": missing[0]}, ensure_ascii=False)
        raise ValueError(
            f"the policy reads the cameras {', '.join(read)}; {dataset} has {', '.join(cameras) or 'none'}: if they "
            f"are the same by another name, pass --rename '{example}'"
        )


def _misfits(
    config: PreTrainedConfig,
    features: Mapping[str, Mapping[str, Any]],
    named: Mapping[str, str],
    normalised: Mapping[str, int],
) -> Iterator[tuple[str, str, str]]:
    """The states and actions that do not fit: the data's name, what the data has, what the policy has."""
    largest = {OBS_STATE: getattr(config, "max_state_dim", 0), ACTION: getattr(config, "max_action_dim", 0)}
    for name, feature in {**(config.input_features or {}), **(config.output_features or {})}.items():
        if name not in (OBS_STATE, ACTION) and feature.type is not FeatureType.ENV:
            continue
        there = features.get(named.get(name, name))
        given, own = 0 if there is None else math.prod(there["shape"]), math.prod(feature.shape)
        fits = 0 < given <= largest[name] if largest.get(name) else given == own
        if not fits or normalised.get(name, given) != given:
            shape = MISSING if there is None else f"of shape {tuple(there['shape'])}"
            known = (normalised[name],) if name in normalised else tuple(feature.shape)
            yield named.get(name, name), shape, f"of shape {known}"
