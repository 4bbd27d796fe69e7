"""Did it learn, did it forget: result files in, a table, a sentence and a page out.

Reads files only: nothing here imports the trainer, torch, transformers or lerobot. Figures and the page need the
optional extra ``report`` (matplotlib, jinja2); the table and the sentence do without.
"""

from craft_trainer.report.evidence import gather
from craft_trainer.report.page import write_page, write_report, write_success_figure
from craft_trainer.report.results import Results, Row, load_results
from craft_trainer.report.sentences import verdict
from craft_trainer.report.tables import format_table

__all__ = [
    "Results",
    "Row",
    "format_table",
    "gather",
    "load_results",
    "verdict",
    "write_page",
    "write_report",
    "write_success_figure",
]
