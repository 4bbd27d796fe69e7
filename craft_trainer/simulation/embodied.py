"""Questions about one frame of a simulated episode, whose answers follow from what the simulator knows.

A question is asked only where the answer is clear: what it is about is in plain view, and the number that decides is
well away from its threshold. The other frames are left out, not guessed at.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from craft_trainer.simulation.objects import OBJECT_OF, the

OPEN, CLOSED = 0.9, 0.35  # opening of the gripper, of 1; closed fingers without anything between them stand at 0.3
SIDE_MARGIN = 0.03  # of the picture's width
CLOSE, AWAY = 0.05, 0.15  # metres from the fingertips' middle to the object
NUM_CHOICES = 4
KINDS = ("task", "object", "gripper", "side", "gripper_side", "near", "success")

DONE, NOT_DONE = "yes, it is done", "no, it is not done"


@dataclass(frozen=True)
class Facts:
    """Facts that the simulator knows of one frame.

    Columns run from 0 (left edge of the picture) to 1 (right edge); None means out of view or behind something.
    """

    task: str
    opening: float  # of the gripper, in [0, 1]
    distance: float  # from the fingertips' middle to the object, metres
    gripper: float | None  # column of the fingertips' middle
    object: float | None  # column of the point of the object that Meta-World tracks
    marker: float | None  # column of the ball that marks the goal
    marker_colour: str
    outcome: bool | None  # of the episode: None before the last frame, and where the end is neither here nor there


@dataclass(frozen=True)
class Question:
    """One question, its answer, and the other choices, in no particular order.

    For no constant answer to win, each ``answer_class`` must occur equally often among the questions of one ``scope``.
    """

    kind: str
    question: str
    answer: str
    others: tuple[str, ...]
    answer_class: str
    scope: str


class Asker:
    """Makes the questions of some ``kinds`` about frames of ``tasks``.

    Wrong choices are about things that look different: a task or object is never offered beside another of the same
    noun. They are drawn from ``tasks``, so that a choice being offered says nothing; only where ``tasks`` have fewer
    than four nouns, the rest of Meta-World fills up.
    """

    def __init__(self, tasks: Sequence[str], describe: Callable[[str], str], kinds: Sequence[str]) -> None:
        self._describe, self._kinds = describe, kinds
        self._near = group_by_noun(tasks)
        self._far = {noun: names for noun, names in group_by_noun(OBJECT_OF).items() if noun not in self._near}

    def ask(self, facts: Facts, generator: np.random.Generator) -> Iterator[Question]:
        """All the questions that have a clear answer in this frame, at most one of each kind."""
        about_the_scene: Mapping[str, tuple[str, Callable[[str], str]]] = {
            "task": ("Which task is this robot's workplace set up for?", self._describe),
            "object": ("What is the robot here to handle?", OBJECT_OF.__getitem__),
        }
        of_two = self.of_two_choices(facts)
        for kind in self._kinds:
            if kind in of_two:
                question, choices, first = of_two[kind]
                answer, other = choices if first else reversed(choices)
                if first is not None:  # both must be right equally often in every task, for the task gives no hint
                    yield Question(kind, question, answer, (other,), answer, facts.task)
            elif facts.object is not None:
                question, name = about_the_scene[kind]
                others = tuple(map(name, self.other_tasks(facts.task, generator)))
                yield Question(kind, question, name(facts.task), others, OBJECT_OF[facts.task], "")

    def of_two_choices(self, facts: Facts) -> dict[str, tuple[str, tuple[str, str], bool | None]]:
        """Per kind: the question, its two choices, and whether it is the first; None where that is not clear."""
        thing, target, sides = the(OBJECT_OF[facts.task]), aim(facts.task), ("left", "right")
        task = self._describe(facts.task)
        seen = facts.gripper is not None
        near = _below(facts.distance, CLOSE, AWAY) if seen and facts.object is not None else None
        return {
            "gripper": (
                "Is the robot's gripper open or closed?",
                ("closed", "open"),
                _below(facts.opening, CLOSED, OPEN) if seen else None,
            ),
            "side": (
                f"In this picture, is {thing} left or right of the {facts.marker_colour} ball?",
                sides,
                _left(facts.object, facts.marker),
            ),
            "gripper_side": (
                f"In this picture, is the tip of the gripper left or right of {target}?",
                sides,
                _left(facts.gripper, facts.object),
            ),
            "near": (f"Is the tip of the gripper at {target} or away from it?", ("at it", "away from it"), near),
            "success": (
                f"This is the last moment of an attempt at a task: {task}. Is the task done?",
                (DONE, NOT_DONE),
                facts.outcome,
            ),
        }

    def other_tasks(self, task: str, generator: np.random.Generator) -> list[str]:
        """Three tasks with four different nouns between them and ``task``."""
        chosen: list[str] = []
        for pool in (self._near, self._far):
            nouns = sorted(noun for noun in pool if noun != OBJECT_OF[task])
            wanted = min(NUM_CHOICES - 1 - len(chosen), len(nouns))
            picked = generator.permutation(len(nouns))[:wanted]
            chosen += [str(generator.choice(pool[nouns[index]])) for index in picked]
        return chosen


def aim(task: str) -> str:
    """The point that the gripper goes for: the handle of a drawer or a door, else the object itself."""
    noun = the(OBJECT_OF[task])
    return f"the handle of {noun}" if noun in ("the drawer", "the door", "the window") else noun


def group_by_noun(tasks: Sequence[str] | Mapping[str, str]) -> dict[str, list[str]]:
    """``tasks`` by what they handle."""
    return {noun: [task for task in tasks if OBJECT_OF[task] == noun] for noun in {OBJECT_OF[task] for task in tasks}}


def _below(value: float, low: float, high: float) -> bool | None:
    return None if low < value < high else value <= low


def _left(what: float | None, of: float | None) -> bool | None:
    return None if what is None or of is None or abs(what - of) < SIDE_MARGIN else what < of
