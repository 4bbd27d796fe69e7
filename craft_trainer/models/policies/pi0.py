"""PI0: PaliGemma over images and text, and an action expert over the state and the noisy actions beside it."""

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor

from craft_trainer.models.base import Batch, TokenLayout
from craft_trainer.models.noise import noise_beside
from craft_trainer.models.policies.family import PolicyFamily, PolicyLoss
from craft_trainer.models.vla import (
    cameras_first,
    chunk,
    flow_losses,
    flow_noise,
    residual_stream,
    unknown_tokens,
    velocity,
)

BACKBONE = "model.paligemma_with_expert.paligemma.model.language_model"
EXPERT = "model.paligemma_with_expert.gemma_expert.model"


def layers(policy: PreTrainedPolicy) -> list[str]:
    """Every layer of the backbone, every layer of the expert; of both the last after its final norm."""
    return [path for stack in (BACKBONE, EXPERT) for path in residual_stream(policy, stack)]


def prepare(policy: PreTrainedPolicy, batch: Batch) -> Batch:
    """Images (blank ones for empty cameras), text, the padded state, and what the noisy actions are made of."""
    return prepare_without_state(policy, batch) | {"state": policy.prepare_state(batch)}


def prepare_without_state(policy: PreTrainedPolicy, batch: Batch) -> dict[str, object]:
    """Images, text and what the noisy actions are made of."""
    images, image_masks = policy._preprocess_images(batch)
    actions = policy.prepare_action(batch)
    return {
        "images": images,
        "image_masks": image_masks,
        "tokens": batch[OBS_LANGUAGE_TOKENS],
        "token_masks": batch[OBS_LANGUAGE_ATTENTION_MASK],
        "actions": actions,
        **noise_beside(actions, batch),
    }


def predict(policy: PreTrainedPolicy, inputs: Batch) -> Tensor:
    """The velocity at the noise and time of the inputs."""
    return velocity(policy, inputs, ("images", "image_masks", "tokens", "token_masks", "state"))


def layout(policy: PreTrainedPolicy, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
    """The backbone's tokens are those of each camera, then the text; the expert sees neither."""
    if path.startswith(BACKBONE):
        return cameras_first(inputs["image_masks"], [inputs["token_masks"]], shape[1])
    if path.startswith(EXPERT) or not path:
        return TokenLayout()
    raise unknown_tokens(path, (BACKBONE, EXPERT))


FAMILY = PolicyFamily(
    layers, predict, PolicyLoss(flow_losses, "variance"), layout, prepare, flow_noise, reads_actions=True, act=chunk
)
