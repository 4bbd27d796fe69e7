"""Closed-loop success of a policy: many environments at once, one batched forward pass for all of them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor

Observation = dict[str, Float32[np.ndarray[Any, Any], "envs dim"] | UInt8[np.ndarray[Any, Any], "envs rows columns 3"]]


class Environments(Protocol):
    """Simulators of one task that are stepped together; ``craft_trainer.simulation.metaworld`` has one kind."""

    description: str

    def __len__(self) -> int: ...

    def reset(self, goals: Sequence[Any]) -> Observation:
        """Start one episode per goal."""
        ...

    def step(
        self, actions: Float[np.ndarray[Any, Any], "episodes dim"]
    ) -> tuple[Observation, Bool[np.ndarray[Any, Any], " episodes"]]:
        """Observations and success flags after one action per episode."""
        ...


class ActingPolicy(Protocol):
    """A policy that queues chunks of actions by itself; ``PolicyModel`` is one."""

    def reset(self) -> None:
        """Forget queued actions."""
        ...

    def select_action(self, batch: dict[str, Any]) -> Float[Tensor, "batch dim"]:
        """The next action for a batch of raw observations."""
        ...


def rollout(
    policy: ActingPolicy,
    envs: Environments,
    goals: Sequence[Any],
    *,
    max_steps: int,
    on_episode: Callable[[bool], object] = lambda _: None,
) -> list[bool]:
    """Whether the policy solved each goal within ``max_steps`` actions, by the simulator's own success flag.

    ``len(envs)`` episodes run in lockstep, so the policy predicts one batch per chunk of actions. ``on_episode`` is
    called with the outcome of every finished episode.

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
def run_block(policy: ActingPolicy, envs: Environments, observation: Observation, *, max_steps: int) -> list[bool]:
    """Outcomes of the episodes that ``observation`` starts, stepped together until all succeed or time is up."""
    num_episodes = len(next(iter(observation.values())))
    solved = np.zeros(num_episodes, dtype=bool)
    policy.reset()
    for _ in range(max_steps):
        batch: dict[str, Any] = {key: as_dataset_gives(value) for key, value in observation.items()}
        batch["task"] = [envs.description] * num_episodes
        actions = policy.select_action(batch).numpy()
        observation, success = envs.step(actions)
        solved |= success
        if solved.all():
            break
    return solved.tolist()


def as_dataset_gives(value: NDArray[Any]) -> Float[Tensor, "episodes *dims"]:
    """An observation as a LeRobotDataset gives it: images as (3, rows, columns) in [0, 1], the rest as it is."""
    tensor = torch.from_numpy(value)
    return tensor.movedim(-1, 1).float() / 255 if tensor.dtype == torch.uint8 else tensor
