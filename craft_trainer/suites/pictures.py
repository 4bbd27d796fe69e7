"""Pictures of raw results: old against new success, success over budgets, and the matrix of a sequence."""

from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, PercentFormatter
from scipy.optimize import isotonic_regression

from craft_trainer.report.figures.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH_INCHES,
    Draw,
    blank_figure,
    themed_svg,
)
from craft_trainer.report.results import GROUPS
from craft_trainer.suites.runs import Run, by_method
from craft_trainer.suites.tables import Average, average

MARKERS = ("o", "s", "D", "^", "v", "P", "X")  # the second cue beside colour
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
REFERENCES = {"teacher": GREY, "plain": VERMILLION}
LABEL, TICK = 12, 11  # points
LINE = 0.052  # of the axis of success, between the labels of two methods
GOOD = 0.95  # of the episodes, on the old tasks and on the new one
OF_ANCHORS = ("{} anchors", "the number of anchors", "anchors of the old tasks", "anchors from the old tasks")
OF_BUDGETS = ("the budget {}", "the budget", "a budget", "budget")
STRONGEST = 0.55  # of the colour of a cell, so that its number stays legible on both papers


class Picture(NamedTuple):
    """A figure, what it found in a sentence, and how it is read."""

    title: str
    description: str
    draw: Draw

    def svg(self, name: str) -> bytes:
        """The picture as a file in two themes; ids begin with ``name``."""
        return themed_svg(self.draw, name, self.title, self.description)


class Point(NamedTuple):
    """A method with its budget: success on the old tasks and on the new one."""

    name: str
    label: str
    old: Average
    new: Average


def spread(places: Sequence[float], gap: float, low: float, high: float) -> Float[np.ndarray[Any, Any], " labels"]:
    """Move labels as little as possible (least squares) until neighbours are ``gap`` apart, within ``low`` to ``high``.

    For sorted places p the moved ones are q_i + i·gap with q the isotonic regression of p_i − i·gap.
    """
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    apart = isotonic_regression(np.asarray(places)[order] - steps).x
    moved = np.empty(len(places))
    moved[order] = np.clip(apart, low, max(low, high - gap * (len(places) - 1))) + steps
    return moved


def budgets_picture(runs: Sequence[Run]) -> Picture:
    """Old-task success over budgets: a line for every method that has several, a level for every other.

    Raises:
        ValueError: no method has two budgets.
    """
    lines: dict[str, dict[int, Average]] = {}
    levels: dict[str, Average] = {}
    words = {run.name: run.words for run in runs}
    comparable = _comparable(runs)
    for mine in by_method(comparable).values():
        name, budget = mine[0].name, mine[0].budget
        if budget is None:
            levels[name] = average(mine, "old")
        else:
            lines.setdefault(name, {})[budget] = average(mine, "old")
    if not any(len(line) > 1 for line in lines.values()):
        raise ValueError("no method has results at two budgets: there is no line to draw")
    fewest = min(min(line) for line in lines.values())
    kept = [f"{words[name]} keeps {100 * line[fewest].mean:.0f} %" for name, line in lines.items() if fewest in line]
    count_anchors = all(run.counts_anchors for run in comparable if run.budget is not None)
    others = ", ".join(f"{words[name]} {100 * level.mean:.0f} %" for name, level in levels.items()) or "none"
    least, over, without, x = OF_ANCHORS if count_anchors else OF_BUDGETS
    title = f"With {least.format(fewest)} {', '.join(kept)} of the old tasks"
    description = (
        f"Success on the old tasks in % over {over}; {coverage(comparable)}. Bands are 95 % intervals over seeds. "
        f"Without {without}: {others}."
    )
    return Picture(title, description, lambda: _budgets_figure(title, words, lines, levels, x))


def frontier_picture(runs: Sequence[Run]) -> Picture:
    """Success on the old tasks against that on the new one: a point for every method and budget.

    Raises:
        ValueError: no run names old and new tasks.
    """
    comparable = _comparable(runs)
    points = [
        Point(mine[0].name, mine[0].label, *(average(mine, group) for group in GROUPS))
        for mine in by_method(comparable).values()
    ]
    good = [point.label for point in points if min(point.old.mean, point.new.mean) >= GOOD]
    which = " and ".join(good) if 0 < len(good) < 3 else f"{len(good)} of {len(points)}"
    verb = "does" if len(good) == 1 else "do"
    title = f"{which} {verb} the old tasks and the new one in {100 * GOOD:.0f} % of the episodes or more"
    description = (
        f"Success on the old tasks against the new one in %; {coverage(comparable)}. "
        "Lines are 95 % intervals over seeds."
    )
    return Picture(title, description, lambda: _frontier_figure(title, points))


def matrix_picture(runs: Sequence[Run]) -> Picture:
    """Success on every task after every stage of a sequence, method by method, averaged over seeds.

    Raises:
        ValueError: no run has two stages.
    """
    matrices = {
        mine[0].label: np.mean([run.matrix() for run in mine], axis=0)
        for mine in by_method(run for run in runs if len(run.stages) > 1).values()
    }
    if not matrices:
        raise ValueError("no run has two stages: there is no matrix to draw")
    tasks = list(next(run for run in runs if len(run.stages) > 1).stages[0])
    ends = ", ".join(f"{label} {100 * matrix[-1].mean():.0f} %" for label, matrix in matrices.items())
    title = f"After the last task, mean success on all {len(tasks)} is: {ends}"
    description = (
        f"A row is what the policy can do after a stage, a column one of the tasks {', '.join(tasks)}; success in %, "
        f"{coverage(runs)}."
    )
    return Picture(title, description, lambda: _matrix_figure(matrices, tasks))


DRAWN: Final = {"budgets": budgets_picture, "frontier": frontier_picture, "matrix": matrix_picture}


def _comparable(runs: Sequence[Run]) -> list[Run]:
    """The runs whose averages are of the same streams: those that every method was run on, with a budget or another.

    A method at a budget that lacks one of them is left out.

    Raises:
        ValueError: there is no such stream.
    """
    known = [run for run in runs if run.groups]
    common = {run.stream for run in known}
    for name in {run.name for run in known}:
        common &= {run.stream for run in known if run.name == name}
    if not common:
        raise ValueError("no stream with old and new tasks has results of every method: choose methods by `of`")
    found = [[run for run in mine if run.stream in common] for mine in by_method(known).values()]
    return [run for mine in found if {run.stream for run in mine} == common for run in mine]


def coverage(runs: Sequence[Run]) -> str:
    """``4 streams, up to 5 seeds``."""
    streams, seeds = {run.stream for run in runs}, {run.seed for run in runs}
    return f"{len(streams)} stream{'s' * (len(streams) > 1)}, up to {len(seeds)} seed{'s' * (len(seeds) > 1)}"


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a mark for every method."""
    others = [name for name in dict.fromkeys(names) if name not in REFERENCES]
    found = {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(others)}
    return found | {name: (REFERENCES[name], "|") for name in names if name in REFERENCES}


def _budgets_figure(
    title: str,
    words: Mapping[str, str],
    lines: Mapping[str, Mapping[int, Average]],
    levels: Mapping[str, Average],
    x_label: str,
) -> Figure:
    figure = blank_figure(5.2)
    axes = figure.subplots()
    shown = looks([*lines, *levels])
    budgets = sorted({budget for line in lines.values() for budget in line})
    first, last = budgets[0], budgets[-1]
    starts: dict[str, float] = {}
    for name, level in levels.items():
        colour, dashes = shown[name][0], (5, 2.5) if name in REFERENCES else (1, 0)
        axes.plot((first, last), (level.mean, level.mean), color=colour, lw=2.2, dashes=dashes, zorder=2)
        if name not in REFERENCES:
            axes.fill_between((first, last), level.low, level.high, color=colour, alpha=0.16, lw=0, zorder=1)
        starts[name] = level.mean
    for name, line in lines.items():
        x, (mean, low, high) = sorted(line), np.array([line[budget] for budget in sorted(line)]).T
        colour, marker = shown[name]
        axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0, zorder=1)
        axes.plot(x, mean, color=colour, marker=marker, lw=2.8, ms=8, zorder=3, clip_on=False)
        starts[name] = mean[0]
    _write_beside(axes, words, starts, shown, first)
    axes.set_xscale("log")
    axes.set_xlim(first / (last / first) ** 0.85, last * 1.03)
    axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    axes.xaxis.set_minor_formatter(NullFormatter())
    rates(axes.yaxis, axes.set_ylim)
    write_around(figure, axes, title, x=x_label, y="success on the old tasks, %", loc="right")
    return figure


def _write_beside(
    axes: Axes, words: Mapping[str, str], starts: Mapping[str, float], shown: Mapping[str, tuple[str, str]], first: int
) -> None:
    """Name every line left of where it begins, with its success there."""
    moved = spread(list(starts.values()), LINE * 1.15, 0.0, 1.07)
    for (name, start), place in zip(starts.items(), moved, strict=True):
        text = f"{words[name]}  {100 * start:.0f} %"
        left: dict[str, Any] = {
            "fontweight": "bold",
            "textcoords": "offset points",
            "xytext": (-14, 0),
            "ha": "right",
            "va": "center",
            "fontsize": LABEL,
        }
        axes.annotate(text, (first, place), color=shown[name][0], annotation_clip=False, **left)


def rates(axis: Any, limit: Callable[[float, float], Any]) -> None:
    """An axis of success in %, with a little room at both ends."""
    limit(-0.03, 1.08)
    axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
    axis.set_major_formatter(PercentFormatter(1, symbol=None))
    axis.grid(visible=True)


def _frontier_figure(title: str, points: Sequence[Point]) -> Figure:
    figure = blank_figure(max(5.0, 1.2 + 0.25 * len(points)))
    axes = figure.subplots()
    shown = looks([point.name for point in points])
    gap = 1.15 / max(20.0, 1.05 * len(points))
    places = spread([point.old.mean for point in points], gap, -0.02, 1.08)
    for (name, label, old, new), place in zip(points, places, strict=True):
        colour, marker = shown[name]
        axes.plot((new.low, new.high), (old.mean, old.mean), color=colour, lw=1.6, clip_on=False)
        axes.plot((new.mean, new.mean), (old.low, old.high), color=colour, lw=1.6, clip_on=False)
        axes.plot(new.mean, old.mean, marker, color=colour, ms=7, clip_on=False)
        axes.plot((new.mean, 1.06, 1.1), (old.mean, place, place), color=colour, lw=0.6, alpha=0.7, clip_on=False)
        axes.text(1.115, place, label, color=colour, va="center", fontsize=10)
    for axis, limit in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        rates(axis, limit)
    axes.set_xlim(-0.03, 2.05)
    write_around(figure, axes, title, x="success on the new task, %", y="success on the old tasks, %")
    return figure


def _matrix_figure(matrices: Mapping[str, Float[np.ndarray[Any, Any], "stages tasks"]], tasks: Sequence[str]) -> Figure:
    columns = min(2, len(matrices))
    small: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10 if columns == 1 else 7.5}
    rows = -(-len(matrices) // columns)
    size = WIDTH_INCHES / columns
    figure = blank_figure(rows * (0.8 * size + 0.9))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (label, matrix) in zip(panels, matrices.items(), strict=False):
        for (stage, task), success in np.ndenumerate(matrix):
            cell = Rectangle((task - 0.5, stage - 0.5), 1, 1, facecolor=BLUE, alpha=STRONGEST * success, lw=0)
            axes.add_patch(cell)
            axes.text(task, stage, f"{100 * success:.0f}", **small)
        axes.set_xlim(-0.5, len(tasks) - 0.5)
        axes.set_ylim(len(matrix) - 0.5, -0.5)
        axes.set_xticks(range(len(tasks)), [task.removesuffix("-v3") for task in tasks], rotation=60, ha="right")
        axes.set_yticks(range(len(matrix)), [f"after {stage}" for stage in range(1, len(matrix) + 1)])
        axes.tick_params(length=0, labelsize=8)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{label}\nmean at the end {100 * matrix[-1].mean():.0f} %", fontsize=10)
    for axes in panels[len(matrices) :]:
        axes.set_axis_off()
    return figure


def write_around(
    figure: Figure, axes: Axes, title: str, *, x: str, y: str, loc: Literal["left", "right"] = "left"
) -> None:
    """Write the ``title`` above the figure, and what both axes show: ``x`` at the side ``loc``. Axes have no lines."""
    axes.tick_params(which="both", length=0, labelsize=TICK)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlabel(x, fontsize=LABEL, loc=loc)
    axes.set_title(y, fontsize=LABEL, fontweight="normal")
    figure.suptitle("\n".join(wrap(title, 62)), x=0.01, ha="left", fontsize=15, fontweight="bold")
