"""Rates and changes with their 95 % intervals, as dots on lines: one row per thing compared, one mark per method."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from craft_trainer.report.choices import Choices
from craft_trainer.report.evidence import Demo
from craft_trainer.report.figures.canvas import BLUE, GREY, VERMILLION, blank_figure
from craft_trainer.report.figures.success import frame_rates, method_colours
from craft_trainer.report.recomputed import verdicts
from craft_trainer.report.results import GROUPS, Count, method_label
from craft_trainer.report.roles import Roles
from craft_trainer.report.rollouts import Rollout
from craft_trainer.report.wording import shortened, signed

MARKERS = ("s", "D", "o", "^", "v", "P", "X", "*")  # the second cue beside colour
LINE_INCHES = 0.16
ROW_GAP = 0.6  # of a line, between rows
FRAME_INCHES = 1.15
AXIS = "% (lines: 95 % interval)"
CHANGE_INCHES = 0.34
CHANGES = (  # key in the comparison, title, factor, label of the axis
    ("accuracy_difference", "Accuracy", 100.0, "change, points (lines: 95 % interval)"),
    ("margin_gold_change", "Gold margin", 1.0, "change, nats per question"),
)

COLOURS = {"fell": VERMILLION, "rose": BLUE, "undecided": GREY}


class Panel(NamedTuple):
    """One panel: its title, and for each row the count of every series, None where nothing was measured."""

    title: str
    rows: Mapping[str, Sequence[Count | None]]


def rates_figure(panels: Sequence[Panel], series: Sequence[str], label: str) -> Figure:
    """Panels side by side with the same rows; ``series`` names the marks, ``label`` the axis of rates in %."""
    names = list(panels[0].rows)
    lines = len(series) + ROW_GAP
    figure = blank_figure(FRAME_INCHES + LINE_INCHES * lines * len(names))
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(wspace=0.07)  # type: ignore[call-arg]  # of the constrained layout
    colours = method_colours(series) if len(series) > 1 else [BLUE]
    markers = [MARKERS[index % len(MARKERS)] for index in range(len(series))]
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        for row, counts in enumerate(panel.rows.values()):
            for index, (count, colour, marker) in enumerate(zip(counts, colours, markers, strict=True)):
                _mark(axes, row * lines + index, count, colour, marker)
        frame_rates(axes)
        axes.set_title(panel.title)
        axes.set_xlabel(label)
    every[0].set_yticks([row * lines + (len(series) - 1) / 2 for row in range(len(names))], names)
    every[0].set_ylim(len(names) * lines - ROW_GAP / 2 - 0.2, -0.5 - ROW_GAP / 2)
    if len(series) > 1:
        looks = zip(colours, markers, strict=True)
        handles = [Line2D([], [], color=colour, marker=marker, ms=5, lw=1.6) for colour, marker in looks]
        labels = [method_label(name) for name in series]
        figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(series)), handlelength=2)
    return figure


def demos_figure(demos: Mapping[str, Demo]) -> Figure:
    """Every method of several demos, old tasks beside new ones."""
    methods = tuple(dict.fromkeys(method for demo in demos.values() for method in demo.results.methods))
    panels = [
        Panel(f"{g.capitalize()} tasks", {n: [d.results.count(m, g) for m in methods] for n, d in demos.items()})
        for g in GROUPS
    ]
    return rates_figure(panels, methods, f"success, {AXIS}")


def rollouts_figure(rollouts: Mapping[str, Rollout], roles: Roles | None = None) -> Figure:
    """Success of each policy over all its tasks, or over old and new ones; of a single one, task by task."""
    if roles is not None:
        panels = [
            Panel(f"{group.capitalize()} tasks", {name: [roles.count(one, group)] for name, one in rollouts.items()})
            for group in GROUPS
        ]
        return rates_figure(panels, [""], f"success, {AXIS}")
    rows = {name: [one.total] for name, one in rollouts.items()}
    if len(rollouts) == 1:
        (one,) = rollouts.values()
        rows = {task: [count] for task, count in one.counts.items()} | {"all tasks": [one.total]}
    return rates_figure([Panel("Success", rows)], [""], f"success, {AXIS}")


def answers_figure(documents: Mapping[str, Choices]) -> Figure:
    """Right answers of every checkpoint."""
    named = [(f"{name}: " if len(documents) > 1 else "", document) for name, document in documents.items()]
    rows = {f"{name}{shortened(one.model)}": [one.right] for name, document in named for one in document.asked}
    return rates_figure([Panel("Right answers", rows)], [""], AXIS)


def change_figure(comparisons: Mapping[str, Mapping[str, Any]]) -> Figure:
    """One row for each comparison (``comparison`` of the documents of ``craft-trainer mcq``), by what it is called.

    Left the change of accuracy, right that of the gold margin (right answer − best other choice); blue where it rose
    and vermillion where it fell by more than chance, as the comparison's conclusion has it.
    """
    figure = blank_figure(1.05 + CHANGE_INCHES * len(comparisons))
    panels = figure.subplots(1, len(CHANGES), sharey=True)
    for axes, (key, title, factor, label) in zip(panels, CHANGES, strict=True):
        for row, comparison in enumerate(comparisons.values()):
            low, high = (factor * end for end in comparison[f"{key}_ci"])
            change, colour = factor * comparison[key], COLOURS[verdicts(comparison)[key]]
            axes.plot([low, high], [row, row], color=colour, lw=2, solid_capstyle="round")
            axes.plot([change], [row], "o", color=colour, ms=6)
            above = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            axes.annotate(signed(change, "+.2g"), (change, row), **above)
        axes.axvline(0, color=GREY, lw=0.8, zorder=0)
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.margins(x=0.12)
    panels[0].set_yticks(range(len(comparisons)), list(comparisons))
    panels[0].set_ylim(len(comparisons) - 0.5, -0.5)
    return figure


def _mark(axes: Axes, position: float, count: Count | None, colour: str, marker: str) -> None:
    if count is None:
        return
    axes.plot(count.interval, (position, position), color=colour, lw=1.6, solid_capstyle="round", clip_on=False)
    axes.plot([count.rate], [position], marker, color=colour, ms=5, clip_on=False)
