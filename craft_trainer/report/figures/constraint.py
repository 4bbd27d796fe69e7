"""What the constraint did during training: λ and L_retain against ε, and how often the gradients conflicted."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from craft_trainer.report.figures.canvas import BLUE, GREEN, PURPLE, VERMILLION, blank_figure
from craft_trainer.report.figures.series import median_over_seeds, rolling_mean, thinned
from craft_trainer.report.history import History, Series

type SeedSeries = Mapping[int, tuple[Series, Series]]  # seed → (steps, values)

HEIGHT_INCHES = 4.6


def constraint_figure(histories: Mapping[int, History], window: int) -> Figure:
    """L_retain with its budget ε (in % of the teacher's variance) above the multiplier λ, over optimizer steps.

    L_retain of one batch is noisy: its thick line is the median over seeds of the rolling mean over ``window`` rows.
    """
    figure, (loss_axes, multiplier_axes) = _panels()
    _draw_seeds(loss_axes, {seed: (h.step, 100 * h.retention_loss) for seed, h in histories.items()}, BLUE, window)
    steps, epsilon = median_over_seeds({seed: (h.step, 100 * h.epsilon) for seed, h in histories.items()})
    loss_axes.plot(steps, epsilon, color=VERMILLION, lw=1.3, dashes=(5, 2.5), zorder=3)
    beside = loss_axes.get_yaxis_transform()
    text = f"ε = {epsilon[-1]:.3g} %"
    loss_axes.text(1.01, epsilon[-1], text, transform=beside, va="center", color=VERMILLION, fontweight="bold")
    loss_axes.set_title("Retention loss L_retain, % of the teacher's variance, and its budget ε")
    _draw_seeds(multiplier_axes, {seed: (h.step, h.multiplier) for seed, h in histories.items()}, GREEN)
    multiplier_axes.set_title("Multiplier λ, the price of forgetting")
    for axes in (loss_axes, multiplier_axes):
        axes.set_ylim(bottom=0)
    _legend(figure, len(histories))
    return figure


def conflict_figure(histories: Mapping[int, History], window: int) -> Figure:
    """Rolling conflict rate above the rolling mean cosine between the two gradients, over ``window`` rows each."""
    figure, (rate_axes, cosine_axes) = _panels()
    rates = {seed: (h.step, 100 * rolling_mean(h.conflict, window)) for seed, h in histories.items()}
    _draw_seeds(rate_axes, rates, PURPLE)
    rate_axes.set_ylim(0, 100)
    rate_axes.set_title("Conflicts, % of steps")
    _draw_seeds(cosine_axes, {seed: (h.step, rolling_mean(h.cosine, window)) for seed, h in histories.items()}, BLUE)
    cosine_axes.axhline(0, color=cosine_axes.xaxis.label.get_color(), lw=0.8, alpha=0.6)
    cosine_axes.set_title("Mean cosine between task and retention gradient")
    _legend(figure, len(histories))
    return figure


def _panels() -> tuple[Figure, tuple[Axes, Axes]]:
    figure = blank_figure(HEIGHT_INCHES)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes in (upper, lower):
        axes.grid()
        axes.margins(x=0)
        axes.tick_params(length=0)
    lower.set_xlabel("optimizer step")
    return figure, (upper, lower)


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
