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

DONE, NOT_DONE = "yes, it is done", "no, it is not done"


@dataclass(frozen=True)
class Facts:
    """What the simulator knows of one frame.

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
        self._describe = describe
        self._makers = {kind: MAKERS[kind] for kind in kinds}
        self._near = group_by_noun(tasks)
        self._far = {noun: names for noun, names in group_by_noun(OBJECT_OF).items() if noun not in self._near}

    def ask(self, facts: Facts, generator: np.random.Generator) -> Iterator[Question]:
        """All the questions that have a clear answer in this frame, at most one of each kind."""
        for maker in self._makers.values():
            question = maker(self, facts, generator)
            if question is not None:
                yield question

    def other_tasks(self, task: str, generator: np.random.Generator) -> list[str]:
        """Three tasks with four different nouns between them and ``task``."""
        chosen: list[str] = []
        for pool in (self._near, self._far):
            nouns = sorted(noun for noun in pool if noun != OBJECT_OF[task])
            wanted = min(NUM_CHOICES - 1 - len(chosen), len(nouns))
            picked = generator.permutation(len(nouns))[:wanted]
            chosen += [str(generator.choice(pool[nouns[index]])) for index in picked]
        return chosen

    def task(self, facts: Facts, generator: np.random.Generator) -> Question | None:
        """Which task the scene is made for."""
        question = "Which task is this robot's workplace set up for?"
        return self._which("task", question, self._describe, facts, generator)

    def object(self, facts: Facts, generator: np.random.Generator) -> Question | None:
        """What the robot handles."""
        return self._which("object", "What is the robot here to handle?", OBJECT_OF.__getitem__, facts, generator)

    def _which(
        self, kind: str, question: str, name: Callable[[str], str], facts: Facts, generator: np.random.Generator
    ) -> Question | None:
        if facts.object is None:
            return None
        others = tuple(map(name, self.other_tasks(facts.task, generator)))
        return Question(kind, question, name(facts.task), others, OBJECT_OF[facts.task], "")

    def opening(self, facts: Facts, _generator: np.random.Generator) -> Question | None:
        """Whether the gripper is open."""
        if facts.gripper is None or CLOSED < facts.opening < OPEN:
            return None
        question, choices = "Is the robot's gripper open or closed?", ("open", "closed")
        return _either("gripper", question, choices, facts.opening >= OPEN, facts)

    def side(self, facts: Facts, _generator: np.random.Generator) -> Question | None:
        """On which side of the goal the object is, in the picture."""
        question = f"In this picture, is {the(OBJECT_OF[facts.task])} left or right of the {facts.marker_colour} ball?"
        return _left_or_right("side", question, facts.object, facts.marker, facts)

    def gripper_side(self, facts: Facts, _generator: np.random.Generator) -> Question | None:
        """On which side of the object the gripper is, in the picture."""
        question = f"In this picture, is the tip of the gripper left or right of {aim(facts.task)}?"
        return _left_or_right("gripper_side", question, facts.gripper, facts.object, facts)

    def near(self, facts: Facts, _generator: np.random.Generator) -> Question | None:
        """Whether the gripper is at the object."""
        if facts.gripper is None or facts.object is None or CLOSE < facts.distance < AWAY:
            return None
        question = f"Is the tip of the gripper at {aim(facts.task)} or away from it?"
        return _either("near", question, ("at it", "away from it"), facts.distance <= CLOSE, facts)

    def success(self, facts: Facts, _generator: np.random.Generator) -> Question | None:
        """Whether the task is done, in the last frame of an episode."""
        if facts.outcome is None:
            return None
        question = f"This is the last moment of an attempt at a task: {self._describe(facts.task)}. Is the task done?"
        return _either("success", question, (DONE, NOT_DONE), facts.outcome, facts)


Maker = Callable[[Asker, Facts, np.random.Generator], Question | None]
MAKERS: Mapping[str, Maker] = {
    "task": Asker.task,
    "object": Asker.object,
    "gripper": Asker.opening,
    "side": Asker.side,
    "gripper_side": Asker.gripper_side,
    "near": Asker.near,
    "success": Asker.success,
}
KINDS = tuple(MAKERS)


def aim(task: str) -> str:
    """What the gripper goes for: the handle of a drawer or a door, else the object itself."""
    noun = the(OBJECT_OF[task])
    return f"the handle of {noun}" if noun in ("the drawer", "the door", "the window") else noun


def group_by_noun(tasks: Sequence[str] | Mapping[str, str]) -> dict[str, list[str]]:
    """``tasks`` by what they handle."""
    return {noun: [task for task in tasks if OBJECT_OF[task] == noun] for noun in {OBJECT_OF[task] for task in tasks}}


def _left_or_right(kind: str, question: str, what: float | None, of: float | None, facts: Facts) -> Question | None:
    if what is None or of is None or abs(what - of) < SIDE_MARGIN:
        return None
    return _either(kind, question, ("left", "right"), what < of, facts)


def _either(kind: str, question: str, choices: tuple[str, str], first: bool, facts: Facts) -> Question:
    """A question with two choices: both must be right equally often in every task, for the task gives no hint."""
    answer, other = choices if first else reversed(choices)
    return Question(kind, question, answer, (other,), answer, facts.task)
