"""results.json, read and checked: every complaint names the file, the place in it and what belongs there."""

from math import isclose
from os import PathLike
from pathlib import Path

from craft_trainer.report.reading import ANY_KEY, ANYTHING, NAME, Rule, Schema, check, integer, json_object, number
from craft_trainer.report.results import GROUPS, Results, Row, Stream

VERSION = 1
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


def load_results(path: str | PathLike[str]) -> Results:
    """Read ``path`` (results.json, schema 1).

    Refused with a ValueError: a key that is missing or unknown, a value of the wrong type, successes outside
    0..episodes, a row twice, a task missing from a (method, seed, group) that has others, and a summary that is not
    Σ successes / Σ episodes of the rows to 1e-9. FileNotFoundError where there is no such file.
    """
    file = Path(path)
    content = json_object(file, "pass the results.json of a finished run, or run it again")
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
