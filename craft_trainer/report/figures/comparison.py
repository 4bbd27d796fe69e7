"""Several trajectories in one figure: a line for each, told apart by colour and by dashes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from craft_trainer.report.figures.canvas import BLUE, GREEN, GREY, PURPLE, VERMILLION, blank_figure
from craft_trainer.report.figures.constraint import (
    ANGLE_TITLES,
    CONFLICT_TITLE,
    MULTIPLIER_TITLE,
    angle_window,
    mark_right_angle,
    stacked,
)
from craft_trainer.report.figures.series import median_over_seeds, rolling_mean, thinned
from craft_trainer.report.history import History, Series

type Trajectories = Mapping[str, Mapping[int, History]]  # name → seed → history
type Curve = tuple[Series, Series]  # steps, values

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE)
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)))
MOST_NAMED = len(COLOURS) * len(DASHES)  # lines that a reader can still tell apart
LOSS_INCHES = 2.6


class Style(NamedTuple):
    """How one line looks."""

    colour: str
    dashes: Any


def styles(names: list[str]) -> dict[str, Style]:
    """A style for each name: colours first, then dashes; beyond twelve all are one grey, and a table has the names."""
    if len(names) > MOST_NAMED:
        return dict.fromkeys(names, Style(GREY, "solid"))
    return {name: Style(COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS)]) for i, name in enumerate(names)}


def constraints_figure(trajectories: Trajectories, window: int, scale: str = "variance") -> Figure:
    """L_retain above λ, each line the median over seeds of the rolling mean over ``window`` rows.

    Budgets differ from run to run, so L_retain is in units of ε: the budget is 1 for all of them. Where one of them
    has a budget of 0, L_retain is in % of the teacher's ``scale``.
    """
    every = [history for histories in trajectories.values() for history in histories.values()]
    relative = all(np.all(history.epsilon > 0) for history in every)
    figure, (loss_axes, multiplier_axes) = stacked(2)
    _draw(loss_axes, trajectories, lambda h: (h.step, rolling_mean(_shown_loss(h, relative=relative), window)))
    if relative:
        loss_axes.axhline(1, color=loss_axes.xaxis.label.get_color(), lw=1.0, dashes=(5, 2.5), zorder=1)
        loss_axes.text(1.01, 1, "ε", transform=loss_axes.get_yaxis_transform(), va="center")
    unit = "as a multiple of its budget ε" if relative else f"% of the teacher's {scale}"
    loss_axes.set_title(f"Retention loss L_retain, {unit}")
    _draw(multiplier_axes, trajectories, lambda h: (h.step, h.multiplier))
    multiplier_axes.set_title(MULTIPLIER_TITLE)
    for axes in (loss_axes, multiplier_axes):
        axes.set_ylim(bottom=0)
    _legend(figure, list(trajectories))
    return figure


def conflicts_figure(trajectories: Trajectories, window: int) -> Figure:
    """Conflict rate and the two cosines, a line for each trajectory, rolling means as in ``constraints_figure``."""
    measured = any(len(h.measured_angles()[0]) for histories in trajectories.values() for h in histories.values())
    figure, (rate_axes, *angle_axes) = stacked(3 if measured else 2)
    _draw(rate_axes, trajectories, lambda h: (h.step, 100 * rolling_mean(h.conflict, window)))
    rate_axes.set_ylim(0, 100)
    rate_axes.set_title(CONFLICT_TITLE)
    curves = (lambda h: (h.step, rolling_mean(h.cosine, window)), lambda h: _step_angles(h, window))
    for axes, curve, title in zip(angle_axes, curves, ANGLE_TITLES, strict=False):
        _draw(axes, trajectories, curve)
        mark_right_angle(axes)
        axes.set_title(title)
    _legend(figure, list(trajectories))
    return figure


def losses_figure(losses: Mapping[str, Curve]) -> Figure:
    """The task loss as Trainer logged it, a line for each run."""
    figure = blank_figure(LOSS_INCHES)
    axes = figure.subplots()
    chosen = styles(list(losses))
    for name, (steps, values) in losses.items():
        axes.plot(*thinned(steps, values), color=chosen[name].colour, ls=chosen[name].dashes, lw=1.7)
    axes.grid()
    axes.margins(x=0)
    axes.tick_params(length=0)
    axes.set_title("Task loss")
    axes.set_xlabel("optimizer step")
    _legend(figure, list(losses))
    return figure


def _draw(axes: Axes, trajectories: Trajectories, curve: Callable[[History], Curve]) -> None:
    chosen = styles(list(trajectories))
    for name, histories in trajectories.items():
        found = {seed: curve(history) for seed, history in histories.items()}
        found = {seed: (steps, values) for seed, (steps, values) in found.items() if len(steps)}
        if found:
            many = len(trajectories) > MOST_NAMED
            colour, dashes = chosen[name]
            axes.plot(*thinned(*median_over_seeds(found)), color=colour, ls=dashes, lw=0.8 if many else 1.6)


def _step_angles(history: History, window: int) -> Curve:
    steps, values = history.measured_angles()
    if not len(steps):
        return steps, values
    return steps, rolling_mean(values, angle_window(window, len(steps), len(history.step)))


def _shown_loss(history: History, *, relative: bool) -> Series:
    return history.retention_loss / history.epsilon if relative else 100 * history.retention_loss


def _legend(figure: Figure, names: list[str]) -> None:
    if not 1 < len(names) <= MOST_NAMED:
        return
    handles = [Line2D([], [], color=style.colour, ls=style.dashes, lw=1.8) for style in styles(names).values()]
    longest = max(map(len, names))
    columns = max(1, min(4, 100 // (longest + 8)))
    figure.legend(handles, names, loc="outside upper left", ncols=columns, handlelength=2.6)
