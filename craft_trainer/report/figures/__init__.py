"""The pictures of the report. Needs matplotlib; every figure is made with its object API, pyplot is never imported."""

from craft_trainer.report.figures.canvas import inline_svg, standalone_image
from craft_trainer.report.figures.choices import change_figure
from craft_trainer.report.figures.comparison import conflicts_figure, constraints_figure, losses_figure
from craft_trainer.report.figures.constraint import conflict_figure, constraint_figure
from craft_trainer.report.figures.dots import Panel, rates_figure
from craft_trainer.report.figures.success import success_figure

__all__ = [
    "Panel",
    "change_figure",
    "conflict_figure",
    "conflicts_figure",
    "constraint_figure",
    "constraints_figure",
    "inline_svg",
    "losses_figure",
    "rates_figure",
    "standalone_image",
    "success_figure",
]
