"""The picture of learning curves: success on the new task over the steps of training, stream by stream."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from craft_trainer.report.figures.canvas import blank_figure
from craft_trainer.report.wording import DASH
from craft_trainer.suites.curves import SHARE, Curve, curves, steps_table
from craft_trainer.suites.pictures import LABEL, Picture, coverage, looks, rates, write_around
from craft_trainer.suites.runs import Run


def curves_picture(runs: Sequence[Run]) -> Picture:
    """Success on the new tasks over the steps of training: a panel for every stream, a line for every method.

    Raises:
        ValueError: there is no curve, or a stream has no ``plain``.
    """
    by_stream = curves(runs)
    table = steps_table(runs)
    ratios = [f"{row[0]} {row[-1]}" for row in table.rows if row[-1] != DASH and row[-1] != "1.00"]
    beside = f": {', '.join(ratios)} times the steps of plain fine-tuning" if ratios else ""
    title = f"To {100 * SHARE:.0f} % of what plain fine-tuning learns{beside}"
    description = (
        f"Success on the new task in % over the steps of training; {coverage(runs)}. Lines are means over seeds, and "
        f"thin lines are seeds. Streams: {', '.join(by_stream)}."
    )
    return Picture(title, description, lambda: _figure(title, by_stream))


def _figure(title: str, by_stream: Mapping[str, Mapping[str, Curve]]) -> Figure:
    columns = min(2, len(by_stream))
    rows = -(-len(by_stream) // columns)
    figure = blank_figure(1.1 + 2.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    labels = {name: curve.label for found in by_stream.values() for name, curve in found.items()}
    shown = looks(list(labels))
    for axes, (stream, found) in zip(panels, by_stream.items(), strict=False):
        for name, curve in found.items():
            colour, marker = shown[name]
            for seed in curve.seeds:
                axes.plot(curve.steps, seed, color=colour, lw=0.7, alpha=0.45)
            axes.plot(curve.steps, curve.mean, color=colour, marker=marker, lw=2.4, ms=6, clip_on=False)
        rates(axes.yaxis, axes.set_ylim)
        axes.tick_params(labelbottom=True)  # shared axes hide it in all rows but the last
        write_around(figure, axes, title, x="steps of training", y=stream)
    for axes in panels[len(by_stream) :]:
        axes.set_axis_off()
    handles = [
        panels[0].plot([], [], color=shown[name][0], marker=shown[name][1], lw=2.4, ms=6, label=label)[0]
        for name, label in labels.items()
    ]
    figure.legend(handles=handles, loc="outside lower left", frameon=False, fontsize=LABEL)
    return figure
