"""Episodes written into a LeRobotDataset (v3), and the demonstrations of Meta-World's scripted experts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from numpy.typing import NDArray

from craft_trainer.files import appears_when_complete
from craft_trainer.progress import progress
from craft_trainer.simulation.metaworld import (
    ACTION_SIZE,
    CONTROL_HZ,
    HORIZON,
    Expert,
    Goal,
    MetaWorldEnvs,
    check_tasks,
    describe,
    draw_goals,
)

ENVIRONMENT_STATE = "observation.environment_state"
NAMES = {"observation.state": ["x", "y", "z", "opening"], "action": ["dx", "dy", "dz", "effort"]}
IMAGE = {"dtype": "image", "names": ["height", "width", "channel"]}  # stored one by one
ATTEMPTS_PER_EPISODE = 4

Frame = dict[str, NDArray[Any] | str]
Attempt = tuple[list[Frame], bool]  # the frames of an episode, and whether it succeeded


def record_demonstrations(
    tasks: Sequence[str],
    output_dir: Path,
    *,
    num_episodes: int,
    seed: int,
    action_noise: float,
    image_size: int | None = None,
    shadows: bool = True,
    environment_state: bool = True,
) -> LeRobotDataset:
    """Record ``num_episodes`` successful episodes of each task into one dataset at ``output_dir``.

    The expert's clean action is stored; the executed one has Gaussian noise of standard deviation ``action_noise``
    (in units of the action range [-1, 1]) so that the data covers states off the expert's path. Failed episodes are
    dropped and the next goal is tried. The folder appears only when it is complete. With ``image_size``, every frame
    has an image of so many rows and columns as well, with ``shadows`` or without; all else stays the same. Without
    ``environment_state`` the dataset holds what LeRobot's own Meta-World environment shows: the gripper and the image.

    Raises:
        ValueError: Meta-World has no such task, ``image_size`` is not positive, or nothing shows where things are.
        FileExistsError: ``output_dir`` exists.
        RuntimeError: the expert fails too often; lower ``action_noise``; or nothing here renders images.
    """
    tasks = check_tasks(tasks)
    if image_size is not None and image_size <= 0:
        raise ValueError(f"image_size is {image_size}: give the number of rows and columns, or drop it")
    if image_size is None and not environment_state:
        raise ValueError("environment_state false leaves the gripper alone to be seen: give image_size as well")
    left_out = () if environment_state else (ENVIRONMENT_STATE,)

    def episodes() -> Iterator[list[Frame]]:
        for task in tasks:
            with closing(MetaWorldEnvs(task, num_envs=1, image_size=image_size, shadows=shadows)) as envs:
                for frames in successful_episodes(envs, num_episodes, seed=seed, action_noise=action_noise):
                    yield [{name: frame[name] for name in frame if name not in left_out} for frame in frames]

    return write_dataset(
        output_dir, episodes(), total=num_episodes * len(tasks), fps=CONTROL_HZ, robot_type="sawyer", names=NAMES
    )


def write_dataset(
    output_dir: Path,
    episodes: Iterator[list[Frame]],
    *,
    total: int,
    fps: int,
    robot_type: str | None = None,
    names: Mapping[str, list[str]] | None = None,
) -> LeRobotDataset:
    """Write ``total`` episodes into a LeRobotDataset with the features of their first frame.

    The folder appears only when it is complete. ``names`` are those of a feature's numbers.

    Raises:
        ValueError: ``total`` is not positive.
        FileExistsError: ``output_dir`` exists.
    """
    if total <= 0:
        raise ValueError(f"{total} episodes: record at least one of at least one task")
    repo_id = f"local/{output_dir.name}"
    with (
        appears_when_complete(output_dir) as folder,
        progress(total=total, desc=f"record {output_dir.name}", unit="episode") as bar,
    ):
        dataset: LeRobotDataset | None = None
        try:
            for frames in episodes:
                dataset = dataset or LeRobotDataset.create(
                    repo_id=repo_id,
                    fps=fps,
                    features=features_of(frames[0], names or {}),
                    root=folder,
                    robot_type=robot_type,
                    use_videos=False,
                    video_backend="pyav",  # nothing is decoded; this keeps LeRobot from probing for FFmpeg
                )
                for frame in frames:
                    dataset.add_frame(frame)
                dataset.save_episode()
                bar.update()
        finally:
            if dataset is not None:
                dataset.finalize()  # after an error too, or it writes what it holds when it is collected
    return LeRobotDataset(repo_id, root=output_dir, video_backend="pyav")


def features_of(frame: Frame, names: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    """LeRobot's description of what ``frame`` holds: images of 8 bits a colour (rows, columns, 3), and numbers."""
    values = {name: value for name, value in frame.items() if not isinstance(value, str)}
    return {
        name: IMAGE | {"shape": value.shape}
        if value.dtype == np.uint8
        else {"dtype": str(value.dtype), "shape": value.shape, "names": names.get(name)}
        for name, value in values.items()
    }


def wanted(attempts: Iterator[Attempt], num_episodes: int, *, failed: bool, advice: str) -> Iterator[list[Frame]]:
    """Yield the frames of ``num_episodes`` of the ``attempts``: of those that succeeded, or of all with ``failed``.

    Raises:
        RuntimeError: there are too few; ``advice`` is the way out.
    """
    found = tried = 0
    for frames, solved in attempts:
        tried += 1
        if solved or failed:
            found += 1
            yield frames
        if found == num_episodes:
            return
    raise RuntimeError(f"only {found} of {tried} attempts succeeded, and {num_episodes} were asked for: {advice}")


def successful_episodes(
    envs: MetaWorldEnvs, num_episodes: int, *, seed: int, action_noise: float
) -> Iterator[list[Frame]]:
    """Yield the frames of ``num_episodes`` episodes in which the noisy expert succeeded."""
    expert = Expert(envs.task)
    goals = draw_goals(envs.task, num_episodes * ATTEMPTS_PER_EPISODE, seed, "record")
    attempts = (
        demonstrate(envs, expert, goal, action_noise=action_noise, generator=np.random.default_rng([seed, attempt]))
        for attempt, goal in enumerate(goals)
    )
    advice = f"the expert of {envs.task} had action noise {action_noise}: lower --action_noise, or ask for fewer"
    return wanted(attempts, num_episodes, failed=False, advice=advice)


def demonstrate(
    envs: MetaWorldEnvs, expert: Expert, goal: Goal, *, action_noise: float, generator: np.random.Generator
) -> Attempt:
    """One episode of the expert under action noise."""
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
            return frames, True
    return frames, False
