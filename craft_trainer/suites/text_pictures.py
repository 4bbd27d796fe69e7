"""The picture of a language suite: what methods learned of new texts, and what they lost of others."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from craft_trainer.evaluation.token_mean import Mean
from craft_trainer.report.figures.canvas import blank_figure
from craft_trainer.report.wording import signed
from craft_trainer.suites.pictures import Picture, looks, spread, write_around
from craft_trainer.suites.runs import Run, by_method
from craft_trainer.suites.tables import change_of_texts

ROOM = 0.06  # of the axis, between the labels of two methods


class Lost(NamedTuple):
    """A method: the loss of new texts at the end, and how much that of other texts rose since the start; in nats."""

    name: str
    label: str
    new: float
    other: Mean


def text_frontier_picture(runs: Sequence[Run]) -> Picture:
    """The loss of new texts against what the loss of other texts rose by: a point for every method.

    The first evaluation by ``loss`` with two models is of the other texts. Its interval is over them, averaged over
    seeds text by text.

    Raises:
        ValueError: no run has both, or they are of several streams or measured on other texts.
    """
    known = [run for run in runs if run.losses and _compared(run)]
    if len(streams := sorted({run.stream for run in known})) > 1:
        raise ValueError(f"losses of {' and '.join(streams)} are of other texts: choose one stream, as SUITE/STREAM")
    points = [_lost(mine) for mine in by_method(known).values()]
    if not points:
        raise ValueError("no run has the loss of new texts beside that of others: evaluate by `run: loss` with compare")
    least = min(points, key=lambda point: point.other.mean)
    title = f"{least.label} loses least of other texts: {signed(least.other.mean, '+.3f')} nats a token"
    seeds = {run.seed for run in runs}
    description = (
        f"How much the loss of other texts rose, over the loss of the new ones, in nats a token; up to {len(seeds)} "
        f"seed{'s' * (len(seeds) > 1)}. Lines are 95 % intervals over texts. Lower and further left is better."
    )
    return Picture(title, description, lambda: _figure(title, points))


def _compared(run: Run) -> str | None:
    """The first evaluation that has changes."""
    return next((name for name, found in run.measured.items() if found.tokens), None)


def _lost(runs: Sequence[Run]) -> Lost:
    name = str(_compared(runs[0]))
    new = float(np.mean([run.losses[-1] for run in runs]))
    return Lost(runs[0].name, runs[0].label, new, change_of_texts(runs, name))


def _figure(title: str, points: Sequence[Lost]) -> Figure:
    figure = blank_figure(max(4.4, 1.2 + 0.35 * len(points)))
    axes = figure.subplots()
    shown = looks([point.name for point in points])
    low, high = min(0.0, *(point.other.low for point in points)), max(point.other.high for point in points)
    left, right = min(point.new for point in points), max(point.new for point in points)
    width = max(right - left, 1e-3)
    places = spread([point.other.mean for point in points], ROOM * (high - low), low, high)
    for (name, label, new, other), place in zip(points, places, strict=True):
        colour, marker = shown[name]
        axes.plot((new, new), (other.low, other.high), color=colour, lw=1.6)
        axes.plot(new, other.mean, marker, color=colour, ms=8)
        ends = (new, right + 0.08 * width, right + 0.12 * width)
        axes.plot(ends, (other.mean, place, place), color=colour, lw=0.6, alpha=0.7)
        axes.text(right + 0.14 * width, place, label, color=colour, va="center", fontsize=10)
    axes.set_xlim(left - 0.1 * width, right + 1.5 * width)
    axes.set_xticks([tick for tick in axes.get_xticks() if left - 0.1 * width <= tick <= right + 0.1 * width])
    axes.axhline(0, lw=0.8, color="grey", alpha=0.6)
    axes.grid(visible=True)
    rose = "what the loss of other texts rose by, nats a token"
    write_around(figure, axes, title, x="loss of the new texts, nats a token", y=rose)
    return figure
