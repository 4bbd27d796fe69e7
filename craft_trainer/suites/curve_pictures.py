"""The picture of learning curves: success on the new task over the steps of training, stream by stream."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from craft_trainer.report.figures.canvas import blank_figure
from craft_trainer.suites.curves import RIVAL, SHARE, Curve, beside_plain, curves
from craft_trainer.suites.pictures import LABEL, Picture, coverage, looks, rates, write_around
from craft_trainer.suites.runs import Run


def curves_picture(runs: Sequence[Run]) -> Picture:
    """Success on the new tasks over the steps of training: a panel for every stream, a line for every method.

    Raises:
        ValueError: there is no curve, or a stream has no ``plain``.
    """
    by_stream = curves(runs)
    title = f"Steps to {100 * SHARE:.0f} % of what plain fine-tuning learns: {_slower(by_stream)}"
    description = (
        f"Success on the new task in % over the steps of training; {coverage(runs)}. Lines are means over seeds, and "
        f"thin lines are seeds. Streams: {', '.join(by_stream)}."
    )
    return Picture(title, description, lambda: _figure(title, by_stream))


def _labels(by_stream: Mapping[str, Mapping[str, Curve]]) -> dict[str, str]:
    return {method: curve.label for found in by_stream.values() for method, curve in found.items()}


def _slower(by_stream: Mapping[str, Mapping[str, Curve]]) -> str:
    """On how many streams each method takes more steps than plain, or never gets there."""
    said = []
    for method, label in _labels(by_stream).items():
        known = [one for found in by_stream.values() if (one := beside_plain(found, method)) is not None]
        if method != RIVAL and known:
            said.append(f"{label} takes more on {sum(one.is_slower for one in known)} of {len(known)} streams")
    return ", ".join(said)


def _figure(title: str, by_stream: Mapping[str, Mapping[str, Curve]]) -> Figure:
    columns = min(2, len(by_stream))
    rows = -(-len(by_stream) // columns)
    figure = blank_figure(1.1 + 2.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    labels = _labels(by_stream)
    shown = looks(list(labels))
    for axes, (stream, found) in zip(panels, by_stream.items(), strict=False):
        for name, curve in found.items():
            colour, marker = shown[name]
            for seed in curve.seeds.values():
                axes.plot(curve.steps, seed, color=colour, lw=0.7, alpha=0.45)
            axes.plot(curve.steps, curve.mean(), color=colour, marker=marker, lw=2.4, ms=6, clip_on=False)
        rates(axes.yaxis, axes.set_ylim)
        axes.tick_params(labelbottom=True)  # shared axes hide it in all rows but the last
        write_around(figure, axes, title, x="steps of training", y=stream)
    for axes in panels[len(by_stream) :]:
        axes.set_axis_off()
    handles = [
        Line2D([], [], color=shown[name][0], marker=shown[name][1], lw=2.4, ms=6, label=label)
        for name, label in labels.items()
    ]
    figure.legend(handles=handles, loc="outside lower left", frameon=False, fontsize=LABEL)
    return figure
