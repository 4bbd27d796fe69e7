"""The self-contained HTML page. Needs jinja2 and matplotlib."""

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from craft_trainer.report.figures import conflict_figure, constraint_figure, inline_svg, success_figure
from craft_trainer.report.history import History
from craft_trainer.report.results import GROUPS, Json, Results, method_label
from craft_trainer.report.summary import conflict_sentence, constraint_sentence, coverage, missing_sentence, verdict
from craft_trainer.report.table import cell_text, table_lines


class Picture(NamedTuple):
    """A figure ready for the page, with the sentence that says in numbers what it shows."""

    svg: Markup
    sentence: str


def render_page(results: Results, histories: Mapping[int, History]) -> str:
    """HTML of the whole report; the training figures are left out when ``histories`` is empty."""
    environment = Environment(
        loader=PackageLoader("craft_trainer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    window = _window(histories)
    return environment.get_template("report.html.jinja").render(
        results=results,
        verdict=verdict(results),
        coverage=coverage(results),
        success=_success_picture(results),
        constraint=_constraint_picture(histories, window) if histories else None,
        conflict=_conflict_picture(histories, window) if histories else None,
        window=window,
        missing=missing_sentence(results, histories),
        lines=table_lines(results),
        groups=GROUPS,
        settings=list(_flat(results.settings)),
        cell_text=cell_text,
        label=method_label,
        duration=duration,
    )


def duration(seconds: float) -> str:
    """A time for readers: ``4.2 s``, ``3 min 20 s``, ``1 h 05 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _window(histories: Mapping[int, History]) -> int:
    """Rows in a rolling mean: 1/40 of the longest history, in a short one 1/10 up to 25 rows."""
    num_rows = max((len(history.step) for history in histories.values()), default=0)
    return max(num_rows // 40, min(num_rows // 10, 25), 1)


def _success_picture(results: Results) -> Picture:
    title, sentence = "Success per task and method", verdict(results)
    return Picture(Markup(inline_svg(lambda: success_figure(results), "success", title, sentence)), sentence)


def _constraint_picture(histories: Mapping[int, History], window: int) -> Picture:
    title, sentence = "Retention loss, its budget and the multiplier over training", constraint_sentence(histories)
    return Picture(
        Markup(inline_svg(lambda: constraint_figure(histories, window), "constraint", title, sentence)), sentence
    )


def _conflict_picture(histories: Mapping[int, History], window: int) -> Picture:
    title, sentence = "Gradient conflicts over training", conflict_sentence(histories)
    return Picture(
        Markup(inline_svg(lambda: conflict_figure(histories, window), "conflict", title, sentence)), sentence
    )


def _flat(settings: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted key, value), in the order of the file."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
