"""Tables, as plain texts: for HTML, for Markdown and for the terminal."""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from statistics import fmean
from typing import Any, Literal, NamedTuple

from craft_trainer.report.choices import CHANGES, Choices
from craft_trainer.report.evidence import Demo, Evidence
from craft_trainer.report.held_out import HeldOut
from craft_trainer.report.history import Course, Trajectory, course, moments
from craft_trainer.report.results import GROUPS, Count, Group, Json, Results, method_label
from craft_trainer.report.roles import Roles
from craft_trainer.report.rollouts import Rollout
from craft_trainer.report.run import Run
from craft_trainer.report.sentences import coverage
from craft_trainer.report.wording import (
    DASH,
    Markdown,
    angle,
    duration,
    in_markdown,
    percent,
    rate,
    short,
    short_percent,
    signed,
)

MOST_NAMED = 4  # in a caption
PULLS = ("conflicts, % of steps", "angle of the gradients", "angle of the step to retention")

type Row = tuple[str, ...]


class Table(NamedTuple):
    """``caption`` says what it holds; the first cell of every row names the row; ``numbers`` are set right."""

    caption: str
    columns: Row
    rows: Sequence[Row]
    numbers: bool = True

    def markdown(self) -> Markdown:
        """The table in Markdown, its caption above it; cells are escaped, but for those that are Markdown."""
        mark = "---:|" if self.numbers else "---|"
        head, *body = (f"| {' | '.join(map(in_markdown, line))} |" for line in (self.columns, *self.rows))
        caption = [f"{in_markdown(self.caption)}:", ""] if self.caption else []
        return Markdown("\n".join([*caption, head, f"|---|{mark * (len(self.columns) - 1)}", *body]))


class Line(NamedTuple):
    """Success on a task, or the mean of its group: one cell per method, None where it was not evaluated."""

    label: str
    group: Group
    is_mean: bool
    cells: tuple[Count | None, ...]


def task_lines(results: Results) -> Iterator[Line]:
    """Old tasks, mean old, new tasks, mean new; every cell pooled over seeds, the means over tasks as well."""
    for group in GROUPS:
        for task in results.stream.tasks(group):
            yield Line(task, group, False, tuple(results.count(name, group, task=task) for name in results.methods))
        yield Line(f"mean {group}", group, True, tuple(results.count(name, group) for name in results.methods))


def format_table(results: Results, kind: Literal["text", "markdown"] = "text") -> str:
    """Success per task as ``text`` (aligned, for a terminal) or ``markdown``; ValueError for any other kind."""
    lines, labels = list(task_lines(results)), tuple(map(method_label, results.methods))
    if kind == "markdown":
        rows = [(_bold(line.label, line), *(_bold(rate(cell), line) for cell in line.cells)) for line in lines]
        table = Table("", ("success in %", *labels), rows).markdown()
        return Markdown(f"{table}\n\nIn brackets the 95 % Wilson interval; {in_markdown(coverage(results))}.")
    if kind != "text":
        raise ValueError(f"kind is {kind!r}, expected 'text' or 'markdown'")
    names = ["", *(line.label for line in lines)]
    columns = [
        [f"{name:<{max(map(len, names))}}" for name in names],
        *(_aligned(label, [line.cells[index] for line in lines]) for index, label in enumerate(labels)),
    ]
    head, *body = [f"  {'   '.join(cells)}".rstrip() for cells in zip(*columns, strict=True)]
    rule = "  " + "─" * (max(map(len, (head, *body))) - 2)
    out = [head]
    for line, text in zip(lines, body, strict=True):
        starts_group = line.label in (results.stream.old[0], results.stream.new[0]) and not line.is_mean
        out += [rule, text] if starts_group else [text]
    return "\n".join([*out, rule, f"  success in % (95 % interval), {coverage(results)}"])


def _bold(text: str, line: Line) -> str:
    """``**98** (91–99)`` in the line of a mean."""
    value, bracket, interval = text.partition(" (")
    return Markdown(f"**{in_markdown(value)}**{bracket}{interval}") if line.is_mean else text


def _aligned(header: str, counts: Sequence[Count | None]) -> list[str]:
    """Cells of one width: the numbers end, and the intervals begin, one under the other."""
    texts = [rate(count).partition(" ") for count in counts]
    left = max(len(value) for value, *_ in texts)
    cells = [header, *(f"{value:>{left}} {interval}" for value, _, interval in texts)]
    return [f"{cell:<{max(map(len, cells))}}" for cell in cells]


def demos_table(demos: Mapping[str, Demo]) -> Table:
    """Old and new success of every method of every demo."""
    rows = [
        (
            f"{name}: {method_label(method)}",
            *(rate(results.count(method, group)) for group in GROUPS),
            DASH if method == "teacher" else percent(results.kept(method)),
            str(len(results.seeds)),
        )
        for name, (results, _) in demos.items()
        for method in results.methods
    ]
    columns = ("results: method", "old tasks, %", "new tasks, %", "kept of the teacher, %", "seeds")
    return Table("Success of every method (95 % interval)", columns, rows)


def held_out_table(held_out: Mapping[str, HeldOut]) -> Table:
    """Tabulate the losses of every method on held-out episodes: the mean over seeds, and the ends where they differ."""
    rows = [
        (
            method_label(method) if len(held_out) == 1 else f"{name}: {method_label(method)}",
            *(_of_seeds([row[what] for row in rows]) for what in ("old", "new")),
            _of_seeds([100 * row["L_retain"] for row in rows]),
            DASH if method == "teacher" else str(len(rows)),
        )
        for name, found in held_out.items()
        for method, rows in found.losses.items()
    ]
    columns = ("method", "task loss, old data", "task loss, new data", "L_retain, old data, %", "seeds")
    return Table("Losses on held-out episodes (mean over seeds)", columns, rows)


def _of_seeds(values: Sequence[float]) -> str:
    ends = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
    return f"{fmean(values):.3g}{ends}"


def rollouts_table(rollouts: Mapping[str, Rollout], roles: Roles | None = None) -> Table:
    """A row for each policy, a column for each task that any of them was rolled out on; by ``roles`` old ones first."""
    if roles is not None:
        return _roles_table(rollouts, roles)
    tasks = dict.fromkeys(task for one in rollouts.values() for task in one.counts)
    rows = [
        (name, *(rate(one.counts.get(task)) for task in tasks), rate(one.total), str(one.total.episodes))
        for name, one in rollouts.items()
    ]
    return Table("Success in % of episodes (95 % interval)", ("policy", *tasks, "all tasks", "episodes"), rows)


def _roles_table(rollouts: Mapping[str, Rollout], roles: Roles) -> Table:
    """Each task of a group, the mean of the group, and what was kept of the teacher's success."""
    rows = [
        (
            f"{name} (teacher)" if name == roles.teacher else name,
            *(
                rate(count)
                for group in GROUPS
                for count in (*map(one.counts.get, roles.tasks(group)), roles.count(one, group))
            ),
            DASH if name == roles.teacher else percent(roles.kept(one, rollouts)),
        )
        for name, one in rollouts.items()
    ]
    tasks = [column for group in GROUPS for column in (*roles.tasks(group), f"all {group} tasks")]
    return Table("Success in % of episodes (95 % interval)", ("policy", *tasks, "kept of the teacher, %"), rows)


def choices_table(documents: Mapping[str, Choices]) -> Table:
    """A row for each checkpoint; behind the second of two, what changed."""
    rows = [
        (
            one.model if len(documents) == 1 else f"{name}: {one.model}",
            *(rate(one.right), str(one.right.episodes), signed(one.margin_gold)),
            *(_change(document.comparison if number else None, change) for change in CHANGES),
        )
        for name, document in documents.items()
        for number, one in enumerate(document.asked)
    ]
    columns = ("checkpoint", "right, %", "questions", "gold margin, nats", "change, points", "change of margin, nats")
    return Table("Multiple choice by likelihood: right answers and what changed (95 % intervals)", columns, rows)


def _change(comparison: Mapping[str, Any] | None, key: str) -> str:
    if comparison is None:
        return DASH
    factor = 100 if key == "accuracy_difference" else 1
    change, low, high = (signed(factor * one, "+.2f") for one in (comparison[key], *comparison[f"{key}_ci"]))
    return f"{change} ({low} to {high})"


def trajectory_table(histories: Trajectory) -> Table:
    """Tabulate what both training figures show, at eleven moments."""
    rows = [(str(one["step"]), *_budget(one), short(one["multiplier"]), *_pulls(one)) for one in moments(histories)]
    seeds = f", {len(histories)} seeds" if len(histories) > 1 else ""
    caption = f"The constraint during training: means since the row before{seeds}"
    return Table(caption, ("until step", "L_retain, %", "ε, %", "λ", *PULLS), rows)


def trajectories_table(trajectories: Mapping[str, Trajectory]) -> Table:
    """One row for each trajectory: how it ended, and its means over all steps."""
    rows = [
        (
            *(name, str(one.num_steps), *_budget(vars(one)), _within(one)),
            *(short(one.multiplier), percent(one.above), *_pulls(vars(one))),
        )
        for name, one in ((name, course(histories)) for name, histories in trajectories.items())
    ]
    columns = ("run", "steps", "L_retain at the end, %", "ε, %", "within ε", "λ at the end", "steps above ε, %", *PULLS)
    return Table("How the constraint ended in each run, and means over its steps", columns, rows)


def _budget(numbers: Mapping[str, float]) -> Row:
    loss, epsilon = numbers["retention_loss"], numbers["epsilon"]  # ε is always finite
    return DASH if isnan(loss) else short_percent(loss), short_percent(epsilon)


def _within(ended: Course) -> str:
    return "yes" if ended.kept else "no" if ended.num_seeds == 1 else f"{ended.num_kept} of {ended.num_seeds} seeds"


def _pulls(numbers: Mapping[str, float]) -> Row:
    return percent(numbers["conflict"]), angle(numbers["cosine"]), angle(numbers["update_cosine"])


def runs_table(runs: Mapping[str, Run]) -> Table:
    """Tabulate the steps of each run and its last task loss."""
    rows = []
    for name, run in runs.items():
        losses, known = run.losses[1], run.known[1]
        made = DASH if run.step is None else f"{run.step} of {run.max_steps}"
        ends = (f"{losses[0]:.3g}", f"{losses[-1]:.3g}") if len(losses) else (DASH, DASH)
        rows.append((name, made, *ends, percent(known[-1] if len(known) else None)))
    columns = ("run", "steps made", "first task loss", "last task loss", "answers kept, %")
    return Table("Task loss as it was logged, and questions still answered right", columns, rows)


def times_table(caption: str, seconds: Mapping[str, float]) -> Table:
    """Tabulate the time of each stage."""
    return Table(caption, ("stage", "time"), [(stage, duration(value)) for stage, value in seconds.items()])


def differing_settings(evidence: Evidence) -> list[Table]:
    """For each kind of thing compared, a row for each of them and a column for each setting in which they differ."""
    found = []
    for settings in evidence.settings_by_kind:
        flat = {name: dict(flattened(own)) for name, own in settings.items()}
        keys = dict.fromkeys(key for own in flat.values() for key in own)
        differing = [key for key in keys if len({own.get(key) for own in flat.values()}) > 1]
        some = ", ".join(list(flat)[:MOST_NAMED]) + (" and others" if len(flat) > MOST_NAMED else "")
        rows = [(name, *(own.get(key, DASH) for key in differing)) for name, own in flat.items()]
        table = Table(f"Settings in which {some} differ", ("name", *differing), rows, numbers=False)
        found += [table] if differing else []
    return found


def pairs_table(caption: str, values: Mapping[str, Json]) -> Table:
    """Names and values of a nested mapping."""
    return Table(caption, ("name", "value"), list(flattened(values)), numbers=False)


def flattened(values: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted key, text), in their order."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
