"""Raw results as they are read: one run for each cell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from craft_trainer.report.reading import (
    ANY_KEY,
    ANYTHING,
    NAME,
    SHA256,
    TEXT,
    Rule,
    Schema,
    check,
    integer,
    json_object,
    number,
    require_checksum,
)
from craft_trainer.report.results import LEADING_METHODS, Count
from craft_trainer.suites.agreement import require_agreement
from craft_trainer.suites.running import CHANGES, SCHEMA
from craft_trainer.suites.stages import Stage, counts, groups_of, matrix_of, numbered, stages_of, steps_of

OUTPUTS = ("--output", "--output_dir")
WAY_OUT = "restore the file as `suite run` wrote it"
ROW: Schema = {"task": NAME, "episodes": integer(1), "successes": integer(0)}
LOSSES: Schema = {"eval_loss": [number()]}
OF_TWO: Schema = {CHANGES: {"correct": [integer(-1, 1)], "margin_gold": [number()]}}
MEASURED: Schema = {"loss": number()}
OF_ROWS: Schema = {"row_losses": [number(0)], "compare_row_losses": [number(0)], "row_tokens": [number(0)]}
RAW: Mapping[str, Schema] = {
    "schema": integer(SCHEMA, SCHEMA),
    "suite": NAME,
    "stream": NAME,
    "tasks": {ANY_KEY: ANYTHING},
    "method": NAME,
    "label": NAME,
    "budget": Rule("null or an integer ≥ 0", lambda value: value is None or integer(0).holds(value)),
    "seed": integer(0),
    "seconds": {ANY_KEY: number(0)},
    "evaluations": {ANY_KEY: {ANY_KEY: ANYTHING}},
    "commands": [[TEXT]],
}
LATER: Mapping[str, Schema] = {  # keys that raw results of earlier versions do not have
    "stages": {ANY_KEY: integer(1)},
    "inputs": {ANY_KEY: SHA256},
    "templates": [[TEXT]],
}


@dataclass(frozen=True)
class Measured:
    """The loss that the command ``loss`` measured.

    Attributes:
        loss: of the one model, or of the second of two.
        changes: of two language models: the second's mean loss per token less the first's, row by row, in nats.
        tokens: of every row, by which it is weighted.
    """

    loss: float
    changes: Sequence[float] = ()
    tokens: Sequence[int] = ()

    @classmethod
    def of(cls, content: Mapping[str, Any], place: str) -> "Measured":
        """Read what the command wrote, or refuse it by a ValueError that names the ``place``."""
        check(content, MEASURED, place)
        if "compare_loss" not in content:
            return cls(content["loss"])
        check(content, OF_ROWS, place)
        before, after = (np.array(content[f"{which}row_losses"]) for which in ("", "compare_"))
        return cls(content["compare_loss"], (after - before).tolist(), content["row_tokens"])


@dataclass(frozen=True)
class Run:
    """The raw result of one cell.

    Attributes:
        name: of the method, without its budget.
        words: the method in words, as the suite's ``label`` has them.
        stages: success by task, stage by stage, in the order of the commands that made them.
        losses: on held-out texts of what is learned, in nats a token, from one evaluation while training to the next.
        changes: what a comparison with the start found, question by question: ``correct`` (−1, 0 or 1) and
            ``margin_gold``, in nats.
        measured: what ``loss`` found, by the name of the evaluation.
        seconds: of the commands that fine-tune (``train`` with ``--model``) and of those that make anchors (``cache``),
            by these names; one is missing where there was no such command, or its time is not known.
        evaluations: their names.
        commands: of the cell.
        templates: the same as the suite has them, with their references; empty where they are not known.
        inputs: what the commands read from outside the suite, each with its digest, as far as it is known.
        path: of the raw file.
    """

    stream: str
    name: str
    budget: int | None
    words: str
    seed: int
    tasks: Mapping[str, Any]
    stages: Sequence[Stage]
    losses: Sequence[float] = ()
    changes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    measured: Mapping[str, Measured] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    evaluations: Sequence[str] = ()
    commands: Sequence[Sequence[str]] = ()
    templates: Sequence[Sequence[str]] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    path: Path = Path()

    @property
    def method(self) -> str:
        """Name and budget in one word."""
        return self.name if self.budget is None else f"{self.name}-{self.budget}"

    @property
    def label(self) -> str:
        """The method in words, with its budget."""
        if self.budget is None:
            return self.words
        return f"{self.words}, {f'{self.budget:,} anchors' if self.counts_anchors else f'budget {self.budget:,}'}"

    @property
    def counts_anchors(self) -> bool:
        """True if the budget is a number of anchors: a command has it as its option of that name."""
        known = self.templates or self.commands
        filled = "{budget}" if self.templates else str(self.budget)
        return any(pair == ("--anchors", filled) for command in known for pair in pairwise(command))

    @cached_property
    def groups(self) -> dict[str, list[Count]]:
        """Counts of the old and of the new tasks; empty of a stream that does not name them, of a curve and of texts.

        Raises:
            ValueError: one of these tasks was not evaluated.
        """
        return groups_of(self.tasks, self.stages, str(self.path))

    def mean(self, group: str) -> float:
        """Mean success over the tasks of a group, a fraction."""
        return float(np.mean([count.rate for count in self.groups[group]]))

    @property
    def steps(self) -> Sequence[int]:
        """The steps after which the new tasks were evaluated: the stream's ``steps``, if each has an evaluation."""
        return steps_of(self.tasks, self.stages)

    def curve(self) -> list[float]:
        """Mean success on the new tasks after each of the steps, fractions."""
        found = (counts(self.tasks, "new", stage, str(self.path)) for stage in self.stages)
        return [float(np.mean([count.rate for count in stage])) for stage in found]

    def matrix(self) -> NDArray[np.float64]:
        """Success of every task after every stage, or after a single one: :func:`stages.matrix_of`."""
        return matrix_of(self.tasks, self.stages, str(self.path))


def read_runs(raw: Path, suite: str) -> list[Run]:
    """Read every raw result of a suite: teacher and plain first, then by name and budget.

    Raises:
        ValueError: there is none, a file is not what ``suite run`` wrote, or two files do not belong in one table.
    """
    paths = sorted((raw / suite).rglob("*.json"))
    if not paths:
        raise ValueError(f"{raw / suite} holds no raw result: run `craft-trainer suite run {suite} --raw {raw}`")
    runs = [_read(path, suite) for path in paths]
    require_agreement(runs)
    return sorted(runs, key=lambda run: (_place(run.name), run.name, run.budget or 0, run.stream, run.seed))


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by method and budget, in the order in which these first appear."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.method, []).append(run)
    return found


def _place(name: str) -> int:
    return LEADING_METHODS.index(name) if name in LEADING_METHODS[:2] else len(LEADING_METHODS)


def _read(path: Path, suite: str) -> Run:
    content = json_object(path, WAY_OUT)
    check(content, {**RAW, **{key: rule for key, rule in LATER.items() if key in content}}, f"{path}: ")
    require_checksum(content, path, WAY_OUT)
    if content["suite"] != suite:
        raise ValueError(f"{path} is a result of the suite {content['suite']}, not of {suite}: move it to its folder")
    made = _by_output(content["commands"])
    order = {name: place for place, name in enumerate(made)}
    rollouts, losses, changes, measured = dict[str, Stage](), [], {}, {}
    for name, evaluation in sorted(content["evaluations"].items(), key=lambda item: order.get(item[0], len(order))):
        place = f"{path}: evaluations.{name}"
        if "eval_loss" in evaluation:
            check(evaluation, LOSSES, place)
            losses = evaluation["eval_loss"]
        elif "comparison" in evaluation:
            check(evaluation, OF_TWO, place)
            changes = evaluation[CHANGES]
        elif "loss" in evaluation:
            measured[name] = Measured.of(evaluation, place)
        else:
            check(evaluation, {"rows": [ROW]}, place)
            rollouts[name] = {row["task"]: Count(row["successes"], row["episodes"]) for row in evaluation["rows"]}
            if len(rollouts[name]) < len(evaluation["rows"]):
                raise ValueError(f"{place}.rows has a task twice, of which one would be lost: evaluate each task once")
    budget = content["budget"]
    return Run(
        content["stream"],
        content["method"] if budget is None else content["method"].removesuffix(f"-{budget}"),
        budget,
        content["label"],
        content["seed"],
        content["tasks"],
        stages_of(rollouts, content.get("stages", numbered(rollouts)), str(path)),
        losses,
        changes,
        measured,
        _seconds(made, content["seconds"]),
        sorted(content["evaluations"]),
        content["commands"],
        content.get("templates", ()),
        content.get("inputs", {}),
        path,
    )


def _by_output(commands: Sequence[Sequence[str]]) -> dict[str, Sequence[str]]:
    """Name every command by its output, in the order of the commands: the checksum holds it, unlike that of keys."""
    return {Path(word).stem: one for one in commands for option, word in pairwise(one) if option in OUTPUTS}


def _seconds(made: Mapping[str, Sequence[str]], seconds: Mapping[str, float]) -> dict[str, float]:
    """Add up what commands of a kind took, each known by the name of its output."""
    kinds: dict[str, list[str]] = {}
    for name, command in made.items():
        kind = "anchors" if command[0] == "cache" else "train" if command[0] == "train" and "--model" in command else ""
        if kind:
            kinds.setdefault(kind, []).append(name)
    return {kind: sum(seconds[name] for name in names) for kind, names in kinds.items() if set(names) <= set(seconds)}
