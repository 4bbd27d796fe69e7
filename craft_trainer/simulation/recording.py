"""Demonstrations of Meta-World's scripted experts, recorded into a LeRobotDataset (v3)."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from numpy.typing import NDArray
from tqdm.auto import tqdm

from craft_trainer.files import appears_when_complete
from craft_trainer.simulation import camera
from craft_trainer.simulation.metaworld import (
    ACTION_SIZE,
    CONTROL_HZ,
    HORIZON,
    OBSERVATION_SIZE,
    STATE_SIZE,
    Expert,
    Goal,
    MetaWorldEnvs,
    check_task,
    describe,
    draw_goals,
)

ENVIRONMENT_STATE = "observation.environment_state"
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (STATE_SIZE,), "names": ["x", "y", "z", "opening"]},
    ENVIRONMENT_STATE: {"dtype": "float32", "shape": (OBSERVATION_SIZE,), "names": None},
    "action": {"dtype": "float32", "shape": (ACTION_SIZE,), "names": ["dx", "dy", "dz", "effort"]},
}
IMAGE = {"dtype": "image", "names": ["height", "width", "channel"]}  # stored one by one
ATTEMPTS_PER_EPISODE = 4

Frame = dict[str, NDArray[Any] | str]


def record_demonstrations(
    tasks: Sequence[str],
    output_dir: Path,
    *,
    num_episodes: int,
    seed: int,
    action_noise: float,
    image_size: int | None = None,
    environment_state: bool = True,
) -> LeRobotDataset:
    """Record ``num_episodes`` successful episodes of each task into one dataset at ``output_dir``.

    The expert's clean action is stored; the executed one has Gaussian noise of standard deviation ``action_noise``
    (in units of the action range [-1, 1]) so that the data covers states off the expert's path. Failed episodes are
    dropped and the next goal is tried. The folder appears only when it is complete. With ``image_size``, every frame
    has an image of so many rows and columns as well; all else stays the same. Without ``environment_state`` the
    dataset holds what LeRobot's own Meta-World environment shows: the gripper and the image.

    Raises:
        ValueError: Meta-World has no such task, ``image_size`` is not positive, or nothing shows where things are.
        FileExistsError: ``output_dir`` exists.
        RuntimeError: the expert fails too often; lower ``action_noise``; or nothing here renders images.
    """
    for task in tasks:
        check_task(task)
    if image_size is not None and image_size <= 0:
        raise ValueError(f"image_size is {image_size}: give the number of rows and columns, or drop it")
    if image_size is None and not environment_state:
        raise ValueError("environment_state false leaves the gripper alone to be seen: give image_size as well")
    features = (
        FEATURES if image_size is None else FEATURES | {camera.KEY: IMAGE | {"shape": (image_size, image_size, 3)}}
    )
    stored = {name: feature for name, feature in features.items() if environment_state or name != ENVIRONMENT_STATE}
    repo_id = f"local/{output_dir.name}"
    with (
        appears_when_complete(output_dir) as folder,
        tqdm(
            total=num_episodes * len(tasks), desc=f"record {output_dir.name}", unit="episode", disable=None
        ) as progress,
    ):
        dataset = LeRobotDataset.create(
            repo_id=repo_id,
            fps=CONTROL_HZ,
            features=stored,
            root=folder,
            robot_type="sawyer",
            use_videos=False,
            video_backend="pyav",  # nothing is decoded; this keeps LeRobot from probing for FFmpeg
        )
        for task in tasks:
            with closing(MetaWorldEnvs(task, num_envs=1, image_size=image_size)) as envs:
                for frames in successful_episodes(envs, num_episodes, seed=seed, action_noise=action_noise):
                    for frame in frames:
                        dataset.add_frame({name: frame[name] for name in (*stored, "task")})
                    dataset.save_episode()
                    progress.update()
        dataset.finalize()
    return LeRobotDataset(repo_id, root=output_dir, video_backend="pyav")


def successful_episodes(
    envs: MetaWorldEnvs, num_episodes: int, *, seed: int, action_noise: float
) -> Iterator[list[Frame]]:
    """Yield the frames of ``num_episodes`` episodes in which the noisy expert succeeded."""
    task = envs.task
    expert = Expert(task)
    goals = draw_goals(task, num_episodes * ATTEMPTS_PER_EPISODE, seed, "record")
    remaining = num_episodes
    for attempt, goal in enumerate(goals):
        if remaining == 0:
            return
        generator = np.random.default_rng([seed, attempt])
        frames = demonstrate(envs, expert, goal, action_noise=action_noise, generator=generator)
        if frames is not None:
            remaining -= 1
            yield frames
    if remaining:
        raise RuntimeError(
            f"the expert of {task} succeeded in only {num_episodes - remaining} of {len(goals)} attempts with "
            f"action noise {action_noise}: lower --action_noise or ask for fewer episodes"
        )


def demonstrate(
    envs: MetaWorldEnvs, expert: Expert, goal: Goal, *, action_noise: float, generator: np.random.Generator
) -> list[Frame] | None:
    """Frames of one episode of the expert under action noise, or None if it did not succeed."""
    observation = envs.reset([goal])
    frames: list[Frame] = []
    for _ in range(HORIZON):
        state = observation[ENVIRONMENT_STATE][0]
        action = expert.act(state.astype(np.float64))
        frames.append(
            {
                **{name: values[0] for name, values in observation.items()},
                "action": action.astype(np.float32),
                "task": describe(envs.task),
            }
        )
        executed = action + action_noise * generator.standard_normal(ACTION_SIZE)
        observation, success = envs.step(executed[None])
        if success[0]:
            return frames
    return None
