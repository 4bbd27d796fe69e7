"""Draw one run or many over optimizer steps: L_retain and ε, λ, conflicts, angles, task loss."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from craft_trainer.report.figures.canvas import BLUE, GREEN, GREY, PURPLE, VERMILLION, blank_figure
from craft_trainer.report.history import History, Series, Trajectory

type Curve = tuple[Series, Series]  # steps, values
type Curves = Mapping[str, Mapping[int, Curve]]  # name → seed → (steps, values)

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE)
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)))
BUDGET_DASHES = (5, 2.5)
MOST_NAMED = len(COLOURS) * len(DASHES)  # lines that a reader can still tell apart
MAX_BINS = 600  # of a line: more than the points a page is wide, in bins of two
PANEL_INCHES, LOSS_INCHES = 2.3, 2.6


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A style for each name: colours first, then dashes; beyond twelve all are one grey, and a table has the names."""
    looks = [{"color": colour, "ls": dashes} for dashes in DASHES for colour in COLOURS]
    grey = [{"color": GREY, "ls": "solid"}] * len(list(names))
    return dict(zip(names, looks if len(grey) <= MOST_NAMED else grey, strict=False))


def rolling_window(trajectories: Mapping[str, Trajectory]) -> int:
    """Rows in a rolling mean: 1/40 of the longest history, in a short one 1/10 up to 25 rows."""
    longest = max((len(history.step) for found in trajectories.values() for history in found.values()), default=0)
    return max(longest // 40, min(longest // 10, 25), 1)


def constraint_figure(
    trajectories: Mapping[str, Trajectory], window: int, scale: str = "the teacher's variance"
) -> Figure:
    """L_retain above λ; L_retain of one batch is noisy: its line is the rolling mean over ``window`` rows.

    L_retain is in % of ``scale``, with its budget ε. Budgets differ from run to run, so that of several
    it is in units of ε, and the budget is 1 for all of them, unless one of them has a budget of 0.
    """
    every = [history for histories in trajectories.values() for history in histories.values()]
    relative = len(trajectories) > 1 and all(np.all(history.epsilon > 0) for history in every)
    figure, (loss_axes, multiplier_axes) = _stacked(2)
    losses = _curves(trajectories, lambda h: h.retention_loss / h.epsilon if relative else 100 * h.retention_loss)
    _draw(loss_axes, losses, BLUE, window)
    unit = "as a multiple of its budget ε" if relative else f"% of {scale}"
    budget = ", and its budget ε" if len(trajectories) == 1 else ""
    loss_axes.set_title(f"Retention loss L_retain, {unit}{budget}")
    if len(trajectories) == 1:
        (epsilons,) = _curves(trajectories, lambda h: 100 * h.epsilon).values()
        steps, epsilon = median_over_seeds(epsilons)
        loss_axes.plot(steps, epsilon, color=VERMILLION, lw=1.3, dashes=BUDGET_DASHES, zorder=3)
        _beside(loss_axes, epsilon[-1], f"ε = {epsilon[-1]:.3g} %")
    elif relative:
        loss_axes.axhline(1, color=loss_axes.xaxis.label.get_color(), lw=1.0, dashes=BUDGET_DASHES, zorder=1)
        _beside(loss_axes, 1, "ε")
    _draw(multiplier_axes, _curves(trajectories, lambda h: h.multiplier), GREEN)
    multiplier_axes.set_title("Multiplier λ, the price of forgetting")
    for axes in (loss_axes, multiplier_axes):
        axes.set_ylim(bottom=0)
    _legend(figure, trajectories)
    return figure


def conflict_figure(trajectories: Mapping[str, Trajectory], window: int) -> Figure:
    """Conflict rate, cosine of the two gradients and, where measured, of the optimizer's step and retention.

    The first two are rolling means over ``window`` rows, the third over as much of training.
    """
    steps = {
        name: {seed: _step_angles(h, window) for seed, h in histories.items() if len(h.measured_angles()[0])}
        for name, histories in trajectories.items()
    }
    figure, (rate_axes, *angle_axes) = _stacked(3 if any(steps.values()) else 2)
    _draw(rate_axes, _curves(trajectories, lambda h: 100 * rolling_mean(h.conflict, window)), PURPLE)
    rate_axes.set_ylim(0, 100)
    rate_axes.set_title("Conflicts, % of steps")
    panels = (
        (_curves(trajectories, lambda h: rolling_mean(h.cosine, window)), BLUE,
         "Cosine between task and retention gradient (below 0 they pull apart)"),
        (steps, GREEN,
         "Cosine between the optimizer's step and the retention gradient (above 0 the step raises L_retain)"),
    )  # fmt: skip
    for axes, (curves, colour, title) in zip(angle_axes, panels, strict=False):
        _draw(axes, curves, colour)
        _mark_right_angle(axes)
        axes.set_title(title)
    _legend(figure, trajectories)
    return figure


def losses_figure(losses: Mapping[str, Curve]) -> Figure:
    """The task loss as Trainer logged it, a line for each run."""
    curves = {name: {0: curve} for name, curve in losses.items()}
    figure, (axes,) = _stacked(1, LOSS_INCHES)
    _draw(axes, curves, BLUE)
    axes.set_title("Task loss")
    _legend(figure, curves)
    return figure


def _stacked(num_panels: int, inches: float = PANEL_INCHES) -> tuple[Figure, list[Axes]]:
    """Panels one above the other over the same optimizer steps."""
    figure = blank_figure(inches * num_panels)
    panels = list(figure.subplots(num_panels, 1, sharex=True, squeeze=False)[:, 0])
    for axes in panels:
        axes.grid()
        axes.margins(x=0)
        axes.tick_params(length=0)
    panels[-1].set_xlabel("optimizer step")
    return figure, panels


def _curves(trajectories: Mapping[str, Trajectory], values: Callable[[History], Any]) -> Curves:
    return {name: {seed: (h.step, values(h)) for seed, h in found.items()} for name, found in trajectories.items()}


def _step_angles(history: History, window: int) -> Curve:
    """The measured ones, each a rolling mean that covers as many steps as ``window`` rows do."""
    steps, values = history.measured_angles()
    return steps, rolling_mean(values, max(1, round(window * len(steps) / len(history.step))))


def _draw(axes: Axes, curves: Curves, colour: str, window: int = 1) -> None:
    """A line per name: the median over its seeds of their rolling means over ``window`` rows.

    A single one has ``colour``, and under it a thin line for each seed; several are told apart by their styles.
    """
    looks = styles(curves)
    for name, seeds in curves.items():
        if not seeds:
            continue
        look = looks[name] | {"lw": 0.8 if len(curves) > MOST_NAMED else 1.6}
        if len(curves) == 1:
            look = {"color": colour, "lw": 1.7}
            for steps, values in seeds.values():
                known = np.where(np.isfinite(values), values, np.nan)
                axes.plot(*thinned(steps, known), color=colour, lw=0.6, alpha=0.35)
        smooth = {seed: (steps, rolling_mean(values, window)) for seed, (steps, values) in seeds.items()}
        axes.plot(*thinned(*median_over_seeds(smooth)), **look)


def _beside(axes: Axes, height: float, text: str) -> None:
    axes.text(1.01, height, text, transform=axes.get_yaxis_transform(), va="center")


def _mark_right_angle(axes: Axes) -> None:
    """A line at cosine 0, and the angle in degrees at the right."""
    axes.axhline(0, color=axes.xaxis.label.get_color(), lw=0.8, alpha=0.6)
    axes.margins(y=0.12)
    degrees = axes.secondary_yaxis("right", functions=(_degrees, lambda angle: np.cos(np.radians(angle))))
    degrees.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    degrees.yaxis.set_major_formatter("{x:.0f}°")
    degrees.tick_params(length=0)
    degrees.spines["right"].set_visible(False)


def _degrees(cosine: ArrayLike) -> ArrayLike:
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _legend(figure: Figure, curves: Mapping[str, Mapping[int, Any]]) -> None:
    """Name the lines of several; of one, say which line is a seed and which the median."""
    num_seeds = max(map(len, curves.values()))
    looks: dict[str, dict[str, Any]] = {}
    if len(curves) == 1 and num_seeds > 1:
        ink = figure.axes[0].xaxis.label.get_color()
        median = f"median of {num_seeds} seeds"
        looks = {"one seed": {"color": ink, "lw": 0.6, "alpha": 0.6}, median: {"color": ink, "lw": 1.6}}
    elif 1 < len(curves) <= MOST_NAMED:
        looks = {name: style | {"lw": 1.8} for name, style in styles(curves).items()}
    if not looks:
        return
    handles = [Line2D([], [], **look) for look in looks.values()]
    columns = max(1, min(4, 100 // (max(map(len, looks)) + 8)))
    figure.legend(handles, list(looks), loc="outside upper left", ncols=columns, handlelength=2.6)


def rolling_mean(values: Series, window: int) -> Series:
    """Mean of the finite ones among the ``window`` ≥ 1 values around every position. Shape [steps] → [steps].

    NaN where the window holds nothing finite, and near both ends, where it would stick out. A series shorter than the
    window is averaged as a whole.
    """
    ones = np.ones(min(window, len(values)))
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), ones, "valid")
    number = np.convolve(known, ones, "valid")
    first = (len(ones) - 1) // 2
    means = np.full(len(values), np.nan)
    means[first : first + len(total)] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return means


def median_over_seeds(series: Mapping[int, Curve]) -> Curve:
    """(steps, median): at every step that any seed has, the median over the seeds that have it, NaN left out."""
    steps = np.unique(np.concatenate([own for own, _ in series.values()]))
    table = np.full((len(series), len(steps)), np.nan)
    for row, (own, values) in zip(table, series.values(), strict=True):
        row[np.searchsorted(steps, own)] = values
    voted = np.isfinite(table).any(axis=0)
    median = np.full(len(steps), np.nan)
    median[voted] = np.nanmedian(np.where(np.isfinite(table), table, np.nan)[:, voted], axis=0)
    return steps, median


def thinned(steps: Series, values: Series) -> Curve:
    """At most 1202 points that draw the same line: lowest and highest value of each of 600 bins, and both ends."""
    if len(values) <= 2 * MAX_BINS:
        return steps, values
    keep = {0, len(values) - 1}
    for part in np.array_split(np.arange(len(values)), MAX_BINS):
        known = part[np.isfinite(values[part])]
        ends = (known[np.argmin(values[known])], known[np.argmax(values[known])]) if len(known) else part[:1]
        keep.update(int(index) for index in ends)
    index = sorted(keep)
    return steps[index], values[index]
