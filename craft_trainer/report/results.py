"""Results of a finished run: results.json, read and checked; every complaint names the place and what belongs there."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isclose, sqrt
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

from craft_trainer.report.reading import (
    ANY_KEY,
    ANYTHING,
    NAME,
    Rule,
    Schema,
    check,
    integer,
    json_object,
    number,
    without_checksum,
)

type Json = bool | int | float | str | list[Json] | dict[str, Json] | None
type Group = Literal["old", "new"]

GROUPS: tuple[Group, Group] = ("old", "new")
LEADING_METHODS = ("teacher", "plain", "craft")
METHOD_LABELS = {"craft": "CRaFT"}
Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
VERSION = 1
WAY_OUT = "pass the results.json of a finished run, or run it again"
SUMMARY_TOLERANCE = 1e-9
ROW: Schema = {
    "seed": integer(0),
    "method": NAME,
    "task": NAME,
    "group": Rule("old or new", lambda value: value in GROUPS),
    "episodes": integer(1),
    "successes": ANYTHING,  # checked with the episodes of its row
}
SCHEMA: dict[str, Schema] = {
    "schema": Rule(f"{VERSION}; install the craft-trainer that wrote this file, or", lambda value: value == VERSION),
    "stream": {"old": [NAME], "new": [NAME]},
    "seeds": [integer(0)],
    "settings": {},
    "rows": [ROW],
    "summary": {ANY_KEY: {ANY_KEY: number(0, 1)}},
    "seconds": {ANY_KEY: number(0)},
    "provenance": {},
}


class Interval(NamedTuple):
    """Two ends of a confidence interval of a fraction, 0 ≤ low ≤ high ≤ 1."""

    low: float
    high: float


def wilson(successes: int, episodes: int) -> Interval:
    """95 % Wilson score interval of the success probability behind ``successes`` of ``episodes`` ≥ 1.

    With p = k/n and z = 1.96: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n). It stays inside [0, 1] and keeps a
    width at p = 0 and p = 1, where the usual p ± z √(p(1−p)/n) collapses to a point.
    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209; Brown, Cai & DasGupta 2001, Stat. Sci. 16:101, eq. 4.
    """
    rate, z2 = successes / episodes, Z_95**2 / episodes
    centre = rate + z2 / 2
    half = sqrt(z2 * rate * (1 - rate) + z2**2 / 4)
    low, high = (centre - half) / (1 + z2), (centre + half) / (1 + z2)
    return Interval(0.0 if successes == 0 else low, 1.0 if successes == episodes else high)


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
    """The name of a method in tables and figures."""
    return METHOD_LABELS.get(method, method)


def load_results(path: str | PathLike[str]) -> Results:
    """Read ``path`` (results.json, schema 1).

    Refused with a ValueError: a key that is missing or unknown, a value of the wrong type, successes outside
    0..episodes, a row twice, a task missing from a (method, seed, group) that has others, a checksum (``sha256``, which
    may be left out) that does not fit, and a summary that is not Σ successes / Σ episodes of the rows to 1e-9.
    FileNotFoundError where there is no such file.
    """
    file = Path(path)
    content = without_checksum(json_object(file, WAY_OUT), file, WAY_OUT)
    check(content.get("schema", VERSION), SCHEMA["schema"], f"{file}: schema")
    check(content, SCHEMA, f"{file}: ", exact=True)
    results = Results(
        path=file,
        stream=Stream(**{group: tuple(content["stream"][group]) for group in GROUPS}),
        seeds=tuple(content["seeds"]),
        rows=tuple(Row(**row) for row in content["rows"]),
        **{key: content[key] for key in ("settings", "summary", "seconds", "provenance")},
    )
    _check_rows(results)
    _check_complete(results)
    _check_summary(results)
    return results


def _check_rows(results: Results) -> None:
    """Every task and every seed is listed once, and every row is of a listed one, and there once."""
    every_task, seen = (*results.stream.old, *results.stream.new), set()
    for task in every_task:
        if every_task.count(task) > 1:
            raise ValueError(f"{results.path}: stream lists {task!r} twice; a task is either old or new, once")
    if len(set(results.seeds)) < len(results.seeds):
        raise ValueError(f"{results.path}: seeds is {list(results.seeds)!r}, expected every seed once")
    for index, row in enumerate(results.rows):
        place, tasks = f"{results.path}: rows[{index}]", results.stream.tasks(row.group)
        check(row.seed, Rule(f"one of seeds {list(results.seeds)}", results.seeds.__contains__), f"{place}.seed")
        check(row.task, Rule(f"one of stream.{row.group} {list(tasks)}", tasks.__contains__), f"{place}.task")
        check(row.successes, integer(0, row.episodes), f"{place}.successes")
        identity = (row.seed, row.method, row.task)
        if identity in seen:
            raise ValueError(f"{place} repeats seed, method and task {identity}; keep one of the two")
        seen.add(identity)


def _check_complete(results: Results) -> None:
    """A mean over two tasks of three cannot be compared with a mean over three."""
    missing = sorted(set(results.seeds) - {row.seed for row in results.rows})
    if missing:
        raise ValueError(f"{results.path}: rows has none for seeds {missing}; evaluate them or drop them from seeds")
    seen = {(row.method, row.seed, row.task) for row in results.rows}
    for method, seed, group in sorted({(row.method, row.seed, row.group) for row in results.rows}):
        for task in results.stream.tasks(group):
            if (method, seed, task) not in seen:
                raise ValueError(
                    f"{results.path}: rows has no {task!r} for method {method!r}, seed {seed}, "
                    f"which has other {group} tasks; evaluate it, so that the mean over {group} tasks can be compared"
                )


def _check_summary(results: Results) -> None:
    """``summary`` must be what the rows say: Σ successes / Σ episodes by method and group."""
    rates = {(method, str(group)): results.rate(method, group) for method in results.methods for group in GROUPS}
    expected = {key: rate for key, rate in rates.items() if rate is not None}
    given = {(method, group): value for method, groups in results.summary.items() for group, value in groups.items()}
    for method, group in sorted(expected.keys() | given.keys()):
        place = f"{results.path}: summary.{method}.{group}"
        rate, value = expected.get((method, group)), given.get((method, group))
        if rate is None:
            raise ValueError(f"{place} is {value!r}, but no row is of that method and group; remove it")
        if value is None or not isclose(rate, value, rel_tol=0, abs_tol=SUMMARY_TOLERANCE):
            found = "missing" if value is None else repr(value)
            raise ValueError(f"{place} is {found}, but the rows give {rate!r} (successes / episodes); write it again")
