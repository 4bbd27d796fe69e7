"""``craft-trainer suite report``: the tables of a page, from raw results."""

from dataclasses import dataclass
from pathlib import Path

from craft_trainer.options import option

EXAMPLE = "craft-trainer suite report --raw docs/results/raw --page docs/results.md"


@dataclass(kw_only=True)
class SuiteReportArguments:
    """Where the results are, and the page."""

    raw: str = option("folder of the raw results of all suites, as of `suite run`")
    page: str = option(
        "Markdown file: each table stands between a line <!-- suite: NAME/STREAM --> (one stream), "
        "<!-- suite: NAME --> (all streams) or <!-- suite: NAME against METHOD --> (paired differences) and a line "
        "<!-- end of suite -->"
    )


def run(arguments: SuiteReportArguments) -> None:
    """Write the tables anew, and leave everything else as it is."""
    from craft_trainer.files import write_atomically
    from craft_trainer.suites.tables import BEGINNING, with_tables

    path = Path(arguments.page)
    before = path.read_text("utf-8")
    tables = len(BEGINNING.findall(before))
    if not tables:
        raise ValueError(f"{path} has no table of a suite: begin one by a line <!-- suite: NAME/STREAM -->")
    after = with_tables(before, Path(arguments.raw))
    if after != before:
        write_atomically(path, after)
    print(f"{path}: {tables} tables, {'written' if after != before else 'as they were'}")
