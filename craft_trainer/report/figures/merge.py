"""L_retain and the task loss over α, from a teacher's weights to those of a tuned model."""

from collections.abc import Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from craft_trainer.report.figures.canvas import BLUE, GREEN, GREY, VERMILLION, blank_figure

PANEL_INCHES = 2.4
DASHES = (5, 2.5)
ROOM = 1.1  # above the highest point
LINEAR_UP_TO = 10.0  # times ε

type Curve = Sequence[float]


def merge_figure(
    alphas: Curve, retention: Curve, task: Curve | None, *, epsilon: float, chosen: float, scale: str
) -> Figure:
    """L_retain in % of ``scale``, and below it the task loss if ``task`` has one.

    A line marks ε, another the ``chosen`` α. Where L_retain rises far above ε, its axis is linear up to ε and
    logarithmic from there on.
    """
    num_panels = 1 if task is None else 2
    figure = blank_figure(0.6 + PANEL_INCHES * num_panels)
    panels = figure.subplots(num_panels, 1, sharex=True, squeeze=False)[:, 0]
    percents = [100 * value for value in retention]
    _draw(panels[0], alphas, percents, BLUE, chosen)
    how = ", logarithmic above ε" if _mark_budget(panels[0], 100 * epsilon, percents) else ""
    panels[0].set_title(f"Retention loss L_retain, % of {scale}{how}")
    if task is not None:
        _draw(panels[1], alphas, task, GREEN, chosen)
        panels[1].set_title("Loss of the new task")
    panels[-1].set_xlabel(f"α: 0 is the teacher, 1 the tuned model, {chosen:.4g} what was written")
    panels[-1].set_xlim(0, 1)
    return figure


def _draw(axes: Axes, alphas: Curve, values: Curve, colour: str, chosen: float) -> None:
    axes.plot(alphas, values, color=colour, lw=1.6, marker="o", ms=3.5, clip_on=False)
    axes.axvline(chosen, color=GREY, lw=1.2)
    axes.grid(axis="y")


def _mark_budget(axes: Axes, epsilon: float, values: Curve) -> bool:
    """Draw a line at ε, in the unit of ``values``, and return whether the axis became logarithmic above it."""
    axes.axhline(epsilon, color=VERMILLION, lw=1.3, dashes=DASHES)
    axes.text(1.01, epsilon, f"ε = {epsilon:.3g} %", transform=axes.get_yaxis_transform(), va="center")
    low, *_, high = sorted([0.0, epsilon, *filter(isfinite, values)])
    is_far = high > LINEAR_UP_TO * epsilon
    if is_far:
        axes.set_yscale("symlog", linthresh=epsilon)
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(low, (2 if is_far else ROOM) * high)
    return is_far
