"""Shared parts of vision-language-action policies: stacks of layers, tokens of several cameras, a head."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from craft_trainer.models.base import AT_INPUT, Batch, TokenLayout
from craft_trainer.models.noise import noise_of_rows
from craft_trainer.models.task_loss import step_losses


class _HeadReachedError(Exception):
    """Raised by the head's hook: what follows is a loss that nobody asked for."""


def residual_stream(policy: nn.Module, stack: str) -> list[str]:
    """The hidden state after every layer of the transformer at ``stack``, the last one after its final norm.

    For transformers whose layers are computed without being called: what leaves a layer is what enters the norm of
    the next.
    """
    layers = policy.get_submodule(f"{stack}.layers")
    assert isinstance(layers, nn.ModuleList)
    following = [f"{stack}.layers.{index}.input_layernorm{AT_INPUT}" for index in range(1, len(layers))]
    return [*following, f"{stack}.norm"]


def head_output(head: nn.Module, forward: Callable[[], Any]) -> Tensor:
    """Return the output of ``head`` in ``forward()``, which ends there."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.append(output)
        raise _HeadReachedError

    handle = head.register_forward_hook(keep)
    try:
        forward()
    except _HeadReachedError:
        return outputs[0]
    finally:
        handle.remove()
    raise AssertionError(f"the forward pass did not reach {type(head).__name__}: name the module whose output is held")


def velocity(policy: Any, inputs: Batch, observation: Sequence[str]) -> Float[Tensor, "batch steps dim"]:
    """v_θ(x_t, t) at x_t = t · noise + (1 − t) · actions, in the action's own dimensions.

    It is what the policy's own training forward computes before its loss, at the noise and time of ``inputs``.
    """
    model = policy.model
    given = [inputs[name] for name in (*observation, "actions", "noise", "time")]
    forward = type(model).forward  # the instance's may be compiled, which would hide the hidden states
    padded = head_output(model.action_out_proj, lambda: forward(model, *given))
    return padded[..., : policy.config.action_feature.shape[0]]


def flow_noise(policy: Any, rows: Sequence[int]) -> dict[str, Tensor]:
    """Gaussian noise and a time in [0, 1] for each row, distributed as in the policy's training."""
    shape = (policy.config.chunk_size, policy.config.max_action_dim)
    sample_noise, sample_time = policy.model.sample_noise, policy.model.sample_time
    return noise_of_rows(rows, lambda: {"noise": sample_noise(shape, "cpu"), "time": sample_time(1, "cpu")[0]})


def flow_losses(policy: Any, inputs: Batch, output: Tensor) -> Float[Tensor, " batch"]:
    """The squared error of the velocity noise − actions, in the action's own dimensions, at the noise of the inputs."""
    velocities = (inputs["noise"] - inputs["actions"])[..., : output.shape[-1]]
    return step_losses((output.float() - velocities).square(), inputs.get("padding"))


def chunk(policy: Any, batch: Batch) -> Float[Tensor, "batch steps dim"]:
    """A chunk of actions by LeRobot's own sampler, from noise that it draws itself."""
    actions: Tensor = policy.predict_action_chunk(dict(batch))
    return actions


def cameras_first(
    images: Sequence[Bool[Tensor, " batch"]], others: Sequence[Bool[Tensor, "batch _"]], num_tokens: int
) -> TokenLayout:
    """Layout of as many tokens for each camera, then the ``others``.

    Args:
        images: for each camera, the samples that have its image.
        others: for each segment after the images, its tokens that are not padding.
        num_tokens: in all.

    Raises:
        ValueError: what the ``others`` leave cannot be shared equally by the cameras.
    """
    left = num_tokens - sum(mask.shape[1] for mask in others)
    if left <= 0 or left % len(images):
        raise ValueError(
            f"{num_tokens} tokens, {num_tokens - left} of them text, states or actions, leave {left} to "
            f"{len(images)} cameras: this is not a layer of the policy's backbone"
        )
    each = left // len(images)
    return marked([(mask[:, None].expand(-1, each), True) for mask in images] + [(mask, False) for mask in others])


def marked(segments: Sequence[tuple[Bool[Tensor, "batch _"], bool]]) -> TokenLayout:
    """Layout of ``segments`` in sequence: their tokens that are not padding, and whether they are those of an image."""
    return TokenLayout(
        valid=torch.cat([valid for valid, _ in segments], dim=1),
        image=torch.cat([torch.full_like(valid, is_image) for valid, is_image in segments], dim=1),
    )


def unknown_tokens(path: str, known: Sequence[str]) -> ValueError:
    """The error for a path of which it is not known what its tokens are."""
    return ValueError(f"what the tokens at {path!r} are is not known; choose a layer in {' or '.join(known)}")
