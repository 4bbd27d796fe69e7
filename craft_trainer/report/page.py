"""Files out: the self-contained HTML page, and the figure for a README. The extra ``report`` is imported when used."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from os import PathLike
from pathlib import Path

from craft_trainer.files import write_atomically
from craft_trainer.report.evidence import Evidence, gather
from craft_trainer.report.remarks import remarks
from craft_trainer.report.results import GROUPS, Results, method_label
from craft_trainer.report.sentences import coverage, headlines
from craft_trainer.report.tables import differing_settings, pairs_table, seed_lines, task_lines, times_table
from craft_trainer.report.wording import duration, plural, rate

EXTRA_PACKAGES = ("matplotlib", "jinja2")
FIGURE_FORMATS = (".svg", ".png")
MANY = 4  # things compared, from which on their remarks are folded away
MOST_REMARKS = 6  # shown there


def write_report(results_path: str | PathLike[str], output_path: str | PathLike[str] | None = None) -> Path:
    """Write the self-contained HTML page of a results.json and return its path, by default report.html beside it.

    Raises what ``load_results`` raises, ValueError for
    a damaged lambda_history.csv, ImportError without the extra ``report``.
    """
    evidence = gather(results=[str(results_path)])
    return write_page(evidence, output_path or Path(results_path).with_name("report.html"))


def write_page(evidence: Evidence, output_path: str | PathLike[str]) -> Path:
    """Write the self-contained HTML page about ``evidence`` and return its path.

    The bytes depend on the input files, their names and library versions only. ImportError without the extra
    ``report``.
    """
    target = Path(output_path)
    with report_extra():
        write_atomically(target, render_page(evidence))
    return target


def write_success_figure(results: Results, path: str | PathLike[str]) -> Path:
    """Save the success bars on white, as .svg or .png by the ending of ``path``, and return the path.

    ValueError for another ending, ImportError without the extra ``report``.
    """
    target = Path(path)
    if target.suffix not in FIGURE_FORMATS:
        raise ValueError(f"{target}: ends in {target.suffix!r}, expected {' or '.join(FIGURE_FORMATS)}")
    with report_extra():
        from craft_trainer.report.figures.canvas import standalone_image
        from craft_trainer.report.figures.success import success_figure
    write_atomically(target, standalone_image(lambda: success_figure(results), target.suffix.removeprefix(".")))
    return target


@contextmanager
def report_extra() -> Iterator[None]:
    """Turn a missing matplotlib or jinja2 into an ImportError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_PACKAGES:
            raise
        message = f"the report needs {package}, which is not installed: pip install 'craft-trainer[report]'"
        raise ImportError(message, name=package) from error


def render_page(evidence: Evidence) -> str:
    """HTML of the whole report; parts of which there is no evidence are left out."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from craft_trainer.report.pictures import (
        choices_pictures,
        demos_picture,
        rollouts_picture,
        success_picture,
        training_pictures,
    )

    environment = Environment(
        loader=PackageLoader("craft_trainer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
    )
    called = (coverage, duration, method_label, pairs_table, plural, rate, seed_lines, slug, task_lines, times_table)
    environment.globals.update({one.__name__: one for one in called}, groups=GROUPS)
    found = remarks(evidence)
    num_shown = MOST_REMARKS if len(evidence) > MANY and len(found) > MOST_REMARKS + 1 else len(found)
    return environment.get_template("report.html.jinja").render(
        evidence=evidence,
        alone=len(evidence) == 1,
        headlines=headlines(evidence),
        success=success_picture(evidence.demos),
        compared=demos_picture(evidence.demos),
        rollouts=rollouts_picture(evidence.rollouts),
        choices=list(choices_pictures(evidence.asked)),
        training=list(training_pictures(evidence)),
        remarks={"shown": found[:num_shown], "folded": found[num_shown:]},  # warnings come first
        differing=differing_settings(evidence),
        version=version("craft-trainer"),
    )


def _unbroken(value: object) -> object:
    """A number and its % stay on one line; markup is left as it is."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def slug(text: str) -> str:
    """``text`` as part of an id; different texts of one page give different ids."""
    return "".join(char if char.isalnum() and char.isascii() else f"-{ord(char):x}" for char in text)
