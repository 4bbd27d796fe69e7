"""SmolVLA: SmolVLM over images, text and the state, and an action expert over the noisy actions beside it."""

from typing import Any

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from torch import Tensor

from craft_trainer.models.base import Batch, TokenLayout
from craft_trainer.models.noise import noise_beside
from craft_trainer.models.policies.family import PolicyFamily, PolicyLoss
from craft_trainer.models.vla import chunk, flow_losses, flow_noise, marked, residual_stream, unknown_tokens, velocity

BACKBONE = "model.vlm_with_expert.vlm.model.text_model"
EXPERT = "model.vlm_with_expert.lm_expert"


def layers(policy: PreTrainedPolicy) -> list[str]:
    """Every layer of the backbone, every layer of the expert; of both the last after its final norm."""
    return [path for stack in (BACKBONE, EXPERT) for path in residual_stream(policy, stack)]


def prepare(policy: PreTrainedPolicy, batch: Batch) -> Batch:
    """Images (blank ones for empty cameras), text, the padded state, and what the noisy actions are made of."""
    if policy.config.adapt_to_pi_aloha:  # done in place
        state = policy._pi_aloha_decode_state(batch[OBS_STATE].clone())
        batch = {**batch, OBS_STATE: state, ACTION: policy._pi_aloha_encode_actions_inv(batch[ACTION].clone())}
    images, image_masks = policy.prepare_images(batch)
    actions = policy.prepare_action(batch)
    padding = {"padding": batch["action_is_pad"]} if "action_is_pad" in batch else {}
    return {
        **padding,
        "images": images,
        "image_masks": image_masks,
        "tokens": _whole_length(policy, batch[OBS_LANGUAGE_TOKENS]),
        "token_masks": _whole_length(policy, batch[OBS_LANGUAGE_ATTENTION_MASK]),
        "state": policy.prepare_state(batch),
        "actions": actions,
        **noise_beside(actions, batch),
    }


def _whole_length(policy: PreTrainedPolicy, text: Tensor) -> Tensor:
    """Text at its full length, so that the tokens after it have the same places whatever it is batched with."""
    return torch.nn.functional.pad(text, (0, policy.config.tokenizer_max_length - text.shape[1]))


def predict(policy: PreTrainedPolicy, inputs: Batch) -> Tensor:
    """The velocity at the noise and time of the inputs."""
    return velocity(policy, inputs, ("images", "image_masks", "tokens", "token_masks", "state"))


def layout(policy: PreTrainedPolicy, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
    """The backbone's tokens are those of each camera, the text, the state, padding; the expert sees no images."""
    if path.startswith(BACKBONE):
        return _prefix(policy, inputs, shape[1])
    if path.startswith(EXPERT) or not path:
        return TokenLayout()
    raise unknown_tokens(path, (BACKBONE, EXPERT))


def _prefix(policy: PreTrainedPolicy, inputs: Batch, num_tokens: int) -> TokenLayout:
    """Tokens of the backbone, which pads them to ``prefix_length``; a ValueError if they are not ``num_tokens``."""
    text: Tensor = inputs["token_masks"]
    always = text.new_ones(len(text), 1)
    start, end = (2, 1) if policy.config.add_image_special_tokens else (0, 0)
    segments = []
    for image, mask in zip(inputs["images"], inputs["image_masks"], strict=True):
        segments.append((always.expand(-1, start), False))
        segments.append((mask[:, None].expand(-1, _num_image_tokens(policy, image)), True))
        segments.append((always.expand(-1, end), False))
    segments += [(text, False), (always, False)]
    length = sum(valid.shape[1] for valid, _ in segments)
    padding = max(0, policy.config.prefix_length - length)
    if length + padding != num_tokens:
        raise ValueError(f"{num_tokens} tokens where images, text and state make {length + padding}")
    return marked([*segments, (~always.expand(-1, padding), False)])


def _num_image_tokens(policy: Any, image: Tensor) -> int:
    """Patches of an image, of which the connector makes one token from each square."""
    config = policy.model.vlm_with_expert.config
    rows, columns = (size // config.vision_config.patch_size for size in image.shape[-2:])
    num_tokens: int = rows * columns // config.scale_factor**2
    return num_tokens


FAMILY = PolicyFamily(
    layers, predict, PolicyLoss(flow_losses, "variance"), layout, prepare, flow_noise, reads_actions=True, act=chunk
)
