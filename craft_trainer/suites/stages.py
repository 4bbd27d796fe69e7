"""The stages of a cell: its rollouts in the order of learning, and what tables need them to be of."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from craft_trainer.report.results import GROUPS, Count

Stage = Mapping[str, Count]  # success by task
NUMBERED = re.compile(r"(.+?)([1-9]\d*)")  # how the outputs of a command with `each` are called


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Number the evaluations that are called like those of a command with ``each``: a word and 1, 2, …"""
    there = set(names)
    found = ((name, NUMBERED.fullmatch(name)) for name in there)
    return {name: int(match[2]) for name, match in found if match and f"{match[1]}1" in there}


def stages_of(rollouts: Mapping[str, Stage], numbers: Mapping[str, int], place: str) -> list[Stage]:
    """Order ``rollouts``, which have the names of their evaluations, by stages: those of one ``number`` are one stage.

    Rollouts without a number, whose commands are not repeated, are one stage as well.

    Raises:
        ValueError: two rollouts of one stage share a task, of which tables could show only one success.
    """
    stages: dict[int | None, dict[str, Count]] = {}
    first: dict[tuple[int | None, str], str] = {}
    for name, rollout in rollouts.items():
        number = numbers.get(name)
        for task in rollout:
            other = first.setdefault((number, task), name)
            if other != name:
                raise ValueError(
                    f"{place}: {other} and {name} both evaluate {task}, and a table shows one success for each task. "
                    "Leave one of them out of the suite's evaluations, and put it into a suite of its own: with the "
                    "same --output nothing is trained again. Only a command with `each` evaluates tasks again, after "
                    "every stage"
                )
        stages.setdefault(number, {}).update(rollout)
    return list(stages.values())


def require_shown(tasks: Mapping[str, Any], stages: Sequence[Stage], place: str) -> None:
    """Refuse, by a ValueError, stages of a stream with the keys ``tasks`` that no table could show."""
    if steps_of(tasks, stages):
        for stage in stages:
            counts(tasks, "new", stage, place)
    elif not groups_of(tasks, stages, place) and stages:
        matrix_of(tasks, stages, place)


def steps_of(tasks: Mapping[str, Any], stages: Sequence[Stage]) -> Sequence[int]:
    """List the steps after which the new tasks were evaluated: the stream's ``steps``, if each has a stage."""
    steps = tasks.get("steps")
    return steps if isinstance(steps, list) and "new" in tasks and len(steps) == len(stages) else ()


def groups_of(tasks: Mapping[str, Any], stages: Sequence[Stage], place: str) -> dict[str, list[Count]]:
    """Counts of the old and of the new tasks in the last stage; empty of a stream that does not name both, of a curve
    and of texts.

    Raises:
        ValueError: see :func:`counts`.
    """
    if not stages or steps_of(tasks, stages) or not all(group in tasks for group in GROUPS):
        return {}
    return {group: counts(tasks, group, stages[-1], place) for group in GROUPS}


def counts(tasks: Mapping[str, Any], group: str, stage: Stage, place: str) -> list[Count]:
    """Counts of the tasks of a ``group``, which the stream lists or names alone.

    Raises:
        ValueError: the group is empty, or one of its tasks has no count.
    """
    names = tasks[group] if isinstance(tasks[group], list) else [tasks[group]]
    if not names or any(name not in list(stage) for name in names):
        raise ValueError(
            f"{place}: the stream has {group}: {tasks[group]}, and the rollouts are of {', '.join(stage)}: tables need "
            "every old and every new task, at least one of each. Evaluate them all, or give the keys old and new of "
            "the stream other names"
        )
    return [stage[name] for name in names]


def matrix_of(tasks: Mapping[str, Any], stages: Sequence[Stage], place: str) -> NDArray[np.float64]:
    """Success of every task (in the order in which they were learned) after every stage, or after a single one.

    Raises:
        ValueError: the rollouts are those of a learning curve, not one for each task, not all of the same tasks, or in
            another order than the stream's.
    """
    if steps_of(tasks, stages):
        raise ValueError(
            f"{place} holds a learning curve: show it by <!-- suite: NAME steps --> or <!-- suite: NAME curves -->"
        )
    if len({tuple(stage) for stage in stages}) != 1 or len(stages) not in (1, len(stages[0])):
        sizes = ", ".join(str(len(stage)) for stage in stages)
        raise ValueError(
            f"{place} has {len(stages)} rollouts, of {sizes or 'no'} tasks: a sequence has one after each of its "
            "tasks, always of all of them in this order. Leave other rollouts out of the suite's evaluations"
        )
    order = list(stages[0])
    for listed in (value for value in tasks.values() if isinstance(value, list) and len(stages) > 1):
        if (rolled := [task for task in order if task in listed]) != [task for task in listed if task in order]:
            raise ValueError(
                f"{place}: the rollouts have {', '.join(rolled)} in this order, and the stream has "
                f"{', '.join(map(str, listed))}: what was just learned would be taken for another task. Give the "
                "evaluation its tasks in the order of the stream"
            )
    return np.array([[count.rate for count in stage.values()] for stage in stages])
