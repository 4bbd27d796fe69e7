"""PI0-FAST: PaliGemma over images, text and the tokens of the demonstrated actions, of which it predicts the next."""

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION_TOKEN_MASK, ACTION_TOKENS, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor

from craft_trainer.models.base import Batch, TokenLayout
from craft_trainer.models.policies.family import PolicyFamily, PolicyLoss
from craft_trainer.models.task_loss import UNLEARNED, next_token_losses
from craft_trainer.models.vla import cameras_first, head_output, unknown_tokens

BACKBONE = "model.paligemma_with_expert.paligemma.model.language_model"
INPUTS = ("images", "image_masks", "tokens", "token_masks", "action_tokens", "action_masks")  # in the model's order


def layers(policy: PreTrainedPolicy) -> list[str]:
    """Every layer; the last after the final norm, as in HuggingFace's ``hidden_states``."""
    num_layers = len(policy.get_submodule(f"{BACKBONE}.layers"))
    return [*(f"{BACKBONE}.layers.{index}" for index in range(num_layers - 1)), f"{BACKBONE}.norm"]


def prepare(policy: PreTrainedPolicy, batch: Batch) -> Batch:
    """Images (blank ones for empty cameras), text and action tokens."""
    images, image_masks = policy._preprocess_images(batch)
    text = batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK]
    actions = batch[ACTION_TOKENS], batch[ACTION_TOKEN_MASK]
    return dict(zip(INPUTS, (images, image_masks, *text, *actions), strict=True))


def predict(policy: PreTrainedPolicy, inputs: Batch) -> Tensor:
    """Logits of the next token at every token of the demonstrated actions, from the model's own training forward."""
    model = policy.model
    forward = type(model).forward  # the instance's may be compiled, which would hide the hidden states
    given = [inputs[name] for name in INPUTS]
    return head_output(model.paligemma_with_expert.paligemma.lm_head, lambda: forward(model, *given))


def losses(policy: PreTrainedPolicy, inputs: Batch, output: Tensor) -> Tensor:
    """The cross-entropy of the tokens of the demonstrated actions."""
    labels = inputs["action_tokens"].masked_fill(~inputs["action_masks"].bool(), UNLEARNED)
    return next_token_losses(labels, output)


def layout(policy: PreTrainedPolicy, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
    """Tokens are those of each camera, the text, the actions; a logit counts if it predicts a token of the actions."""
    if not path:
        following: Tensor = inputs["action_masks"][:, 1:]
        return TokenLayout(valid=torch.cat([following, torch.zeros_like(following[:, :1])], dim=1))
    if path.startswith(BACKBONE):
        return cameras_first(inputs["image_masks"], [inputs["token_masks"], inputs["action_masks"]], shape[1])
    raise unknown_tokens(path, (BACKBONE,))


FAMILY = PolicyFamily(
    layers, predict, PolicyLoss(losses, "mean entropy"), layout, prepare, output_kind="logits", reads_actions=True
)
