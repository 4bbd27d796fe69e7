"""``craft-trainer report``: a page from results.json."""

from collections.abc import Sequence
from dataclasses import dataclass

from craft_trainer.cli.arguments import option, parse

EXAMPLE = "craft-trainer report --results outputs/demo/results.json"


@dataclass
class ReportArguments:
    """Which results, which page."""

    results: str = option("results.json of a demo")
    output: str | None = option("HTML file; by default report.html beside the results", None)


def run(argv: Sequence[str]) -> None:
    """Print the table and write the page."""
    arguments = parse("report", EXAMPLE, ReportArguments, argv)
    from craft_trainer.report import format_table, load_results, verdict, write_report

    results = load_results(arguments.results)
    print(f"{format_table(results, 'text')}\n\n{verdict(results)}\n")
    print(f"report: {write_report(arguments.results, arguments.output)}")
