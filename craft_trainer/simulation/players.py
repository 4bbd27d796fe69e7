"""Who plays a Meta-World episode: the expert, and three who do worse. A player gives the action for an observation."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64

HAND, OBJECT, GOAL = slice(3), slice(4, 7), slice(36, 39)  # positions in an observation
ACROSS = np.array([0.55, 0.83, 0.0])  # about one metre from left to right, as the camera looks at the table
THERE = 0.05  # metres between an object and where it should be
LETTING_GO = 10  # actions until the gripper is open
GAIN = 10.0  # of a distance in metres, as Meta-World's own experts have it

Observation = Float64[np.ndarray[Any, Any], " 39"]
Action = Float64[np.ndarray[Any, Any], " 4"]  # each number in [-1, 1]
Player = Callable[[Observation], Action]


def held(expert: Player, generator: np.random.Generator) -> Player:
    """An expert whose gripper is held open or closed, at random."""
    effort = generator.choice([-1.0, 1.0])
    return lambda observation: np.append(expert(observation)[:3], effort)


def astray(expert: Player, generator: np.random.Generator) -> Player:
    """An expert who takes a place 10 to 15 cm beyond the goal for it, lets go of the object there and moves up.

    Many experts do not look at the goal: they do as they always do.
    """
    shift = generator.uniform(0.1, 0.15) * ACROSS
    since = 0  # actions since the object got there

    def act(observation: Observation) -> Action:
        nonlocal since
        observation = observation.copy()
        observation[GOAL] += shift
        if since or np.linalg.norm((observation[OBJECT] - observation[GOAL])[:2]) < THERE:
            since += 1
            return np.array([0.0, 0.0, 0.5 if since > LETTING_GO else 0.0, -1.0])
        return expert(observation)

    return act


def bystander(generator: np.random.Generator) -> Player:
    """Goes to a place beside and above the object, on either side, and stays there, gripper open or closed.

    The farther the place is, the faster it goes.
    """
    aside = generator.choice([-1, 1]) * generator.uniform(0.06, 0.25)
    offset = aside * ACROSS + [0, 0, generator.uniform(0.05, 0.2)]
    effort = generator.choice([-1.0, 1.0])
    place: list[Float64[np.ndarray[Any, Any], " 3"]] = []  # known from the first observation on

    def act(observation: Observation) -> Action:
        if not place:
            place.append(observation[OBJECT] + offset)
        return np.append(np.clip(GAIN * (place[0] - observation[HAND]), -1, 1), effort)

    return act
