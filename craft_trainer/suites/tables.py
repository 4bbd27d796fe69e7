"""Tables of a page, from raw results: Markdown between two comments that say what the table is of."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from craft_trainer.evaluation.continual import (
    area_under_success,
    average_success,
    backward_transfer,
    negative_backward_transfer,
)
from craft_trainer.evaluation.replicates import (
    Difference,
    interquartile_mean,
    paired_differences,
    stratified_interval,
)
from craft_trainer.report.reading import ANY_KEY, ANYTHING, NAME, Schema, check, integer, json_object, require_checksum
from craft_trainer.report.results import GROUPS, LEADING_METHODS, Count, pooled
from craft_trainer.report.tables import Table
from craft_trainer.report.wording import DASH, percent, rate, signed
from craft_trainer.suites.running import SCHEMA

BEGINNING = re.compile(r"<!-- suite: (?P<suite>[\w-]+)(?:/(?P<stream>[\w-]+)| against (?P<rival>[\w-]+))? -->\n")
END = "<!-- end of suite -->"
WAY_OUT = "restore the file as `suite run` wrote it"
ROW: Schema = {"task": NAME, "episodes": integer(1), "successes": integer(0)}
RAW: Mapping[str, Schema] = {
    "schema": integer(SCHEMA, SCHEMA),
    "suite": NAME,
    "stream": NAME,
    "tasks": {ANY_KEY: ANYTHING},
    "method": NAME,
    "label": NAME,
    "seed": integer(0),
    "evaluations": {ANY_KEY: ANYTHING},
}
HEADS = {"old": "old tasks, %", "new": "new task, %"}


@dataclass(frozen=True)
class Run:
    """The raw result of one cell; ``label`` is its method in words, with the budget."""

    stream: str
    method: str
    label: str
    seed: int
    tasks: Mapping[str, Any]
    stages: Sequence[Mapping[str, Count]]  # success by task, evaluation by evaluation

    @cached_property
    def groups(self) -> dict[str, list[Count]]:
        """Counts of the old and of the new tasks; empty of a stream that does not name them."""
        if not all(group in self.tasks for group in GROUPS):
            return {}
        return {group: [self.stages[-1][task] for task in self.tasks[group]] for group in GROUPS}

    def mean(self, group: str) -> float:
        """Mean success over the tasks of a group, a fraction."""
        return float(np.mean([count.rate for count in self.groups[group]]))

    def matrix(self) -> NDArray[np.float64]:
        """Success of every task (in the order in which they were learned) after every stage."""
        return np.array([[count.rate for count in stage.values()] for stage in self.stages])


def read_runs(raw: Path, suite: str) -> list[Run]:
    """Read every raw result of a suite: teacher and plain first, then by name and budget.

    Raises:
        ValueError: there is none, or a file is not what ``suite run`` wrote.
    """
    paths = sorted((raw / suite).rglob("*.json"))
    if not paths:
        raise ValueError(f"{raw / suite} holds no raw result: run `craft-trainer suite run {suite} --raw {raw}`")
    runs = [_read(path) for path in paths]
    return sorted(runs, key=lambda run: (*_place(run.method), run.stream, run.seed))


def _place(method: str) -> tuple[int, str, int]:
    name, _, budget = method.rpartition("-")
    name, number = (name, int(budget)) if budget.isdigit() else (method, 0)
    return (LEADING_METHODS.index(name) if name in LEADING_METHODS[:2] else len(LEADING_METHODS)), name, number


def _read(path: Path) -> Run:
    content = json_object(path, WAY_OUT)
    check(content, RAW, f"{path}: ")
    require_checksum(content, path, WAY_OUT)
    stages = []
    for name, evaluation in sorted(content["evaluations"].items(), key=lambda item: (len(item[0]), item[0])):
        check(evaluation, {"rows": [ROW]}, f"{path}: evaluations.{name}.")
        stages.append({row["task"]: Count(row["successes"], row["episodes"]) for row in evaluation["rows"]})
    budget = content.get("budget")
    label = content["label"] if budget is None else f"{content['label']}, {budget} anchors"
    return Run(content["stream"], content["method"], label, content["seed"], content["tasks"], stages)


def with_tables(page: str, raw: Path) -> str:
    """Write every table of ``page`` anew: what stands between ``<!-- suite: … -->`` and ``<!-- end of suite -->``.

    ``NAME/STREAM`` is a table of one stream, ``NAME`` of all streams together, ``NAME against METHOD`` of the paired
    differences to a method.

    Raises:
        ValueError: a table has no end, or nothing to show.
    """
    parts, position = [], 0
    while begins := BEGINNING.search(page, position):
        end = page.find(END, begins.end())
        if end < 0 or BEGINNING.search(page, begins.end(), end):
            raise ValueError(f"{begins[0].strip()} has no {END} behind it")
        runs = read_runs(raw, begins["suite"])
        if begins["stream"]:
            table = stream_table(begins["stream"], runs)
        elif begins["rival"]:
            table = differences_table(begins["rival"], runs)
        else:
            table = suite_table(runs)
        parts += [page[position : begins.end()], "\n", table.markdown(), "\n\n"]
        position = end
    return "".join([*parts, page[position:]])


def stream_table(stream: str, runs: Sequence[Run]) -> Table:
    """Every method on one stream: success with the 95 % Wilson interval over episodes, and seed by seed."""
    mine = [run for run in runs if run.stream == stream]
    if not mine:
        there = ", ".join(sorted({run.stream for run in runs}))
        raise ValueError(f"no raw result of the stream {stream}; there are {there}")
    if mine[0].groups:
        columns = ("method", "seeds", HEADS["old"], "each seed", HEADS["new"], "each seed")
        return Table("", columns, [_groups_row(found) for found in _by_method(mine)])
    columns = ("method", "seeds", "average, %", "BWT", "NBT", "AUC, %")
    return Table("", columns, [_sequence_row(found) for found in _by_method(mine)])


def _groups_row(runs: Sequence[Run]) -> tuple[str, ...]:
    row = [runs[0].label, _seeds(runs)]
    for group in GROUPS:
        row.append(rate(pooled([count for run in runs for count in run.groups[group]])))
        row.append(" ".join(percent(run.mean(group)) for run in runs))
    return tuple(row)


def _sequence_row(runs: Sequence[Run]) -> tuple[str, ...]:
    matrices = [run.matrix() for run in runs]
    if len(matrices[0]) == 1:  # all tasks at once
        average = 100 * float(np.mean([average_success(matrix) for matrix in matrices]))
        return runs[0].label, _seeds(runs), f"{average:.1f}", DASH, DASH, DASH
    measures = [
        [how(matrix) for matrix in matrices]
        for how in (average_success, backward_transfer, negative_backward_transfer, area_under_success)
    ]
    average, bwt, nbt, auc = (100 * float(np.mean(values)) for values in measures)
    return runs[0].label, _seeds(runs), f"{average:.1f}", signed(bwt, ".1f"), signed(nbt, ".1f"), f"{auc:.1f}"


def suite_table(runs: Sequence[Run]) -> Table:
    """Every method on all streams: interquartile means with stratified bootstrap intervals over seeds."""
    rows = []
    for found in _by_method([run for run in runs if run.groups]):
        streams = sorted({run.stream for run in found})
        row = [found[0].label, str(len(streams)), str(len(found))]
        for group in GROUPS:
            strata = [
                np.array([[count.rate for count in run.groups[group]] for run in found if run.stream == stream])
                for stream in streams
            ]
            low, high = stratified_interval(strata)
            middle = interquartile_mean(np.concatenate([stratum.ravel() for stratum in strata]))
            row.append(f"{100 * middle:.1f} ({100 * low:.0f}–{100 * high:.0f})")
        rows.append(tuple(row))
    return Table("", ("method", "streams", "runs", HEADS["old"], HEADS["new"]), rows)


def differences_table(rival: str, runs: Sequence[Run]) -> Table:
    """Every method less ``rival`` on the streams and seeds that both have, in points of success.

    Raises:
        ValueError: there is no such method.
    """
    scored = {(run.method, run.stream, run.seed): run for run in runs if run.groups}
    if rival not in {method for method, *_ in scored}:
        raise ValueError(f"no raw result of {rival}; there are {', '.join(sorted({run.method for run in runs}))}")
    others = {found[0].method: found for found in _by_method(list(scored.values())) if found[0].method != rival}
    comparisons = {}
    for group in GROUPS:
        for method, found in others.items():
            pairs = [(run, scored.get((rival, run.stream, run.seed))) for run in found]
            both = [(run.mean(group), other.mean(group)) for run, other in pairs if other is not None]
            if both:
                comparisons[f"{method} {group}"] = ([mine for mine, _ in both], [theirs for _, theirs in both])
    differences = paired_differences(comparisons)
    rows = [
        (
            found[0].label,
            *(cell for group in GROUPS for cell in _difference_cells(differences.get(f"{method} {group}"))),
        )
        for method, found in others.items()
    ]
    return Table("", ("method", "pairs", "old, points", "p", "pairs", "new, points", "p"), rows)


def _difference_cells(one: Difference | None) -> tuple[str, str, str]:
    if one is None:
        return "0", DASH, DASH
    ends = "" if one.interval is None else " to ".join(signed(100 * end, ".0f") for end in one.interval)
    return str(one.num_pairs), signed(100 * one.mean, "+.1f") + (f" ({ends})" if ends else ""), f"{one.p:.3f}"


def _by_method(runs: Sequence[Run]) -> Iterable[list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.method, []).append(run)
    return found.values()


def _seeds(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.seed) for run in runs)
