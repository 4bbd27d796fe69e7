"""Bars of success per task and method, old tasks above new ones."""

from collections.abc import Sequence
from itertools import cycle

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from craft_trainer.report.figures.canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, YELLOW, blank_figure
from craft_trainer.report.results import GROUPS, Count, Group, Results, method_label
from craft_trainer.report.tables import Line, task_lines
from craft_trainer.report.wording import percent

LEADING_COLOURS = {"teacher": GREY, "plain": VERMILLION, "craft": BLUE}
HATCHES = {"plain": "////"}  # the second cue beside colour, between the two that are compared
OTHER_COLOURS = (GREEN, PURPLE, ORANGE, SKY, YELLOW)
TITLES: dict[Group, tuple[str, str]] = {"old": ("Old task", "to be kept"), "new": ("New task", "to be learned")}
BLOCK = 0.78  # share of a task's height that bars fill
BAR_INCHES = 0.15
FRAME_INCHES = 1.35


def success_figure(results: Results) -> Figure:
    """Grouped horizontal bars with 95 % Wilson error bars; one panel per group, success in % beside every bar."""
    lines = {group: [line for line in task_lines(results) if line.group == group] for group in GROUPS}
    lines = {group: own if len(own) > 2 else own[:1] for group, own in lines.items()}  # a mean of one task repeats it
    block_inches = BAR_INCHES * len(results.methods) / BLOCK
    figure = blank_figure(FRAME_INCHES + block_inches * sum(map(len, lines.values())))
    panels = figure.subplots(2, 1, sharex=True, height_ratios=[len(lines[group]) for group in GROUPS])
    for axes, group in zip(panels, GROUPS, strict=True):
        bars = _draw_panel(axes, lines[group], results.methods)
        noun, purpose = TITLES[group]
        axes.set_title(f"{noun if len(results.stream.tasks(group)) == 1 else noun + 's'}, {purpose}")
    labels = [method_label(method) for method in results.methods]
    swatches = [bar.patches[0] for bar in bars]
    figure.legend(swatches, labels, loc="outside upper left", ncols=len(labels), handlelength=0.9, handleheight=0.9)
    panels[-1].set_xlabel("success, % of episodes (lines: 95 % interval)")
    return figure


def _draw_panel(axes: Axes, lines: Sequence[Line], methods: Sequence[str]) -> list[BarContainer]:
    height = BLOCK / len(methods)
    bars = []
    for index, (method, colour) in enumerate(zip(methods, method_colours(methods), strict=True)):
        offset = (index - (len(methods) - 1) / 2) * height
        counts = {row + offset: line.cells[index] for row, line in enumerate(lines)}
        rates = [count.rate if count else 0.0 for count in counts.values()]
        bars.append(axes.barh(list(counts), rates, 0.86 * height, color=colour, lw=0))
        for bar in bars[-1]:
            bar.set(hatch=HATCHES.get(method), edgecolor=rcParams["patch.edgecolor"])
        for position, count in counts.items():
            _mark(axes, position, count)
    axes.set_yticks(range(len(lines)), [line.label for line in lines])
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if line.is_mean else "normal")
    axes.set_ylim(len(lines) - 0.5, -0.5)
    frame_rates(axes)
    return bars


def method_colours(methods: Sequence[str]) -> list[str]:
    """A colour for each method: those of teacher, plain and craft are always the same."""
    others = cycle(OTHER_COLOURS)
    return [LEADING_COLOURS.get(method) or next(others) for method in methods]


def frame_rates(axes: Axes) -> None:
    """An axis of rates from 0 to 100 %, with nothing around it but its grid."""
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=None))
    axes.grid(axis="x")
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)


def _mark(axes: Axes, position: float, count: Count | None) -> None:
    """The interval of one bar, and its success in % at the right; a dash where nothing was measured."""
    beside, text = axes.get_yaxis_transform(), percent(count.rate if count else None)
    axes.text(1.045, position, text, transform=beside, ha="right", va="center_baseline", fontsize=8)
    if count:
        ink, paper = axes.xaxis.label.get_color(), rcParams["patch.edgecolor"]
        for colour, width in ((paper, 2.8), (ink, 1.1)):  # with a rim, to be seen on the bar
            where = (position, position)
            axes.plot(count.interval, where, color=colour, lw=width, solid_capstyle="butt", clip_on=False)
