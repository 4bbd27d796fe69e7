"""The page in HTML and in Markdown, and the figure for a README. The extra ``report`` is imported when it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from os import PathLike
from pathlib import Path

from craft_trainer.files import write_atomically
from craft_trainer.report import sentences, tables, wording
from craft_trainer.report.alike import unlike
from craft_trainer.report.evidence import Evidence, gather
from craft_trainer.report.remarks import remarks
from craft_trainer.report.results import GROUPS, Results, method_label

EXTRA_PACKAGES = ("matplotlib", "jinja2")
FIGURE_FORMATS = (".svg", ".png")


def write_report(results_path: str | PathLike[str], output_path: str | PathLike[str] | None = None) -> Path:
    """Write the self-contained HTML page of a results.json and return its path, by default report.html beside it.

    Raises what ``load_results`` raises, ValueError for a damaged lambda_history.csv, ImportError without the extra.
    """
    evidence = gather(results=[str(results_path)])
    return write_page(evidence, output_path or Path(results_path).with_name("report.html"))


def write_page(evidence: Evidence, output_path: str | PathLike[str], *, reload_seconds: float | None = None) -> Path:
    """Write the self-contained HTML page about ``evidence`` and return its path.

    The bytes depend on the input files, their names and library versions only. A browser loads the page again after
    ``reload_seconds``, for a run that still goes on. ImportError without the extra ``report``.
    """
    target = Path(output_path)
    write_atomically(target, as_html(evidence, reload_seconds))
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


def as_html(evidence: Evidence, reload_seconds: float | None = None) -> str:
    """The self-contained page, which a browser loads again after ``reload_seconds``."""
    with report_extra():
        from markupsafe import Markup

        from craft_trainer.report.figures import canvas, dots, success, training
    return render(
        "report.html.jinja",
        evidence,
        reload_seconds=reload_seconds,
        figures={"dots": dots, "success": success, "training": training},
        svg=lambda *described: Markup(canvas.inline_svg(*described)),  # made by us, texts in it are escaped
    )


def as_markdown(evidence: Evidence) -> str:
    """The page in Markdown, without its figures."""
    return render("report.md.jinja", evidence)


def render(template: str, evidence: Evidence, **figures: object) -> str:
    """Fill a template; parts of which there is no evidence are left out."""
    with report_extra():
        from jinja2 import Environment, PackageLoader, StrictUndefined
    html = template.endswith(".html.jinja")
    environment = Environment(
        loader=PackageLoader("craft_trainer.report"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken if html else _escaped,
    )
    named = {"GROUPS": GROUPS, "method_label": method_label, "partial": partial, "slug": slug}
    modules = {"sentences": sentences, "tables": tables, "wording": wording}
    found = {"evidence": evidence, "remarks": remarks(evidence), "unlike": unlike(evidence)}
    environment.globals |= {**found, **named, **modules, **figures}
    return environment.get_template(template).render(version=version("craft-trainer"))


def _unbroken(value: object) -> object:
    """A number and its % stay on one line; markup is left as it is."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def _escaped(value: object) -> object:
    """Texts are escaped for Markdown, once and here; tables are Markdown already."""
    return wording.in_markdown(value) if isinstance(value, str) else value


def slug(text: str) -> str:
    """``text`` as part of an id; different texts of one page give different ids."""
    return "".join(char if char.isalnum() and char.isascii() else f"-{ord(char):x}" for char in text)
