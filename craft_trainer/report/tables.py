"""Tables of a page, as plain texts: for HTML and for Markdown alike."""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any, NamedTuple

from craft_trainer.report.course import Course, angle, course, moments
from craft_trainer.report.evidence import Evidence, Trajectory
from craft_trainer.report.headline import kept_share
from craft_trainer.report.interval import percent
from craft_trainer.report.results import GROUPS, Count, Json, method_label
from craft_trainer.report.run import Run
from craft_trainer.report.summary import short, signed
from craft_trainer.report.table import cell_text

DASH = "–"
MOST_NAMED = 4  # in a caption


class Table(NamedTuple):
    """``caption`` says what it holds; the first cell of every row names the row; ``numbers`` are set right."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = True


def rate_text(count: Count | None) -> str:
    """``93 (84–97)``: success and its 95 % interval in %."""
    value, interval = cell_text(count)
    return f"{value} ({interval})" if interval else value


def demos_table(evidence: Evidence) -> Table:
    """Old and new success of every method of every demo."""
    rows = []
    for name, demo in evidence.demos.items():
        for method in demo.results.methods:
            share = kept_share(demo.results, method)
            cells = [rate_text(demo.results.count(method, group)) for group in GROUPS]
            kept = DASH if share is None or method == "teacher" else percent(share)
            rows.append((f"{name}: {method_label(method)}", *cells, kept, str(len(demo.results.seeds))))
    columns = ("results: method", "old tasks, %", "new tasks, %", "kept of the teacher, %", "seeds")
    return Table("Success of every method (95 % interval)", columns, tuple(rows))


def rollouts_table(evidence: Evidence) -> Table:
    """A row for each policy, a column for each task that any of them was rolled out on."""
    tasks = list(dict.fromkeys(task for one in evidence.rollouts.values() for task in one.counts))
    rows = tuple(
        (name, *(rate_text(one.counts.get(task)) for task in tasks), rate_text(one.total), str(one.total.episodes))
        for name, one in evidence.rollouts.items()
    )
    return Table("Success in % of episodes (95 % interval)", ("policy", *tasks, "all tasks", "episodes"), rows)


def choices_table(evidence: Evidence) -> Table:
    """A row for each checkpoint; behind the second of two, what changed."""
    return Table(
        "Multiple choice by likelihood: right answers and what changed (95 % intervals)",
        ("checkpoint", "right, %", "questions", "gold margin, nats", "change, points", "change of margin, nats"),
        tuple(row for name in evidence.asked for row in _choices_rows(name, evidence)),
    )


def _choices_rows(name: str, evidence: Evidence) -> Iterator[tuple[str, ...]]:
    one = evidence.asked[name]
    for number, asked in enumerate(one.asked):
        label = asked.model if len(evidence.asked) == 1 else f"{name}: {asked.model}"
        cells = (label, rate_text(asked.right), str(asked.right.episodes), signed(asked.margin_gold))
        if one.comparison is None or number == 0:
            yield (*cells, DASH, DASH)
        else:
            yield (
                *cells,
                _change(one.comparison, "accuracy_difference", 100),
                _change(one.comparison, "margin_gold_change"),
            )


def _change(comparison: Mapping[str, Any], key: str, factor: float = 1.0) -> str:
    values = (comparison[key], *comparison[f"{key}_ci"])
    texts = [f"{factor * value:+.2f}".replace("-", "−") for value in values]
    return f"{texts[0]} ({texts[1]} to {texts[2]})"


def trajectory_table(histories: Trajectory) -> Table:
    """What both training figures show, at eleven moments."""
    rows = tuple(
        (
            str(moment.step),
            _percents(moment.retention_loss),
            _percents(moment.epsilon),
            short(moment.multiplier),
            percent(moment.conflict),
            degrees_text(moment.cosine),
            degrees_text(moment.update_cosine),
        )
        for moment in moments(histories)
    )
    columns = (
        *("until step", "L_retain, %", "ε, %", "λ", "conflicts, % of steps"),
        *("angle of the gradients", "angle of the step to retention"),
    )
    seeds = f", {len(histories)} seeds" if len(histories) > 1 else ""
    return Table(f"The constraint during training: means since the row before{seeds}", columns, rows)


def trajectories_table(evidence: Evidence) -> Table:
    """One row for each trajectory: how it ended, and its means over all steps."""
    rows = tuple((name, *_course_cells(course(histories))) for name, histories in evidence.trajectories.items())
    columns = (
        *("run", "steps", "L_retain at the end, %", "ε, %", "within ε", "λ at the end", "steps above ε, %"),
        *("conflicts, % of steps", "angle of the gradients", "angle of the step to retention"),
    )
    return Table("How the constraint ended in each run, and means over its steps", columns, rows)


def _course_cells(ended: Course) -> tuple[str, ...]:
    within = "yes" if ended.kept else "no" if ended.num_seeds == 1 else f"{ended.num_kept} of {ended.num_seeds} seeds"
    return (
        str(ended.num_steps),
        _percents(ended.retention_loss),
        _percents(ended.epsilon),
        within,
        short(ended.multiplier),
        percent(ended.above),
        percent(ended.conflict),
        degrees_text(ended.cosine),
        degrees_text(ended.update_cosine),
    )


def runs_table(runs: Mapping[str, Run]) -> Table:
    """How far each run came and where its task loss ended."""
    rows = tuple(
        (
            name,
            DASH if run.step is None else f"{run.step} of {run.max_steps}",
            *(f"{values[index]:.3g}" if len(values) else DASH for values in (run.losses[1],) for index in (0, -1)),
            percent(run.known[1][-1]) if len(run.known[1]) else DASH,
        )
        for name, run in runs.items()
    )
    columns = ("run", "steps made", "first task loss", "last task loss", "answers kept, %")
    return Table("Task loss as it was logged, and questions still answered right", columns, rows)


def differing_settings(evidence: Evidence) -> list[Table]:
    """For each kind of thing compared, a row for each of them and a column for each setting in which they differ."""
    return [table for settings in evidence.settings_by_kind if (table := _differing(settings)) is not None]


def _differing(settings: Mapping[str, Mapping[str, Json]]) -> Table | None:
    flat = {name: dict(flattened(own)) for name, own in settings.items()}
    keys = list(dict.fromkeys(key for own in flat.values() for key in own))
    differing = [key for key in keys if len({own.get(key) for own in flat.values()}) > 1]
    if len(flat) < 2 or not differing:
        return None
    rows = tuple((name, *(own.get(key, DASH) for key in differing)) for name, own in flat.items())
    some = ", ".join(list(flat)[:MOST_NAMED]) + (" and others" if len(flat) > MOST_NAMED else "")
    return Table(f"Settings in which {some} differ", ("name", *differing), rows, numbers=False)


def pairs_table(caption: str, values: Mapping[str, Json]) -> Table:
    """Names and values of a nested mapping."""
    return Table(caption, ("name", "value"), tuple(flattened(values)), numbers=False)


def flattened(values: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted key, text), in their order."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def markdown(table: Table) -> str:
    """The table in Markdown, its caption above it."""
    mark = "---:" if table.numbers else "---"
    lines: Sequence[Sequence[str]] = (table.columns, *table.rows)
    head, *body = ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines]
    return "\n".join([f"{table.caption}:", "", head, f"|---|{f'{mark}|' * (len(table.columns) - 1)}", *body])


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())


def _percents(fraction: float) -> str:
    return DASH if isnan(fraction) else short(100 * fraction)


def degrees_text(cosine: float) -> str:
    """The angle of a cosine, ``96°``; a dash where it was not measured."""
    return DASH if isnan(cosine) else f"{angle(cosine):.0f}°"
