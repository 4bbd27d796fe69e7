"""Files out: the page and the figure for a README. The extra ``report`` is imported when it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from craft_trainer.files import write_atomically
from craft_trainer.report.evidence import Evidence, gather
from craft_trainer.report.results import Results

EXTRA_PACKAGES = ("matplotlib", "jinja2")
FIGURE_FORMATS = (".svg", ".png")


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


def write_report(results_path: str | PathLike[str], output_path: str | PathLike[str] | None = None) -> Path:
    """Write the self-contained HTML page of a results.json and return its path, by default report.html beside it.

    Raises what ``load_results`` raises, ValueError for
    a damaged lambda_history.csv, ImportError without the extra ``report``.
    """
    evidence = gather(results=[str(results_path)])
    (demo,) = evidence.demos.values()
    target = output_path if output_path is not None else demo.results.path.with_name("report.html")
    return write_page(evidence, target)


def write_page(evidence: Evidence, output_path: str | PathLike[str]) -> Path:
    """Write the self-contained HTML page about ``evidence`` and return its path.

    The bytes depend on the input files, their names and library versions only. ImportError without the extra
    ``report``.
    """
    with report_extra():
        from craft_trainer.report.page import render_page
    target = Path(output_path)
    write_atomically(target, render_page(evidence).encode())
    return target


def write_success_figure(results: Results, path: str | PathLike[str]) -> Path:
    """Save the success bars on white, as .svg or .png by the ending of ``path``, and return the path.

    ValueError for another ending, ImportError without the extra ``report``.
    """
    target = Path(path)
    if target.suffix not in FIGURE_FORMATS:
        raise ValueError(f"{target}: ends in {target.suffix!r}, expected {' or '.join(FIGURE_FORMATS)}")
    with report_extra():
        from craft_trainer.report.figures import standalone_image, success_figure
    write_atomically(target, standalone_image(lambda: success_figure(results), target.suffix.removeprefix(".")))
    return target
