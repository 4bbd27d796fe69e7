"""A policy's own episodes as a LeRobotDataset (v3): nobody demonstrates anything."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.random_utils import set_seed
from numpy.typing import NDArray

from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.simulation import camera
from craft_trainer.simulation.metaworld import (
    ACTION_SIZE,
    CONTROL_HZ,
    HORIZON,
    Goal,
    MetaWorldEnvs,
    Observation,
    check_tasks,
    draw_goals,
)
from craft_trainer.simulation.recording import (
    ATTEMPTS_PER_EPISODE,
    ENVIRONMENT_STATE,
    NAMES,
    Attempt,
    Frame,
    wanted,
    write_dataset,
)
from craft_trainer.simulation.rollout import run_block

SHOWN = ("observation.state", ENVIRONMENT_STATE, camera.KEY)


def record_policy(
    policy: PolicyModel,
    tasks: Sequence[str],
    output_dir: Path,
    *,
    num_episodes: int,
    seed: int,
    failed: bool,
    num_envs: int,
    image_size: int | None = None,
    shadows: bool = True,
    max_steps: int = HORIZON,
) -> LeRobotDataset:
    """Let ``policy`` act in Meta-World and record ``num_episodes`` episodes of each task into one dataset.

    A frame holds the features that the policy reads and the action that it chose, in the environment's units. The goals
    are of a stream of their own, which neither `rollout` nor the experts meet. Failed episodes are kept with
    ``failed``, else further goals are tried. The folder appears only when it is complete.

    Raises:
        ValueError: Meta-World has no such task, or is not what the policy reads and moves.
        FileExistsError: ``output_dir`` exists.
        RuntimeError: the policy fails too often, or nothing here renders images.
    """
    tasks = check_tasks(tasks)
    read = observed(policy, SHOWN, "Meta-World")
    action = policy.policy_config.output_features["action"].shape
    if tuple(action) != (ACTION_SIZE,):
        raise ValueError(f"the policy's action has shape {tuple(action)}, Meta-World's has {ACTION_SIZE} numbers")
    set_seed(seed)  # of policies that sample

    def episodes() -> Iterator[list[Frame]]:
        for number, task in enumerate(tasks):
            goals = draw_goals(task, num_episodes * (1 if failed else ATTEMPTS_PER_EPISODE), seed, "rollout")
            most = min(num_envs, num_episodes)
            with closing(MetaWorldEnvs(task, most, image_size=image_size, shadows=shadows)) as envs:
                attempts = attempts_at(policy, envs, goals, read=read, max_steps=max_steps)
                yield from wanted(attempts, num_episodes, failed=failed, advice=advice_on(task, tasks, tasks[:number]))

    return write_dataset(
        output_dir, episodes(), total=num_episodes * len(tasks), fps=CONTROL_HZ, robot_type="sawyer", names=NAMES
    )


def advice_on(task: str, tasks: Sequence[str], done: Sequence[str]) -> str:
    """Say what to do where a policy fails too often at ``task`` of ``tasks``, after those ``done``."""
    ways = f"of {task}, take failed episodes as well (--failed keep)"
    ways += f", ask for fewer, or leave {task} out of --tasks" if len(tasks) > 1 else ", or ask for fewer"
    return ways + (f" ({', '.join(done)} succeeded as often as asked for, and nothing is kept)" if done else "")


def observed(policy: PolicyModel, shown: Sequence[str], where: str) -> list[str]:
    """Names of what the policy observes, as the environment names them; ValueError if it does not show one of them."""
    apart = (*policy.target_keys(), "task")
    read = [name for name in policy.input_keys() if name not in apart and ".empty_camera_" not in name]
    if missing := [name for name in read if name not in shown]:
        raise ValueError(f"the policy reads {', '.join(missing)}, {where} shows {', '.join(shown)}")
    return read


def attempts_at(
    policy: PolicyModel, envs: MetaWorldEnvs, goals: Sequence[Goal], *, read: Sequence[str], max_steps: int
) -> Iterator[Attempt]:
    """Yield an episode for each of the ``goals``, ``len(envs)`` of them in lockstep."""
    for start in range(0, len(goals), len(envs)):
        block = goals[start : start + len(envs)]
        episodes: list[list[Frame]] = [[] for _ in block]

        def keep(
            seen: Observation,
            actions: NDArray[Any],
            running: NDArray[np.bool_],
            episodes: list[list[Frame]] = episodes,
        ) -> None:
            for index in np.flatnonzero(running):
                frame = {name: seen[name][index] for name in read}
                episodes[index].append({**frame, "action": actions[index], "task": envs.description})

        solved = run_block(policy, envs, envs.reset(block), max_steps=max_steps, on_step=keep)
        yield from zip(episodes, solved, strict=True)
