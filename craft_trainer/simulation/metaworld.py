"""Meta-World v3 tasks: goals chosen by seed, observations under LeRobot's names, many environments at once.

``reset(seed=...)`` of a Meta-World environment does not choose the goal, and environments made with one seed replay the
same goals in the same order. Goals are therefore drawn explicitly (:func:`draw_goals`) and given to each episode.
"""

import difflib
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

try:
    from craft_trainer.simulation import camera  # isort: skip  # before MuJoCo, of which it says why it fails
    import metaworld
    from lerobot.envs.metaworld import TASK_DESCRIPTIONS
    from metaworld.policies import ENV_POLICY_MAP
    from metaworld.types import Task
except ImportError as error:
    raise ImportError(
        f"Meta-World is not installed ({error}): pip install 'craft-trainer[lerobot,metaworld]'"
    ) from error

from craft_trainer.options import refuse_twice

type Goal = Task  # what Meta-World calls a task: one goal of one task
Observation = dict[str, Float32[np.ndarray[Any, Any], "envs dim"] | UInt8[np.ndarray[Any, Any], "envs size size 3"]]
Split = Literal["record", "evaluate", "rollout"]

TASK_NAMES: tuple[str, ...] = tuple(metaworld.MT1.ENV_NAMES)
CONTROL_HZ = 80  # five simulation steps of 2.5 ms per action
STATE_SIZE = 4  # gripper position in metres (3) and its opening in [0, 1]
OBSERVATION_SIZE = 39  # this and the previous frame of 18 numbers, and the goal position
ACTION_SIZE = 4  # gripper displacement (3) and gripper effort, each in [-1, 1]
HORIZON = 500  # Meta-World's own limit on an episode, in actions
GOALS_PER_DRAW = 50  # what metaworld.MT1 draws at once


def check_task(task: str) -> str:
    """Give the Meta-World v3 name of ``task``, which is that name or LeRobot's sentence for it.

    Raises:
        ValueError: it is neither, or the sentence of two tasks.
    """
    named = [name for name in TASK_NAMES if TASK_DESCRIPTIONS[name] == task]
    if len(named) > 1:
        raise ValueError(f"{task!r} is said of {' and '.join(named)}: give the name of one")
    if named:
        return named[0]
    if task not in TASK_NAMES:
        near = difflib.get_close_matches(task, TASK_NAMES, n=3, cutoff=0.3)
        raise ValueError(f"{task!r} is not a Meta-World v3 task. Did you mean {' or '.join(near) or TASK_NAMES[0]}?")
    return task


def check_tasks(tasks: Sequence[str]) -> list[str]:
    """Give the names of ``tasks``, as :func:`check_task`; a ValueError if one stands twice, by name or by sentence."""
    named = [check_task(task) for task in tasks]
    refuse_twice("tasks", named, ", by name or by sentence")
    return named


def describe(task: str) -> str:
    """The sentence LeRobot gives a policy for ``task``, e.g. "Push the puck to a goal"."""
    return str(TASK_DESCRIPTIONS[check_task(task)])


def as_groups(values: Mapping[str, float], groups: Collection[str]) -> dict[str, float]:
    """Put its sentence in place of every task's name in ``values`` that is none of the ``groups``.

    Raises:
        ValueError: two tasks have one sentence, so they are one group, and their values differ.
    """
    sentences = {task: describe(task) for task in values if task in TASK_NAMES and task not in groups}
    found: dict[str, float] = {}
    for task, value in values.items():
        group = sentences.get(task, task)
        if found.setdefault(group, value) != value:
            raise ValueError(
                f"{task} is one group with another task, {group!r}: give both the same value, not {value:g}"
            )
    return found


def draw_goals(task: str, num_goals: int, seed: int, split: Split) -> list[Goal]:
    """``num_goals`` distinct goals of ``task``: a pure function of its arguments.

    Every split uses a random stream of its own, so that evaluation never meets a goal recorded by expert or policy.
    """
    stream = get_args(Split).index(split)
    goals: list[Goal] = []
    for draw in range(-(-num_goals // GOALS_PER_DRAW)):
        (draw_seed,) = np.random.SeedSequence([stream, seed, draw]).generate_state(1)
        goals += metaworld.MT1(check_task(task), seed=int(draw_seed)).train_tasks
    return goals[:num_goals]


class MetaWorldEnvs:
    """``num_envs`` simulators of one task, made once and reused for any number of episodes.

    With ``image_size``, observations hold images of so many rows and columns as well, 8 bits a colour; without
    ``shadows`` they are several times as fast to render on a CPU, and not those of LeRobot's own environment.

    Raises:
        ValueError: Meta-World has no such task.
        RuntimeError: images are asked for, and nothing here renders them.
    """

    def __init__(self, task: str, num_envs: int, *, image_size: int | None = None, shadows: bool = True) -> None:
        self.task = check_task(task)
        self.description = describe(task)
        self._envs = [metaworld.ALL_V3_ENVIRONMENTS[task]() for _ in range(num_envs)]
        self._observations = np.zeros((num_envs, OBSERVATION_SIZE))
        self._active = np.zeros(num_envs, dtype=bool)
        models = [env.model for env in self._envs]
        self._camera = None if image_size is None else camera.Camera(models, image_size, shadows=shadows)
        self._images = np.zeros((num_envs, image_size or 0, image_size or 0, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._envs)

    def reset(self, goals: Sequence[Goal]) -> Observation:
        """Start one episode per goal in the first ``len(goals)`` environments; the others stay idle."""
        self._active[:] = False
        for index, goal in enumerate(goals):
            self._envs[index].set_task(goal)
            self._observations[index], _ = self._envs[index].reset()
            self._active[index] = True
            self._look(index)
        return self._named(len(goals))

    def step(
        self, actions: Float64[np.ndarray[Any, Any], "episodes 4"], *, look: bool = True
    ) -> tuple[Observation, Bool[np.ndarray[Any, Any], " episodes"]]:
        """One action per episode; returns the observations and the simulator's own success flags.

        An episode that has succeeded is not simulated further and keeps its last observation.
        Without a ``look`` the images stay as they were.
        """
        success = np.zeros(len(actions), dtype=bool)
        for index in np.flatnonzero(self._active[: len(actions)]):
            action = np.clip(actions[index], -1.0, 1.0).astype(np.float32)
            self._observations[index], _, _, _, info = self._envs[index].step(action)
            success[index] = info["success"] > 0
            if look:
                self._look(index)
        self._active[: len(actions)] &= ~success
        return self._named(len(actions)), success

    def viewer(self, size: int) -> camera.Camera:
        """Make a camera of ``size`` × ``size`` pixels that watches these simulators, beside what a policy sees."""
        return camera.Camera([env.model for env in self._envs], size)

    def seen_by(self, viewer: camera.Camera, index: int) -> UInt8[np.ndarray[Any, Any], "size size 3"]:
        """Take a picture of one environment as it is now."""
        return viewer.look(self._envs[index].model, self._envs[index].data)[0]

    def close(self) -> None:
        """Give the camera's memory back."""
        if self._camera is not None:
            self._camera.close()

    def _look(self, index: int) -> None:
        if self._camera is not None:
            self._images[index] = self._camera.look(self._envs[index].model, self._envs[index].data)[0]

    def _named(self, num_episodes: int) -> Observation:
        named = name_observation(self._observations[:num_episodes])
        return named if self._camera is None else named | {camera.KEY: self._images[:num_episodes].copy()}


def name_observation(observation: Float64[np.ndarray[Any, Any], "*batch 39"]) -> Observation:
    """Meta-World's flat observation under LeRobot's feature names, as float32."""
    observation = observation.astype(np.float32)
    return {
        "observation.state": observation[..., :STATE_SIZE],
        "observation.environment_state": observation,
    }


class Expert:
    """Meta-World's scripted policy of one task."""

    def __init__(self, task: str) -> None:
        self._policy = ENV_POLICY_MAP[check_task(task)]()

    def act(self, observation: Float64[np.ndarray[Any, Any], " 39"]) -> Float64[np.ndarray[Any, Any], " 4"]:
        """The expert's action, clipped to the environment's range [-1, 1]; metaworld warns of those beyond it."""
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            return np.asarray(np.clip(self._policy.get_action(observation), -1.0, 1.0), dtype=np.float64)
