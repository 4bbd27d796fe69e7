"""What a comparison of two checkpoints on multiple choice found: changes and their intervals."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from craft_trainer.report.figures.canvas import BLUE, GREY, VERMILLION, blank_figure
from craft_trainer.report.wording import signed

ROW_INCHES = 0.34
FRAME_INCHES = 1.05
PANELS = (  # key in the comparison, title, factor, label of the axis
    ("accuracy_difference", "Accuracy", 100.0, "change, points (lines: 95 % interval)"),
    ("margin_gold_change", "Gold margin", 1.0, "change, nats per question"),
)


def change_figure(comparisons: Mapping[str, Mapping[str, Any]]) -> Figure:
    """One row for each comparison (``comparison`` of the documents of ``craft-trainer mcq``), by what it is called.

    Left the change of accuracy, right that of the gold margin (right answer − best other choice); blue where the
    interval lies above 0 and vermillion where it lies below.
    """
    figure = blank_figure(FRAME_INCHES + ROW_INCHES * len(comparisons))
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (key, title, factor, label) in zip(panels, PANELS, strict=True):
        for row, comparison in enumerate(comparisons.values()):
            _mark(axes, row, factor * comparison[key], [factor * end for end in comparison[f"{key}_ci"]])
        axes.axvline(0, color=GREY, lw=0.8, zorder=0)
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.margins(x=0.12)
    panels[0].set_yticks(range(len(comparisons)), list(comparisons))
    panels[0].set_ylim(len(comparisons) - 0.5, -0.5)
    return figure


def _mark(axes: Axes, row: int, change: float, interval: list[float]) -> None:
    low, high = interval
    colour = VERMILLION if high < 0 else BLUE if low > 0 else GREY
    axes.plot([low, high], [row, row], color=colour, lw=2, solid_capstyle="round")
    axes.plot([change], [row], "o", color=colour, ms=6)
    axes.annotate(signed(change, "+.2g"), (change, row), (0, 6), textcoords="offset points", ha="center", fontsize=8)
