"""Episodes of Meta-World to look at: played by the expert and by worse players, seen at a few moments."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import metaworld
import mujoco
import numpy as np
from jaxtyping import Float64, UInt8
from numpy.typing import NDArray

from craft_trainer.simulation.camera import Camera
from craft_trainer.simulation.embodied import Facts
from craft_trainer.simulation.metaworld import TASK_NAMES, Expert, Goal, check_task, draw_goals
from craft_trainer.simulation.players import OBJECT, Player, astray, bystander, held

Style = Literal["expert", "stopped", "astray", "bystander"]
STYLES: tuple[Style, ...] = ("expert", "stopped", "astray", "bystander")  # of the episodes of a task, in turn
MAX_ACTIONS = 150
SETTLING = 15  # actions that are played on after the first success, for its end to be plain to see
CONTACT = 0.06  # metres between the fingertips' middle and the object
MOVED = 0.005  # metres
CLEARLY_FAILED = 0.5  # of the first distance to the goal
HIDDEN = 0.035  # metres between a point and what the camera sees in its place: about an object's radius
MARKER = "goal"  # the site of a goal, where a task has one
OPENING = 3  # in an observation
COLOURS: Mapping[str, tuple[float, float, float]] = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}


class Moment(NamedTuple):
    """One time step as the simulator knows it: enough to come back to it."""

    physics: Float64[np.ndarray[Any, Any], " state"]
    observation: Float64[np.ndarray[Any, Any], " 39"]
    distance: float  # from the fingertips' middle to the object, metres
    to_goal: float  # from the object to its goal, metres
    success: bool


@dataclass(frozen=True)
class Shot:
    """One frame of one episode: the picture and what is true of it."""

    task: str
    episode: int
    style: Style
    frame: int
    moment: str
    picture: UInt8[np.ndarray[Any, Any], "size size 3"]
    facts: Facts


class Stage:
    """One simulator of ``task`` and the camera before it; pictures have ``size`` rows and columns.

    Raises:
        ValueError: Meta-World has no such task.
        RuntimeError: nothing here renders images.
    """

    def __init__(self, task: str, size: int) -> None:
        self.task = check_task(task)
        self._env = metaworld.ALL_V3_ENVIRONMENTS[task]()
        self._camera = Camera([self._env.model], size)
        self._size = size
        self._marker, self._marker_colour = find_marker(self._env)

    def close(self) -> None:
        """Give the camera's memory back."""
        self._camera.close()

    def shots(self, num_episodes: int, seed: int) -> Iterator[list[Shot]]:
        """Yield the shots of every episode: a pure function of task, size, ``seed`` and the episode's number."""
        for episode, goal in enumerate(draw_goals(self.task, num_episodes, seed, "evaluate")):
            style = STYLES[episode % len(STYLES)]
            generator = np.random.default_rng([seed, TASK_NAMES.index(self.task), episode])
            moments = self.play(goal, style, generator)
            yield [
                Shot(self.task, episode, style, frame, name, *self.see(moments, frame))
                for name, frame in choose_frames(moments).items()
            ]

    def play(self, goal: Goal, style: Style, generator: np.random.Generator) -> list[Moment]:
        """One episode: of the expert, of one stopped midway, of one astray, or of a bystander."""
        expert = Expert(self.task).act
        if style == "bystander":
            return self.roll(goal, bystander(generator), int(generator.integers(40, 100)), settle=False)
        if style == "stopped":
            whole = len(self.roll(goal, expert, MAX_ACTIONS)) - 1
            num_actions = max(1, int(generator.uniform(0.2, 0.8) * (whole - SETTLING)))
            return self.roll(goal, held(expert, generator), num_actions, settle=False)
        return self.roll(goal, astray(expert, generator) if style == "astray" else expert, MAX_ACTIONS)

    def roll(self, goal: Goal, player: Player, num_actions: int, *, settle: bool = True) -> list[Moment]:
        """Play ``num_actions``, or up to a few actions after the first success if it is to ``settle``."""
        self._env.set_task(goal)
        observation, _ = self._env.reset()
        moments = [self._moment(observation, {})]
        while len(moments) <= num_actions:
            observation, _, _, _, info = self._env.step(player(observation).astype(np.float32))
            moments.append(self._moment(observation, info))
            if settle and moments[-1].success:
                settle, num_actions = False, min(num_actions, len(moments) - 1 + SETTLING)
        return moments

    def see(self, moments: Sequence[Moment], frame: int) -> tuple[UInt8[np.ndarray[Any, Any], "size size 3"], Facts]:
        """The picture of one moment of the episode that was played last, and what is true of it."""
        moment, env = moments[frame], self._env
        mujoco.mj_setState(env.model, env.data, moment.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(env.model, env.data)
        picture, depth = self._camera.look(env.model, env.data)
        pads = [env.data.body(name).xpos for name in ("leftpad", "rightpad")]
        goal = [] if self._marker is None else [env.data.site(self._marker).xpos]
        places = self._camera.project(env.model, env.data, np.stack([*pads, moment.observation[OBJECT], *goal]))
        left, right, thing, marker = (*(column_in_view(place, depth) for place in places), None)[:4]
        if marker is not None and not has_colour(picture[int(places[3, 1]), int(places[3, 0])], self._marker_colour):
            marker = None  # something that touches it is in front
        facts = Facts(
            task=self.task,
            opening=float(moment.observation[OPENING]),
            distance=moment.distance,
            gripper=None if left is None or right is None else (left + right) / 2,
            object=thing,
            marker=marker,
            marker_colour=self._marker_colour,
            outcome=outcome(moments) if frame == len(moments) - 1 else None,
        )
        return picture, facts

    def _moment(self, observation: Float64[np.ndarray[Any, Any], " 39"], info: Mapping[str, Any]) -> Moment:
        env, thing = self._env, observation[OBJECT]
        everything = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(env.model, everything))
        mujoco.mj_getState(env.model, env.data, physics, everything)
        return Moment(
            physics=physics,
            observation=observation.copy(),
            distance=float(np.linalg.norm(env.tcp_center - thing)),
            to_goal=float(np.linalg.norm(thing - env._target_pos)),
            success=bool(info.get("success", 0)),
        )


def find_marker(env: Any) -> tuple[str | None, str]:
    """The coloured ball that marks the goal of a simulator, and its colour; None where there is none to be seen."""
    if MARKER in (env.model.site(index).name for index in range(env.model.nsite)):
        *rgb, opacity = env.model.site(MARKER).rgba
        for colour in COLOURS:
            if opacity == 1 and has_colour(np.array(rgb), colour):
                return MARKER, colour
    return None, ""


def has_colour(rgb: NDArray[Any], colour: str) -> bool:
    """True if a pixel is of a bright ``colour``: within 37° of it."""
    return bool(np.dot(rgb, COLOURS[colour]) > 0.8 * np.linalg.norm(rgb))


def column_in_view(
    place: Float64[np.ndarray[Any, Any], " 3"], depth: Float64[np.ndarray[Any, Any], "size size"]
) -> float | None:
    """The column of a projected point as a fraction of the width, or None where the camera sees something else."""
    size = len(depth)
    column, row = (int(np.floor(value)) for value in place[:2])
    if not (0 <= column < size and 0 <= row < size) or abs(depth[row, column] - place[2]) > HIDDEN:
        return None
    return float(place[0] / size)


def outcome(moments: Sequence[Moment]) -> bool | None:
    """True if an episode succeeded: the simulator's flag, in the end.

    None where a picture of the end cannot tell: it had succeeded before, or less than half of the way is left.
    """
    if moments[-1].success:
        return True
    if any(moment.success for moment in moments) or moments[-1].to_goal < CLEARLY_FAILED * moments[0].to_goal:
        return None
    return False


def choose_frames(moments: Sequence[Moment]) -> dict[str, int]:
    """The moments of an episode worth a picture, each at another frame: moment → frame.

    The contact is where the fingertips first come near the object, or where it first moves; without one, where they are
    nearest to it.
    """
    start = moments[0].observation[OBJECT]
    touched = [
        frame
        for frame, moment in enumerate(moments)
        if moment.distance < CONTACT or np.linalg.norm(moment.observation[OBJECT] - start) > MOVED
    ]
    last = len(moments) - 1
    contact = touched[0] if touched else int(np.argmin([moment.distance for moment in moments]))
    frames = {
        "last": last,
        "start": 0,
        "contact": contact,
        "approach": contact // 2,
        "late": contact + (last - contact) * 3 // 4,
    }
    distinct = {frame: name for name, frame in reversed(frames.items())}
    return {name: frame for frame, name in sorted(distinct.items())}
