"""ACT: a transformer encoder over latent, states and images, and a decoder with a token per action of the chunk."""

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor

from craft_trainer.models.base import Batch, TokenLayout
from craft_trainer.models.policies.family import PolicyFamily, PolicyLoss
from craft_trainer.models.task_loss import step_losses


def layers(policy: PreTrainedPolicy) -> list[str]:
    """Every encoder layer, every decoder layer; the last is taken after the decoder's final norm."""
    encoder = [f"model.encoder.layers.{index}" for index in range(policy.config.n_encoder_layers)]
    decoder = [f"model.decoder.layers.{index}" for index in range(policy.config.n_decoder_layers - 1)]
    return [*encoder, *decoder, "model.decoder"]


def prepare(policy: PreTrainedPolicy, batch: Batch) -> Batch:
    """The cameras in a list, as the model wants them."""
    cameras = policy.config.image_features
    return {**batch, "observation.images": [batch[key] for key in cameras]} if cameras else batch


def predict(policy: PreTrainedPolicy, inputs: Batch) -> Tensor:
    """The action chunk (with the latent at zero, as when it acts, if the policy is in evaluation mode)."""
    chunk: Tensor = policy.model(dict(inputs))[0]
    return chunk


def losses(policy: PreTrainedPolicy, inputs: Batch, output: Tensor) -> Tensor:
    """The absolute error of the chunk; the divergence of the VAE's latent is that of an encoder which never acts."""
    return step_losses((output.float() - inputs[ACTION]).abs(), inputs.get("action_is_pad"))


def layout(policy: PreTrainedPolicy, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
    """Hidden states are (tokens, batch, dim); the encoder's tokens are latent, state, environment, then images."""
    if not path.startswith("model.encoder") or not policy.config.image_features:
        return TokenLayout(batch_dim=1)
    num_vectors = 1 + sum(
        feature is not None for feature in (policy.config.robot_state_feature, policy.config.env_state_feature)
    )
    device = inputs["observation.images"][0].device
    return TokenLayout(batch_dim=1, image=(torch.arange(shape[0], device=device) >= num_vectors).expand(shape[1], -1))


FAMILY = PolicyFamily(layers, predict, PolicyLoss(losses, "standard deviation"), layout, prepare)
