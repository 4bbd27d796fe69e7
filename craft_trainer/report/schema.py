"""results.json, read and checked: every complaint names the file, the place in it and what belongs there."""

from math import isclose
from os import PathLike
from pathlib import Path

from craft_trainer.report.reading import Value, json_object
from craft_trainer.report.results import GROUPS, Results, Row, Stream

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
    top = Value(file, json_object(file, "pass the results.json of a finished run, or run it again"))
    if top.found.get("schema", SCHEMA) != SCHEMA:
        raise top.field("schema").wrong(f"{SCHEMA}", "install the craft-trainer that wrote this file")
    fields = top.exactly(*TOP_KEYS)
    objects = {key: fields[key].fields() for key in ("settings", "summary", "seconds", "provenance")}
    stream, seeds = _stream(fields["stream"]), _seeds(fields["seeds"])
    results = Results(
        path=file,
        stream=stream,
        seeds=seeds,
        settings=fields["settings"].found,
        rows=_rows(fields["rows"], stream, seeds),
        summary={
            method: {group: rate.number(0, 1) for group, rate in groups.fields().items()}
            for method, groups in objects["summary"].items()
        },
        seconds={stage: value.number(0) for stage, value in objects["seconds"].items()},
        provenance=fields["provenance"].found,
    )
    _check_complete(results)
    _check_summary(results)
    return results


def _stream(value: Value) -> Stream:
    fields = value.exactly(*GROUPS)
    old, new = (tuple(task.text() for task in fields[group].items("task")) for group in GROUPS)
    for task in (*old, *new):
        if (*old, *new).count(task) > 1:
            raise ValueError(f"{value.file}: stream lists {task!r} twice; a task is either old or new, once")
    return Stream(old, new)


def _seeds(value: Value) -> tuple[int, ...]:
    seeds = tuple(seed.integer(0) for seed in value.items("seed"))
    if len(set(seeds)) < len(seeds):
        raise value.wrong("every seed once")
    return seeds


def _rows(value: Value, stream: Stream, seeds: tuple[int, ...]) -> tuple[Row, ...]:
    rows: dict[tuple[int, str, str], Row] = {}
    for item in value.items("row"):
        row = _row(item, stream, seeds)
        identity = (row.seed, row.method, row.task)
        if identity in rows:
            raise ValueError(f"{item.file}: {item.place} repeats seed, method and task {identity}; keep one of the two")
        rows[identity] = row
    return tuple(rows.values())


def _row(value: Value, stream: Stream, seeds: tuple[int, ...]) -> Row:
    fields = value.exactly(*ROW_KEYS)
    group = fields["group"].one_of(GROUPS, "old or new")
    tasks = stream.tasks(group)
    episodes = fields["episodes"].integer(1)
    return Row(
        seed=fields["seed"].one_of(seeds, f"one of seeds {list(seeds)}"),
        method=fields["method"].text(),
        task=fields["task"].one_of(tasks, f"one of stream.{group} {list(tasks)}"),
        group=group,
        episodes=episodes,
        successes=fields["successes"].integer(0, episodes),
    )


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
