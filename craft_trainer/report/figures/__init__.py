"""The pictures of the report. Needs matplotlib; every figure is made with its object API, pyplot is never imported."""

from craft_trainer.report.figures.canvas import inline_svg, standalone_image
from craft_trainer.report.figures.constraint import conflict_figure, constraint_figure
from craft_trainer.report.figures.success import success_figure

__all__ = ["conflict_figure", "constraint_figure", "inline_svg", "standalone_image", "success_figure"]
