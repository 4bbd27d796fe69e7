"""LeRobot's own policies, all with random weights and small enough for a test; nothing is downloaded."""

import contextlib

import numpy as np
import pytest
import torch
import torchvision
from fast_actions import save_fast_actions
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from paligemmas import toy_paligemma
from smolvlms import save_smolvlm
from texts import save_text_tokenizer
from torch import nn

from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.remote_code import TRUST_VARIABLE

CHUNK, STATES, ACTIONS, WORLD = 8, 5, 3, 7
SIZE = {"pi0": 28, "pi05": 28, "pi0_fast": 28, "smolvla": 32, "diffusion": 32}  # pixels
NUM_SPARE = 130  # tokens of the text tokenizer that stand for actions
VLA = {
    "chunk_size": CHUNK,
    "n_action_steps": CHUNK,
    "max_state_dim": 6,
    "max_action_dim": 4,
    "tokenizer_max_length": 24,
}
OPTIONS = {
    "pi0": VLA | {"image_resolution": (28, 28)},
    "pi05": VLA | {"image_resolution": (28, 28)},
    "pi0_fast": VLA | {"image_resolution": (28, 28), "max_action_tokens": 32, "fast_skip_tokens": 5},
    "smolvla": VLA | {"resize_imgs_with_padding": (32, 32), "num_vlm_layers": 3},
    "diffusion": {
        "n_obs_steps": 2,
        "horizon": CHUNK,
        "n_action_steps": 4,
        "crop_shape": None,
        "down_dims": (8, 16),
        "n_groups": 4,
        "kernel_size": 3,
        "diffusion_step_embed_dim": 8,
        "spatial_softmax_num_keypoints": 4,
        "vision_backbone": "resnet_toy",
        "pretrained_backbone_weights": None,
    },
    "act": {
        "chunk_size": CHUNK,
        "n_action_steps": 4,
        "dim_model": 16,
        "n_heads": 2,
        "dim_feedforward": 32,
        "n_encoder_layers": 1,
        "n_decoder_layers": 1,
        "use_vae": False,
    },
    "vqbet": {
        "n_obs_steps": 2,
        "n_action_pred_token": 2,
        "action_chunk_size": 3,
        "gpt_n_layer": 3,
        "gpt_n_head": 2,
        "gpt_hidden_dim": 16,
        "gpt_input_dim": 16,
        "gpt_output_dim": 16,
        "gpt_block_size": 20,
        "vqvae_n_embed": 4,
        "vqvae_embedding_dim": 8,
        "vqvae_enc_hidden_dim": 8,
        "crop_shape": None,
        "spatial_softmax_num_keypoints": 4,
        "vision_backbone": "resnet_toy",
        "pretrained_backbone_weights": None,
    },
}


@contextlib.contextmanager
def tiny_policy_maker(folder):
    """Inside, ``make(type, seed=0, cameras=("front",), **options)`` builds a policy; its tokenizers in ``folder``."""
    texts = save_text_tokenizer(folder / "texts", NUM_SPARE)
    actions = save_fast_actions(folder / "actions", smooth_chunks(64))
    smolvlm = save_smolvlm(folder / "smolvlm")
    places = {
        "pi0_fast": {"text_tokenizer_name": str(texts), "action_tokenizer_name": str(actions)},
        "smolvla": {"vlm_model_name": str(smolvlm), "load_vlm_weights": False},
    }

    def make(kind, *, seed=0, cameras=("front",), dims=(STATES, ACTIONS), **options):
        torch.manual_seed(seed)
        picture = (3, *[SIZE.get(kind, 32)] * 2)
        config_class = PreTrainedConfig.get_choice_class(kind)
        config = config_class(
            input_features={
                "observation.state": PolicyFeature(FeatureType.STATE, dims[:1]),
                **{f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, picture) for camera in cameras},
                **({} if cameras else {"observation.environment_state": PolicyFeature(FeatureType.ENV, (WORLD,))}),
            },
            output_features={"action": PolicyFeature(FeatureType.ACTION, dims[1:])},
            device="cpu",
            push_to_hub=False,
            **(OPTIONS[kind] | places.get(kind, {}) | options),
        )
        policy = get_policy_class(kind)(config)
        _no_zeros(policy)
        if kind == "vqbet":  # its actions are discretised already
            policy.vqbet.action_head.vqvae_model.discretized.fill_(True)
        return PolicyModel(policy, *make_pre_post_processors(config, dataset_stats=statistics(cameras, *dims))).eval()

    with toy_paligemma(texts), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models, "resnet_toy", _toy_resnet, raising=False)
        patch.setenv(TRUST_VARIABLE, str(actions))  # FAST is code of its own
        yield make


def _no_zeros(policy):
    """Norms, gates and biases start at zero, which would make whole blocks do nothing."""
    with torch.no_grad():
        for parameter in policy.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)


def _toy_resnet(weights):
    """What LeRobot takes from a ResNet: all of its children but the last two."""
    assert weights is None
    return nn.Sequential(nn.Conv2d(3, 16, 5, stride=4), nn.BatchNorm2d(16), nn.Identity(), nn.Identity())


def statistics(cameras, num_states, num_actions):
    """Statistics of a dataset: every kind of them, for every kind of normalisation."""

    def of(shape, shift):
        ones = torch.ones(shape)
        names = {"mean": 0.1, "std": 1.2, "min": -3.0, "max": 3.0, "q01": -2.5, "q99": 2.5}
        return {name: ones * value + shift for name, value in names.items()}

    images = {f"observation.images.{camera}": of((3, 1, 1), 0.0) for camera in cameras}
    world = {} if cameras else {"observation.environment_state": of(WORLD, 0.0)}
    return {"observation.state": of(num_states, 0.0), "action": of(num_actions, 0.05), **images, **world}


def smooth_chunks(num, seed=0, num_actions=ACTIONS):
    """Chunks of actions [num, time, dim] that change slowly, as demonstrations do."""
    steps = np.random.default_rng(seed).normal(scale=0.3, size=(num, CHUNK, num_actions))
    return np.cumsum(steps, axis=1)


def batch_of(model, cameras=("front",), seed=0, tasks=("push the red puck", "open door", "push door")):
    """Raw samples with what ``model`` reads, its noise included; without the cameras that are not named."""
    generator = torch.Generator().manual_seed(seed)
    config, num = model.policy_config, len(tasks)
    history = (config.n_obs_steps,) if config.type == "diffusion" else ()
    num_states, num_actions = config.robot_state_feature.shape[0], config.action_feature.shape[0]
    size = SIZE[config.type]
    batch = {
        "observation.state": torch.randn(num, *history, num_states, generator=generator),
        "action": torch.from_numpy(smooth_chunks(num, seed, num_actions)).float(),
        "action_is_pad": torch.arange(CHUNK).expand(num, -1) >= CHUNK - 2,
        "task": list(tasks),
    }
    for camera in cameras:
        image = torch.randint(256, (num, *history, 3, size, size), generator=generator) / 255
        batch[f"observation.images.{camera}"] = image
    return batch | model.noise(range(num))
