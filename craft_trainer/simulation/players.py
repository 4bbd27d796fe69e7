"""Who plays a Meta-World episode: the expert, and three who do worse."""

import warnings
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float64

from craft_trainer.simulation.metaworld import Expert

HAND, OBJECT, GOAL = slice(3), slice(4, 7), slice(36, 39)  # positions in an observation
ACROSS = np.array([0.55, 0.83, 0.0])  # about one metre from left to right, as the camera looks at the table
THERE = 0.05  # metres between an object and where it should be
LETTING_GO = 10  # actions until the gripper is open
GAIN = 10.0  # of a distance in metres, as Meta-World's own experts have it

Observation = Float64[np.ndarray[Any, Any], " 39"]
Action = Float64[np.ndarray[Any, Any], " 4"]


class Player(Protocol):
    """Chooses actions, each number in [-1, 1]."""

    def act(self, observation: Observation) -> Action:
        """What to do next."""


class Quiet:
    """The expert, without Meta-World's warnings of actions beyond [-1, 1], which are clipped."""

    def __init__(self, task: str) -> None:
        self._expert = Expert(task)

    def act(self, observation: Observation) -> Action:
        """The expert's action."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return self._expert.act(observation)


class Held:
    """An expert whose gripper is held open or closed, at random."""

    def __init__(self, task: str, generator: np.random.Generator) -> None:
        self._expert = Quiet(task)
        self._effort = generator.choice([-1.0, 1.0])

    def act(self, observation: Observation) -> Action:
        """The expert's move, with the gripper as it is held."""
        return np.append(self._expert.act(observation)[:3], self._effort)


class Astray:
    """An expert who takes a place 10 to 15 cm beyond the goal for it, lets go of the object there and moves up.

    Many experts do not look at the goal: they do as they always do.
    """

    def __init__(self, task: str, generator: np.random.Generator) -> None:
        self._expert = Quiet(task)
        self._shift = generator.uniform(0.1, 0.15) * ACROSS
        self._since = 0  # actions since the object got there

    def act(self, observation: Observation) -> Action:
        """The expert's action for the wrong goal, and none of the expert's once it is reached."""
        observation = observation.copy()
        observation[GOAL] += self._shift
        if self._since or np.linalg.norm((observation[OBJECT] - observation[GOAL])[:2]) < THERE:
            self._since += 1
            return np.array([0.0, 0.0, 0.5 if self._since > LETTING_GO else 0.0, -1.0])
        return self._expert.act(observation)


class Bystander:
    """Goes to a place beside and above the object, on either side, and stays there, gripper open or closed."""

    def __init__(self, generator: np.random.Generator) -> None:
        aside = generator.choice([-1, 1]) * generator.uniform(0.06, 0.25)
        self._offset = aside * ACROSS + [0, 0, generator.uniform(0.05, 0.2)]
        self._effort = generator.choice([-1.0, 1.0])
        self._place: Float64[np.ndarray[Any, Any], " 3"] | None = None

    def act(self, observation: Observation) -> Action:
        """A step towards the place, the faster the farther it is."""
        if self._place is None:
            self._place = observation[OBJECT] + self._offset
        return np.append(np.clip(GAIN * (self._place - observation[HAND]), -1, 1), self._effort)
