"""What a finished run found: the records of results.json."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from craft_trainer.report.interval import Interval, wilson

type Json = bool | int | float | str | list[Json] | dict[str, Json] | None
type Group = Literal["old", "new"]

GROUPS: tuple[Group, Group] = ("old", "new")
LEADING_METHODS = ("teacher", "plain", "craft")
METHOD_LABELS = {"craft": "CRaFT"}


@dataclass(frozen=True)
class Count:
    """``successes`` of ``episodes`` ≥ 1."""

    successes: int
    episodes: int

    @property
    def rate(self) -> float:
        """Success rate, a fraction of episodes."""
        return self.successes / self.episodes

    @property
    def interval(self) -> Interval:
        """95 % Wilson interval of the rate: the luck of the episodes, not that of the training seed."""
        return wilson(self.successes, self.episodes)


def pooled(counts: Collection[Count]) -> Count:
    """Sum the successes and the episodes of at least one count."""
    return Count(sum(one.successes for one in counts), sum(one.episodes for one in counts))


@dataclass(frozen=True)
class Row(Count):
    """One method, trained with one seed, rolled out on one task."""

    seed: int
    method: str
    task: str
    group: Group


@dataclass(frozen=True)
class Stream:
    """Names of the tasks the teacher knew and of those it was fine-tuned on."""

    old: tuple[str, ...]
    new: tuple[str, ...]

    def tasks(self, group: Group) -> tuple[str, ...]:
        """The tasks of one group, in the order of the file."""
        return self.old if group == "old" else self.new


@dataclass(frozen=True)
class Results:
    """The whole of a results.json: ``summary`` holds fractions by method and group, ``seconds`` is by stage.

    ``provenance`` says with what, where and when it was measured.

    ``seconds["total"]``, where it is given, is the time on the clock: stages run side by side.
    """

    path: Path
    stream: Stream
    seeds: tuple[int, ...]
    settings: Mapping[str, Json]
    rows: tuple[Row, ...]
    summary: Mapping[str, Mapping[str, float]]
    seconds: Mapping[str, float]
    provenance: Mapping[str, Json]

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods with rows: teacher, plain, craft, then the others as they come in the file."""
        found = tuple(dict.fromkeys(row.method for row in self.rows))
        return tuple(dict.fromkeys(name for name in (*LEADING_METHODS, *found) if name in found))

    def count(self, method: str, group: Group, *, task: str | None = None, seed: int | None = None) -> Count | None:
        """Successes and episodes pooled over every matching row; None where there is no row."""
        rows = [row for row in self.rows if (row.method, row.group) == (method, group)]
        rows = [row for row in rows if task in (None, row.task) and seed in (None, row.seed)]
        return pooled(rows) if rows else None

    def rate(self, method: str, group: Group) -> float | None:
        """Success over all tasks of a group and all seeds; None where there is no row."""
        count = self.count(method, group)
        return None if count is None else count.rate

    def kept(self, method: str) -> float | None:
        """Old-task success as a share of the teacher's; None where one is missing or the teacher never succeeds."""
        mine, teacher = self.rate(method, "old"), self.rate("teacher", "old")
        return None if mine is None or not teacher else mine / teacher


def method_label(method: str) -> str:
    """How a method is written in tables and figures."""
    return METHOD_LABELS.get(method, method)
