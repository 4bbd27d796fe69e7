"""``craft-trainer report``: a page, Markdown or JSON from results, rollouts, multiple choice and training runs."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from craft_trainer.files import write_atomically
from craft_trainer.options import option, split_list

if TYPE_CHECKING:
    from craft_trainer.report.evidence import Evidence

FILES = ("output",)
EXAMPLE = "craft-trainer report --run outputs/craft --run outputs/plain --mcq mcq.json --output comparison.html"
FORMATS = ("html", "md", "json")


@dataclass
class ReportArguments:
    """The results that are reported, any number of each; NAME=PATH gives a thing its name on the page."""

    results: list[str] = option("results.json of demos", [])
    run: list[str] = option("folders: a training run's output_dir, or a demo's", [])
    rollout: list[str] = option("JSON files of `craft-trainer rollout --output`", [])
    teacher: str | None = option("the JSON file of `craft-trainer rollout` that is the teacher's", None)
    old: list[str] = option(
        "tasks of the rollouts that the teacher knew; by default those that are not new. A Meta-World task has two "
        "names: both are understood",
        [],
    )
    new: list[str] = option(
        "tasks of the rollouts that were to be learned; by default those that a run of --run learned, or all that are "
        "not old",
        [],
    )
    mcq: list[str] = option("JSON files of `craft-trainer mcq`", [])
    format: str = option("html; or md or json, printed unless output is given", "html")
    output: str | None = option("file; a page is report.html beside a single result or in a single run otherwise", None)
    follow: float | None = option(
        "seconds after which the page is written again, while any run still goes on; an open page loads itself again "
        "as often",
        None,
    )

    def __post_init__(self) -> None:
        if self.follow is not None:
            if self.follow < 1:
                raise ValueError(f"follow is {self.follow:g}: it is at least 1 second")
            if self.format != "html":
                raise ValueError(f"follow needs a page, and format is {self.format}: leave format out")
            if not self.run:
                raise ValueError("follow needs a training run that goes on: give its output_dir by run=…")
        if (self.old or self.new) and not (self.rollout or self.teacher):
            raise ValueError("old and new have no effect without rollouts: name some by --rollout or --teacher")
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}: it must be one of {', '.join(FORMATS)}")
        ending = Path(self.output or "").suffix[1:].lower()
        if ending in FORMATS and ending != self.format:
            raise ValueError(
                f"output is {self.output}, and format is {self.format}: give --format {ending}, or a file that ends "
                f"in .{self.format}"
            )


def run(arguments: ReportArguments) -> None:
    """Read everything, then write or print the report."""
    from craft_trainer.report.document import as_document
    from craft_trainer.report.evidence import gather
    from craft_trainer.report.page import as_markdown

    def read() -> "Evidence":
        return gather(
            results=split_list(arguments.results),
            rollouts=split_list(arguments.rollout),
            choices=split_list(arguments.mcq),
            runs=split_list(arguments.run),
            teacher=arguments.teacher,
            old=split_list(arguments.old),
            new=split_list(arguments.new),
        )

    evidence = read()
    if arguments.format == "html":
        if arguments.follow is not None:
            evidence = _follow(evidence, read, arguments.output, arguments.follow)
        _write_page(evidence, arguments.output)
        return
    as_json = arguments.format == "json"
    text = json.dumps(as_document(evidence), indent=2, ensure_ascii=False) + "\n" if as_json else as_markdown(evidence)
    if arguments.output is None:
        print(text, end="")
    else:
        write_atomically(Path(arguments.output), text)
        print(f"report: {arguments.output}")


def _follow(evidence: "Evidence", read: Callable[[], "Evidence"], output: str | None, seconds: float) -> "Evidence":
    """Write the page again and again until every run has ended, and return what there is then."""
    from craft_trainer.report import write_page

    page, said = output or default_output(evidence), False
    while any(run.ended is False for run in evidence.runs.values()):
        write_page(evidence, page, reload_seconds=seconds)
        if not said:
            print(f"report: {page}, written again every {seconds:g} s until training ends; Ctrl-C stops that")
            said = True
        time.sleep(seconds)
        evidence = read()
    return evidence


def _write_page(evidence: "Evidence", output: str | None) -> None:
    from craft_trainer.report import format_table, write_page
    from craft_trainer.report.alike import unlike
    from craft_trainer.report.sentences import headlines

    for demo in evidence.demos.values() if len(evidence) == 1 else ():
        print(f"{format_table(demo.results, 'text')}\n")
    print("\n".join([*headlines(evidence), *(f"beware: {one.text}" for one in unlike(evidence))]))
    print(f"\nreport: {write_page(evidence, output or default_output(evidence))}")


def default_output(evidence: "Evidence") -> Path:
    """Choose the place: beside the only result, in the only run; of a comparison, in the working directory."""
    folders = [
        *(demo.results.path.parent for demo in evidence.demos.values()),
        *(found.path.parent for found in evidence.held_out.values()),
        *(rollout.path.parent for rollout in evidence.rollouts.values()),
        *(choices.path.parent for choices in evidence.choices.values()),
        *(run.path for run in evidence.runs.values()),
    ]
    return (folders[0] if len(folders) == 1 else Path()) / "report.html"
