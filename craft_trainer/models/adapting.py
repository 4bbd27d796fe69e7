"""A LeRobot checkpoint made to fit: this machine, the names of these cameras, and a base checkpoint this robot."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.feature_utils import dataset_to_policy_features

RUN_OPTIONS = (
    *("dtype", "gradient_checkpointing", "compile_model", "compile_mode", "freeze_vision_encoder", "train_expert_only"),
    *("train_state_proj", "temperature", "max_decoding_steps", "use_kv_cache", "num_inference_steps"),
    "validate_action_token_prefix",
)
TEXTS = ("string", "language")  # what a dataset calls columns of them
Overrides = dict[str, dict[str, Any]]


def with_options(config: PreTrainedConfig, options: Mapping[str, Any]) -> PreTrainedConfig:
    """``config`` with other values for fields that say how a policy runs; a ValueError if a checkpoint decides one."""
    known = [name for name in RUN_OPTIONS if hasattr(config, name)]
    if fixed := [name for name in options if name not in known]:
        raise ValueError(
            f"policy_options: {fixed[0]} of a {config.type} checkpoint cannot be changed; "
            f"what can: {', '.join(known) or 'nothing'}"
        )
    return dataclasses.replace(config, **options)


def observed_features(data: LeRobotDatasetMetadata) -> dict[str, PolicyFeature]:
    """The features of a dataset that a policy observes: all but texts, which LeRobot takes for numbers."""
    numbers = {name: feature for name, feature in data.features.items() if feature["dtype"] not in TEXTS}
    features: dict[str, PolicyFeature] = dataset_to_policy_features(numbers)
    return {name: feature for name, feature in features.items() if feature.type is not FeatureType.ACTION}


def take_features(config: PreTrainedConfig, data: LeRobotDatasetMetadata, rename: Mapping[str, str]) -> None:
    """The features of a dataset in place of a base checkpoint's, as LeRobot's own training does it.

    Its actions always; what it observes only if the checkpoint does not say what it reads.
    """
    features = dataset_to_policy_features(data.features)
    config.output_features = {name: one for name, one in features.items() if one.type is FeatureType.ACTION}
    observed = {rename.get(name, name): feature for name, feature in observed_features(data).items()}
    config.input_features = config.input_features or observed


def require_read(config: PreTrainedConfig, rename: Mapping[str, str]) -> None:
    """Refuse, by a ValueError, a pair of ``rename`` whose new name is none that a policy of ``config`` reads."""
    read = [*(config.input_features or {}), *(config.output_features or {})]
    for old, new in rename.items():
        if new not in read:
            raise ValueError(f"rename: {old!r} becomes {new!r}, which nobody reads: name one of {', '.join(read)}")


def preprocessor_overrides(
    config: PreTrainedConfig, rename: Mapping[str, str], data: LeRobotDatasetMetadata | None
) -> Overrides:
    """Overrides of a saved preprocessor: device, names, statistics, and what LeRobot forgets of action tokenizers."""
    overrides: Overrides = {"device_processor": {"device": config.device}}
    if config.type == "pi0_fast":
        overrides["action_tokenizer_processor"] = {
            "paligemma_tokenizer_name": config.text_tokenizer_name,
            "fast_skip_tokens": config.fast_skip_tokens,
        }
    if rename:
        overrides["rename_observations_processor"] = {"rename_map": dict(rename)}
    if data is not None:
        statistics = {rename.get(name, name): values for name, values in data.stats.items()}
        overrides["normalizer_processor"] = {
            "stats": statistics,
            "features": {**config.input_features, **config.output_features},
            "norm_map": config.normalization_mapping,
        }
    return overrides


def postprocessor_overrides(config: PreTrainedConfig, data: LeRobotDatasetMetadata | None) -> Overrides:
    """The statistics that take actions back to a robot's units, if they are not the checkpoint's own."""
    if data is None:
        return {}
    settings = {"features": config.output_features, "norm_map": config.normalization_mapping}
    return {"unnormalizer_processor": {"stats": data.stats, **settings}}
