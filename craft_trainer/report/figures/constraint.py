"""What the constraint did during training: λ and L_retain against ε, and how often the gradients conflicted."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from craft_trainer.report.figures.canvas import BLUE, GREEN, PURPLE, VERMILLION, blank_figure
from craft_trainer.report.figures.series import median_over_seeds, rolling_mean, thinned
from craft_trainer.report.history import History, Series

MULTIPLIER_TITLE = "Multiplier λ, the price of forgetting"
CONFLICT_TITLE = "Conflicts, % of steps"
ANGLE_TITLES = (
    "Cosine between task and retention gradient (below 0 they pull apart)",
    "Cosine between the optimizer's step and the retention gradient (above 0 the step raises L_retain)",
)

type SeedSeries = Mapping[int, tuple[Series, Series]]  # seed → (steps, values)

PANEL_INCHES = 2.3


def constraint_figure(histories: Mapping[int, History], window: int, scale: str = "variance") -> Figure:
    """L_retain with its budget ε (in % of the teacher's ``scale``) above the multiplier λ, over optimizer steps.

    L_retain of one batch is noisy: its thick line is the median over seeds of the rolling mean over ``window`` rows.
    """
    figure, (loss_axes, multiplier_axes) = stacked(2)
    _draw_seeds(loss_axes, {seed: (h.step, 100 * h.retention_loss) for seed, h in histories.items()}, BLUE, window)
    steps, epsilon = median_over_seeds({seed: (h.step, 100 * h.epsilon) for seed, h in histories.items()})
    draw_budget(loss_axes, steps, epsilon)
    loss_axes.set_title(f"Retention loss L_retain, % of the teacher's {scale}, and its budget ε")
    _draw_seeds(multiplier_axes, {seed: (h.step, h.multiplier) for seed, h in histories.items()}, GREEN)
    multiplier_axes.set_title(MULTIPLIER_TITLE)
    for axes in (loss_axes, multiplier_axes):
        axes.set_ylim(bottom=0)
    _legend(figure, len(histories))
    return figure


def draw_budget(axes: Axes, steps: Series, epsilon: Series) -> None:
    """The dashed line of ε in %, with its last value at its right end."""
    axes.plot(steps, epsilon, color=VERMILLION, lw=1.3, dashes=(5, 2.5), zorder=3)
    axes.text(1.01, epsilon[-1], f"ε = {epsilon[-1]:.3g} %", transform=axes.get_yaxis_transform(), va="center")


def conflict_figure(histories: Mapping[int, History], window: int) -> Figure:
    """Conflict rate, cosine of the two gradients and, where measured, of the optimizer's step and retention.

    The first two are rolling means over ``window`` rows, the third over as much of training.
    """
    measured = {seed: history.measured_angles() for seed, history in histories.items()}
    measured = {seed: series for seed, series in measured.items() if len(series[0])}
    figure, (rate_axes, *angle_axes) = stacked(3 if measured else 2)
    rates = {seed: (h.step, 100 * rolling_mean(h.conflict, window)) for seed, h in histories.items()}
    _draw_seeds(rate_axes, rates, PURPLE)
    rate_axes.set_ylim(0, 100)
    rate_axes.set_title(CONFLICT_TITLE)
    cosines = {seed: (h.step, rolling_mean(h.cosine, window)) for seed, h in histories.items()}
    steps_of = {
        seed: (steps, rolling_mean(values, angle_window(window, len(values), len(histories[seed].step))))
        for seed, (steps, values) in measured.items()
    }
    for axes, series, title in zip(angle_axes, (cosines, steps_of), ANGLE_TITLES, strict=False):
        _draw_seeds(axes, series, BLUE if series is cosines else GREEN)
        mark_right_angle(axes)
        axes.set_title(title)
    _legend(figure, len(histories))
    return figure


def angle_window(window: int, num_measured: int, num_rows: int) -> int:
    """Measurements in a rolling mean that covers as many steps as ``window`` rows do."""
    return max(1, round(window * num_measured / num_rows))


def mark_right_angle(axes: Axes) -> None:
    """A line at cosine 0, and the angle in degrees at the right."""
    axes.axhline(0, color=axes.xaxis.label.get_color(), lw=0.8, alpha=0.6)
    axes.margins(y=0.12)
    degrees = axes.secondary_yaxis("right", functions=(_to_degrees, _to_cosine))
    degrees.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    degrees.yaxis.set_major_formatter("{x:.0f}°")
    degrees.tick_params(length=0)
    degrees.spines["right"].set_visible(False)


def _to_degrees(cosine: ArrayLike) -> ArrayLike:
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _to_cosine(degrees: ArrayLike) -> ArrayLike:
    return np.asarray(np.cos(np.radians(degrees)))


def stacked(num_panels: int) -> tuple[Figure, list[Axes]]:
    """Panels one above the other over the same optimizer steps."""
    figure = blank_figure(PANEL_INCHES * num_panels)
    panels = list(figure.subplots(num_panels, 1, sharex=True))
    for axes in panels:
        axes.grid()
        axes.margins(x=0)
        axes.tick_params(length=0)
    panels[-1].set_xlabel("optimizer step")
    return figure, panels


def _draw_seeds(axes: Axes, series: SeedSeries, colour: str, window: int = 1) -> None:
    """A thin line per seed, and over them a thick one: the median of their rolling means over ``window`` rows."""
    for steps, values in series.values():
        axes.plot(*thinned(steps, np.where(np.isfinite(values), values, np.nan)), color=colour, lw=0.6, alpha=0.35)
    smooth = {seed: (steps, rolling_mean(values, window)) for seed, (steps, values) in series.items()}
    axes.plot(*thinned(*median_over_seeds(smooth)), color=colour, lw=1.7)


def _legend(figure: Figure, num_seeds: int) -> None:
    if num_seeds == 1:
        return
    ink = figure.axes[0].xaxis.label.get_color()
    handles = [Line2D([], [], color=ink, lw=0.6, alpha=0.6), Line2D([], [], color=ink, lw=1.6)]
    labels = ["one seed", f"median of {num_seeds} seeds"]
    figure.legend(handles, labels, loc="outside upper left", ncols=2, handlelength=1.6)
