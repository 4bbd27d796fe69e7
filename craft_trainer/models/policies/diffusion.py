"""Diffusion policy: a convolutional U-Net over the time steps of the noisy actions, conditioned on observations."""

from collections.abc import Sequence

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGES, OBS_STATE
from torch import Tensor

from craft_trainer.models.base import Batch, TokenLayout
from craft_trainer.models.noise import noise_beside, noise_of_rows
from craft_trainer.models.policies.family import PolicyFamily, PolicyLoss
from craft_trainer.models.task_loss import step_losses

UNET = "diffusion.unet"


def layers(policy: PreTrainedPolicy) -> list[str]:
    """Every stage of the U-Net before its change of resolution (down, middle, up), then its last features."""
    unet = policy.get_submodule(UNET)
    stages = [f"down_modules.{index}.1" for index in range(len(unet.down_modules))]
    stages += [f"mid_modules.{index}" for index in range(len(unet.mid_modules))]
    stages += [f"up_modules.{index}.1" for index in range(len(unet.up_modules))]
    return [f"{UNET}.{stage}" for stage in (*stages, "final_conv.0")]


def prepare(policy: PreTrainedPolicy, batch: Batch) -> Batch:
    """Observations with their cameras stacked, and what the noisy actions are made of."""
    padding = {"padding": batch["action_is_pad"]} if policy.config.do_mask_loss_for_padding else {}
    return observed(policy, batch) | padding | {"actions": batch[ACTION], **noise_beside(batch[ACTION], batch)}


def observed(policy: PreTrainedPolicy, batch: Batch) -> dict[str, Tensor]:
    """Observations with their cameras stacked."""
    cameras = [batch[key] for key in policy.config.image_features]
    if policy.config.n_obs_steps == 1:
        cameras = [camera[:, None] if camera.ndim == 4 else camera for camera in cameras]
    images = {OBS_IMAGES: torch.stack(cameras, dim=-4)} if cameras else {}
    states = {key: batch[key] for key in (OBS_STATE, OBS_ENV_STATE) if key in batch}
    return states | images


def act(policy: PreTrainedPolicy, batch: Batch) -> Tensor:
    """Denoise actions for the whole horizon, of which LeRobot's own sampler gives those to be taken alone."""
    model, seen = policy.diffusion, observed(policy, batch)
    actions: Tensor = model.conditional_sample(
        len(seen[OBS_STATE]), global_cond=model._prepare_global_conditioning(seen)
    )
    return actions


def predict(policy: PreTrainedPolicy, inputs: Batch) -> Tensor:
    """Run the U-Net on the actions at the noise and diffusion step of the inputs."""
    model = policy.diffusion
    noisy = model.noise_scheduler.add_noise(inputs["actions"], inputs["noise"], inputs["time"])
    denoised: Tensor = model.unet(noisy, inputs["time"], global_cond=model._prepare_global_conditioning(inputs))
    return denoised


def losses(policy: PreTrainedPolicy, inputs: Batch, output: Tensor) -> Tensor:
    """The squared error of the noise, or of the actions, at the noise and diffusion step of the inputs."""
    target = inputs["noise"] if policy.config.prediction_type == "epsilon" else inputs["actions"]
    return step_losses((output.float() - target).square(), inputs.get("padding"))


def noise(policy: PreTrainedPolicy, rows: Sequence[int]) -> dict[str, Tensor]:
    """Gaussian noise and a diffusion step for each row, distributed as in the policy's training."""
    shape = (policy.config.horizon, policy.config.action_feature.shape[0])
    num_steps = policy.diffusion.noise_scheduler.config.num_train_timesteps
    return noise_of_rows(rows, lambda: {"noise": torch.randn(shape), "time": torch.randint(num_steps, ())})


def layout(policy: PreTrainedPolicy, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
    """Hidden states are (batch, channels, time steps); images are seen as one vector, not as tokens."""
    return TokenLayout(channels_first=bool(path))


FAMILY = PolicyFamily(
    layers, predict, PolicyLoss(losses, "variance"), layout, prepare, noise, reads_actions=True, act=act
)
