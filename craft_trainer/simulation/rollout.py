"""Closed-loop success of a policy: many environments at once, one batched forward pass for all of them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.simulation.metaworld import MetaWorldEnvs, Observation


def rollout(
    policy: "PolicyModel",
    envs: "MetaWorldEnvs",
    goals: Sequence[Any],
    *,
    max_steps: int,
    on_episode: Callable[[bool], object] = lambda _: None,
) -> list[bool]:
    """Roll the policy out: is each goal solved within ``max_steps`` actions, by the simulator's success flag?

    ``len(envs)`` episodes run in lockstep, so the policy predicts one batch per chunk of actions. ``on_episode`` is
    called with the outcome of every finished episode. ``policy`` needs ``reset``, ``select_action`` and
    ``acts_blindly``; ``envs`` needs ``description``, a length, ``reset`` and ``step`` as ``MetaWorldEnvs`` has them.

    Raises:
        ValueError: two goals start in the same state, so they are one episode counted twice.
    """
    outcomes: list[bool] = []
    initial_states: set[bytes] = set()
    for start in range(0, len(goals), len(envs)):
        block = goals[start : start + len(envs)]
        observation = envs.reset(block)
        parts = zip(*(value for value in observation.values() if value.dtype != np.uint8), strict=True)
        initial_states.update(b"".join(part.tobytes() for part in state) for state in parts)
        for solved in run_block(policy, envs, observation, max_steps=max_steps):
            outcomes.append(solved)
            on_episode(solved)
    if len(initial_states) != len(goals):
        raise ValueError(
            f"{len(goals)} episodes of {envs.description!r} start in only {len(initial_states)} different states: "
            "draw distinct goals"
        )
    return outcomes


@torch.inference_mode()
def run_block(
    policy: "PolicyModel",
    envs: "MetaWorldEnvs",
    observation: "Observation",
    *,
    max_steps: int,
    on_step: Callable[["Observation", NDArray[Any], NDArray[np.bool_]], object] | None = None,
) -> list[bool]:
    """Outcomes of the episodes that ``observation`` starts, stepped together until all succeed or time is up.

    ``on_step`` is called with what was seen, the actions that follow, and which episodes were not solved before.
    Without it, images are rendered only where the policy reads them: once for every chunk of actions.
    """
    num_episodes = len(next(iter(observation.values())))
    solved = np.zeros(num_episodes, dtype=bool)
    policy.reset()
    for _ in range(max_steps):
        batch: dict[str, Any] = {key: as_dataset_gives(value) for key, value in observation.items()}
        batch["task"] = [envs.description] * num_episodes
        actions = policy.select_action(batch).numpy()
        if on_step is not None:
            on_step(observation, actions, ~solved)
        observation, success = envs.step(actions, look=on_step is not None or not policy.acts_blindly())
        solved |= success
        if solved.all():
            break
    return solved.tolist()


def as_dataset_gives(value: NDArray[Any]) -> Float[Tensor, "episodes *dims"]:
    """An observation as a LeRobotDataset gives it: images as (3, rows, columns) in [0, 1], the rest as it is."""
    tensor = torch.from_numpy(value)
    return tensor.movedim(-1, 1).float() / 255 if tensor.dtype == torch.uint8 else tensor
