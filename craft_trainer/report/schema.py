"""results.json, read and checked: every complaint names the file, the place in it and what belongs there."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose, isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from craft_trainer.report.reading import json_object
from craft_trainer.report.results import GROUPS, Group, Results, Row, Stream

SCHEMA = 1
TOP_KEYS = ("schema", "stream", "seeds", "settings", "rows", "summary", "seconds", "provenance")
ROW_KEYS = ("seed", "method", "task", "group", "episodes", "successes")
SUMMARY_TOLERANCE = 1e-9


def load_results(path: str | PathLike[str]) -> Results:
    """Read ``path`` (results.json, schema 1).

    Refused with a ValueError: a key that is missing or unknown, a value of the wrong type, successes outside
    0..episodes, a row twice, a task missing from a (method, seed, group) that has others, and a summary that is not
    Σ successes / Σ episodes of the rows to 1e-9. FileNotFoundError where there is no such file.
    """
    file = Path(path)
    data, top = json_object(file, "pass the results.json of a finished run, or run it again"), _Place(file, "")
    if data.get("schema", SCHEMA) != SCHEMA:
        raise top.error("schema", data["schema"], f"{SCHEMA}; install the craft-trainer that wrote this file")
    fields = _mapping(data, top, TOP_KEYS)
    stream = _stream(fields["stream"], top.at("stream"))
    seeds = _seeds(fields["seeds"], top)
    results = Results(
        path=file,
        stream=stream,
        seeds=seeds,
        settings=_mapping(fields["settings"], top.at("settings")),
        rows=_rows(fields["rows"], top, stream, seeds),
        summary=_summary(fields["summary"], top.at("summary")),
        seconds={
            key: _number(value, top.at("seconds"), key)
            for key, value in _mapping(fields["seconds"], top.at("seconds")).items()
        },
        provenance=_mapping(fields["provenance"], top.at("provenance")),
    )
    _check_complete(results)
    _check_summary(results)
    return results


@dataclass(frozen=True)
class _Place:
    """A position in a file, for its error messages."""

    file: Path
    where: str

    def at(self, key: str) -> "_Place":
        return _Place(self.file, f"{self.where}.{key}" if self.where else key)

    def error(self, key: str, got: object, expected: str) -> ValueError:
        return ValueError(f"{self.file}: {self.at(key).where} is {got!r}, expected {expected}")


def _mapping(value: Any, place: _Place, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    """``value`` if it is an object, with exactly ``keys`` where they are given."""
    if not isinstance(value, dict):
        raise ValueError(f"{place.file}: {place.where or 'the file'} is a {type(value).__name__}, expected an object")
    for key in keys or ():
        if key not in value:
            raise ValueError(
                f"{place.file}: {place.at(key).where} is missing; expected the keys {', '.join(keys or ())}"
            )
    for key in value:
        if keys is not None and key not in keys:
            raise ValueError(f"{place.file}: {place.at(key).where} is unknown; expected the keys {', '.join(keys)}")
    return value


def _list(value: Any, place: _Place, key: str, of: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise place.error(key, value, f"a list of at least one {of}")
    return value


def _text(value: Any, place: _Place, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise place.error(key, value, "a name")
    return value


def _integer(value: Any, place: _Place, key: str, low: int, high: int | None = None) -> int:
    if type(value) is not int or value < low or (high is not None and value > high):
        raise place.error(key, value, f"an integer ≥ {low}" if high is None else f"an integer from {low} to {high}")
    return value


def _number(value: Any, place: _Place, key: str, high: float | None = None) -> float:
    if type(value) not in (int, float) or not isfinite(value) or value < 0 or (high is not None and value > high):
        raise place.error(key, value, "a number ≥ 0" if high is None else f"a number from 0 to {high:g}")
    return float(value)


def _stream(value: Any, place: _Place) -> Stream:
    fields = _mapping(value, place, GROUPS)
    old, new = (tuple(_text(task, place, g) for task in _list(fields[g], place, g, "task")) for g in GROUPS)
    for task in (*old, *new):
        if (*old, *new).count(task) > 1:
            raise ValueError(f"{place.file}: {place.where} lists {task!r} twice; a task is either old or new, once")
    return Stream(old, new)


def _seeds(value: Any, top: _Place) -> tuple[int, ...]:
    seeds = tuple(_integer(seed, top, f"seeds[{i}]", 0) for i, seed in enumerate(_list(value, top, "seeds", "seed")))
    if len(set(seeds)) < len(seeds):
        raise top.error("seeds", list(seeds), "every seed once")
    return seeds


def _rows(value: Any, top: _Place, stream: Stream, seeds: tuple[int, ...]) -> tuple[Row, ...]:
    rows: dict[tuple[int, str, str], Row] = {}
    for index, item in enumerate(_list(value, top, "rows", "row")):
        place = top.at(f"rows[{index}]")
        row = _row(item, place, stream, seeds)
        identity = (row.seed, row.method, row.task)
        if identity in rows:
            raise ValueError(
                f"{place.file}: {place.where} repeats seed, method and task {identity}; keep one of the two"
            )
        rows[identity] = row
    return tuple(rows.values())


def _row(value: Any, place: _Place, stream: Stream, seeds: tuple[int, ...]) -> Row:
    fields = _mapping(value, place, ROW_KEYS)
    group = _group(fields["group"], place)
    seed = _integer(fields["seed"], place, "seed", 0)
    if seed not in seeds:
        raise place.error("seed", seed, f"one of seeds {list(seeds)}")
    task = _text(fields["task"], place, "task")
    if task not in stream.tasks(group):
        raise place.error("task", task, f"one of stream.{group} {list(stream.tasks(group))}")
    episodes = _integer(fields["episodes"], place, "episodes", 1)
    return Row(
        seed=seed,
        method=_text(fields["method"], place, "method"),
        task=task,
        group=group,
        episodes=episodes,
        successes=_integer(fields["successes"], place, "successes", 0, episodes),
    )


def _group(value: Any, place: _Place) -> Group:
    for group in GROUPS:
        if value == group:
            return group
    raise place.error("group", value, "old or new")


def _summary(value: Any, place: _Place) -> dict[str, Mapping[str, float]]:
    return {
        method: {
            group: _number(fraction, place.at(method), group, 1.0)
            for group, fraction in _mapping(groups, place.at(method)).items()
        }
        for method, groups in _mapping(value, place).items()
    }


def _check_complete(results: Results) -> None:
    """A mean over two tasks of three cannot be compared with a mean over three."""
    missing_seeds = set(results.seeds) - {row.seed for row in results.rows}
    if missing_seeds:
        missing = sorted(missing_seeds)
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
    pooled = {(method, str(group)): results.count(method, group) for method in results.methods for group in GROUPS}
    expected = {key: count.rate for key, count in pooled.items() if count is not None}
    given = {(method, group): value for method, groups in results.summary.items() for group, value in groups.items()}
    for method, group in sorted(expected.keys() | given.keys()):
        place = f"{results.path}: summary.{method}.{group}"
        rate, value = expected.get((method, group)), given.get((method, group))
        if rate is None:
            raise ValueError(f"{place} is {value!r}, but no row is of that method and group; remove it")
        if value is None or not isclose(rate, value, rel_tol=0, abs_tol=SUMMARY_TOLERANCE):
            found = "missing" if value is None else repr(value)
            raise ValueError(f"{place} is {found}, but the rows give {rate!r} (successes / episodes); write it again")
