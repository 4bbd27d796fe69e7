"""The picture of a comparison: where its marks stand, and what their colours say."""

from dataclasses import asdict

from matplotlib.colors import to_hex

from craft_trainer.evaluation.metrics.mcq_comparison.paired import compare
from craft_trainer.report.figures.canvas import BLUE, GREY, VERMILLION
from craft_trainer.report.figures.dots import change_figure


def comparison(difference, interval, margin, margins, *, num_items=200):
    """What `mcq` says of two models of which the second has so much fewer right."""
    lost = round(-difference * num_items)
    before, after = [True] * num_items, [False] * lost + [True] * (num_items - lost)
    made = asdict(compare(before, after, margins1=[0.0] * num_items, margins2=[margin] * num_items))
    return made | {
        "accuracy_difference_ci": interval,
        "margin_gold_change": margin,
        "margin_gold_change_ci": margins,
    }


def test_marks_stand_at_the_changes_and_say_whether_they_are_sure():
    """Accuracy in points, margins in nats. Seen to fail with the interval's ends exchanged for the colour."""
    figure = change_figure(
        {
            "plain": comparison(-0.05, (-0.08, -0.02), -1.5, (-2.0, -1.0)),
            "CRaFT": comparison(0.0, (-0.01, 0.01), 0.5, (0.25, 0.75)),
        }
    )
    accuracy, margin = figure.axes
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["plain", "CRaFT"]
    for axes, centres, ends, colours in (
        (accuracy, [-5, 0], [(-8, -2), (-1, 1)], [VERMILLION, GREY]),
        (margin, [-1.5, 0.5], [(-2, -1), (0.25, 0.75)], [VERMILLION, BLUE]),
    ):
        lines = [
            line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == line.get_ydata()[1]
        ]
        points = [line for line in axes.lines if len(line.get_xdata()) == 1]
        assert [tuple(round(end, 6) for end in line.get_xdata()) for line in lines] == ends
        assert [round(point.get_xdata()[0], 6) for point in points] == centres
        assert [to_hex(line.get_color()).upper() for line in lines] == colours


def test_few_questions_do_not_colour_a_mark():
    """Five of five fell: p = 0.062, and no interval to rely on. Seen to fail: both marks were vermillion."""
    few = comparison(-1.0, (-1.0, -0.5), -1.5, (-2.0, -1.0), num_items=5)
    lines = [line for axes in change_figure({"few": few, "also": few}).axes for line in axes.lines]
    assert {to_hex(line.get_color()).upper() for line in lines} == {GREY}
