"""Rollouts in environments that exist only here: who succeeds, who waits, and when it stops."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from craft_trainer.simulation.rollout import rollout, run_block


class CountingPolicy:
    """Moves every episode forward by one; remembers what it was shown."""

    blind = False

    def __init__(self) -> None:
        self.num_resets = 0
        self.batches: list[dict[str, Any]] = []
        self.grad_modes: list[bool] = []

    def reset(self) -> None:
        self.num_resets += 1

    def select_action(self, batch: dict[str, Any]) -> torch.Tensor:
        self.batches.append(batch)
        self.grad_modes.append(torch.is_grad_enabled())
        return torch.ones(len(batch["observation.state"]), 1)

    def acts_blindly(self) -> bool:
        return self.blind


class CountingEnvs:
    """An episode succeeds in the step in which its position reaches its goal, and says so once."""

    description = "count to the goal"

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.block_sizes: list[int] = []
        self.looks: list[bool] = []

    def __len__(self) -> int:
        return self.num_envs

    def reset(self, goals: list[float]) -> dict[str, NDArray[np.float32]]:
        self.block_sizes.append(len(goals))
        self.goals, self.positions = np.array(goals), np.zeros(len(goals))
        return self._observe()

    def step(
        self, actions: NDArray[Any], *, look: bool = True
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
        assert actions.shape == (len(self.goals), 1)
        self.looks.append(look)
        self.positions = self.positions + actions[:, 0]
        return self._observe(), self.positions == self.goals

    def _observe(self) -> dict[str, NDArray[np.float32]]:
        return {
            "observation.state": self.positions[:, None].astype(np.float32),
            "observation.environment_state": self.goals[:, None].astype(np.float32),
        }


@pytest.mark.parametrize("num_envs", [1, 2, 3, 7, 20])
def test_outcomes_are_in_the_order_of_the_goals_whatever_the_blocks(num_envs: int) -> None:
    goals = [3.0, 11.0, 10.0, 1.0, 99.0, 2.0, 0.5]
    outcomes = rollout(CountingPolicy(), CountingEnvs(num_envs), goals, max_steps=10)
    assert outcomes == [goal <= 10 and goal == int(goal) for goal in goals]


def test_the_last_block_holds_the_remaining_goals() -> None:
    envs, policy = CountingEnvs(3), CountingPolicy()
    rollout(policy, envs, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], max_steps=10)
    assert envs.block_sizes == [3, 3, 1]
    assert policy.num_resets == 3  # no queued action survives into the next block


def test_more_environments_than_goals_stay_idle() -> None:
    envs = CountingEnvs(20)
    assert rollout(CountingPolicy(), envs, [1.0, 50.0], max_steps=5) == [True, False]
    assert envs.block_sizes == [2]


def test_a_block_ends_when_its_slowest_episode_has_succeeded() -> None:
    policy = CountingPolicy()
    rollout(policy, CountingEnvs(2), [2.0, 6.0, 3.0, 1.0], max_steps=100)
    assert len(policy.batches) == 6 + 3


def test_an_episode_fails_after_max_steps_actions() -> None:
    policy = CountingPolicy()
    assert rollout(policy, CountingEnvs(1), [5.0], max_steps=5) == [True]
    assert rollout(policy, CountingEnvs(1), [6.0], max_steps=5) == [False]
    assert len(policy.batches) == 5 + 5


def test_one_success_counts_although_the_flag_falls_again() -> None:
    """The first episode passes its goal in step 2 and keeps moving until the second is done."""
    assert rollout(CountingPolicy(), CountingEnvs(2), [2.0, 7.0], max_steps=10) == [True, True]


def test_the_policy_sees_raw_observations_and_the_tasks_sentence() -> None:
    policy = CountingPolicy()
    rollout(policy, CountingEnvs(2), [2.0, 3.0], max_steps=10)
    last = policy.batches[-1]
    assert last["task"] == ["count to the goal"] * 2
    assert last["observation.state"].tolist() == [[2.0], [2.0]]
    assert last["observation.environment_state"].tolist() == [[2.0], [3.0]]
    assert not any(policy.grad_modes)


def test_every_outcome_is_announced() -> None:
    announced: list[bool] = []
    outcomes = rollout(CountingPolicy(), CountingEnvs(2), [1.0, 50.0, 2.0], max_steps=5, on_episode=announced.append)
    assert announced == outcomes == [True, False, True]


@pytest.mark.parametrize("num_envs", [1, 4])
def test_goals_that_start_in_the_same_state_are_refused(num_envs: int) -> None:
    """Also across blocks: an episode counted twice would halve the error bars for nothing."""
    with pytest.raises(ValueError, match=r"4 episodes of 'count to the goal' start in only 3 different states"):
        rollout(CountingPolicy(), CountingEnvs(num_envs), [1.0, 2.0, 1.0, 3.0], max_steps=5)


class SeeingEnvs(CountingEnvs):
    """Shows its position as a grey image as well."""

    def _observe(self) -> dict[str, NDArray[Any]]:
        images = np.broadcast_to(self.positions[:, None, None, None], (len(self.positions), 2, 5, 3))
        return super()._observe() | {"observation.images.eye": images.astype(np.uint8)}


def test_images_reach_the_policy_as_a_dataset_gives_them() -> None:
    policy = CountingPolicy()
    assert rollout(policy, SeeingEnvs(2), [2.0, 3.0, 1.0], max_steps=10) == [True] * 3
    images = policy.batches[2]["observation.images.eye"]
    assert images.shape == (2, 3, 2, 5)
    assert images.dtype == torch.float32
    assert images.unique().tolist() == [np.float32(2 / 255)]


class ChunkPolicy(CountingPolicy):
    """Looks before every third action."""

    def acts_blindly(self) -> bool:
        return len(self.batches) % 3 != 0


def test_images_are_rendered_where_the_policy_reads_them() -> None:
    """Whoever watches sees them all. Seen to fail with a look that says what the last action was, not the next."""
    envs: Any = CountingEnvs(1)
    rollout(ChunkPolicy(), envs, [7.0], max_steps=7)  # type: ignore[arg-type]
    assert envs.looks == [False, False, True, False, False, True, False]
    envs = CountingEnvs(1)
    run_block(ChunkPolicy(), envs, envs.reset([7.0]), max_steps=7, on_step=lambda *_: None)  # type: ignore[arg-type]
    assert all(envs.looks)


def test_no_goal_is_no_episode() -> None:
    assert rollout(CountingPolicy(), CountingEnvs(2), [], max_steps=5) == []
