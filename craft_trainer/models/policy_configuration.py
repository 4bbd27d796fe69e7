"""The part of a LeRobot policy's configuration that decides its outputs."""

import dataclasses
from typing import Any

import draccus
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.pretrained import PreTrainedPolicy

from craft_trainer.models.adapting import RUN_OPTIONS
from craft_trainer.models.configuration import inner_configurations
from craft_trainer.options import default_of

# Fields that change nothing of what a policy predicts for given inputs in evaluation mode.
NOT_DECISIVE = {
    *RUN_OPTIONS,
    *("device", "use_amp", "use_peft", "push_to_hub", "repo_id", "private", "tags", "license"),
    # where weights and tokenizers come from: the other digests see what came
    *("pretrained_path", "pretrained_revision", "pretrained_backbone_weights", "load_vlm_weights", "vlm_model_name"),
    *("text_tokenizer_name", "action_tokenizer_name"),
    # of how it acts and denoises
    *("n_action_steps", "temporal_ensemble_coeff", "rtc_config", "num_steps", "use_cache", "noise_scheduler_type"),
    *("clip_sample", "clip_sample_range", "relative_exclude_joints", "action_feature_names"),
    # of training
    *("dropout", "kl_weight", "crop_is_random", "drop_n_last_frames", "do_mask_loss_for_padding"),
    *("time_sampling_beta_alpha", "time_sampling_beta_beta", "time_sampling_scale", "time_sampling_offset"),
}
PRESETS = ("optimizer_", "scheduler_")


def policy_configuration(policy: PreTrainedPolicy) -> dict[str, Any]:
    """The configuration that decides the outputs of ``policy``, but for the scales of an adapter."""
    return {"policy": decisive_policy_fields(policy.config), "modules": inner_configurations(policy)}


def decisive_policy_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """Fields of the configuration that decide outputs and are not the default of its class."""
    kept: dict[str, Any] = {"type": config.type}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in NOT_DECISIVE or field.name.startswith(PRESETS) or value == default_of(field):
            continue
        is_features = field.name in ("input_features", "output_features")
        kept[field.name] = _features(value) if is_features else draccus.encode(value)
    return kept


def _features(features: dict[str, PolicyFeature]) -> list[list[Any]]:
    """Names, types and sizes. Cameras stay in their order, which is that of their tokens."""
    cameras = [name for name, feature in features.items() if feature.type is FeatureType.VISUAL]
    others = sorted(set(features) - set(cameras))
    return [[name, features[name].type.value, list(features[name].shape)] for name in (*cameras, *others)]
