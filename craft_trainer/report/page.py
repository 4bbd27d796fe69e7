"""The self-contained HTML page. Needs jinja2 and matplotlib."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from craft_trainer.report.evidence import Demo, Evidence
from craft_trainer.report.headline import headlines
from craft_trainer.report.pictures import (
    choices_pictures,
    demo_pictures,
    rollouts_picture,
    success_picture,
    training_pictures,
)
from craft_trainer.report.remarks import Remark, remarks
from craft_trainer.report.results import GROUPS, Count, Group, Results, method_label
from craft_trainer.report.summary import coverage, plural
from craft_trainer.report.table import cell_text, table_lines
from craft_trainer.report.tables import Table, differing_settings, pairs_table

MANY = 4  # things compared, from which on their remarks are folded away
MOST_REMARKS = 6  # shown there


class Details(NamedTuple):
    """Tables that are folded away under a line of text."""

    summary: str
    tables: Sequence[Table]


def render_page(evidence: Evidence) -> str:
    """HTML of the whole report; parts of which there is no evidence are left out."""
    environment = Environment(
        loader=PackageLoader("craft_trainer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
    )
    found = headlines(evidence)
    return environment.get_template("report.html.jinja").render(
        title=_title(evidence),
        kicker=_kicker(evidence),
        headlines=found,
        coverages=[(name, _coverage(demo)) for name, demo in evidence.demos.items()],
        demos=evidence.demos,
        alone=len(evidence) == 1,
        success=success_picture(evidence),
        compared=demo_pictures(evidence),
        rollouts=rollouts_picture(evidence),
        choices=choices_pictures(evidence),
        remarks=_grouped(remarks(evidence), folded=len(evidence) > MANY),
        training=training_pictures(evidence),
        differing=differing_settings(evidence),
        settings=list(_settings(evidence)),
        provenance=list(_provenance(evidence)),
        times=list(_times(evidence)),
        groups=GROUPS,
        by_task=_by_task,
        by_seed=_by_seed,
        cell_text=cell_text,
        label=method_label,
        slug=slug,
        version=version("craft-trainer"),
    )


type Line = tuple[str, bool, tuple[Count | None, ...]]  # name, whether it is a mean, a count per method


def _by_task(results: Results) -> dict[Group, list[Line]]:
    lines = table_lines(results)
    return {g: [(line.label, line.is_mean, line.cells) for line in lines if line.group == g] for g in GROUPS}


def _by_seed(results: Results) -> dict[Group, list[Line]]:
    """Means over the tasks of a group, a line for each seed."""
    return {
        group: [
            (f"seed {seed}", False, tuple(results.count(method, group, seed=seed) for method in results.methods))
            for seed in results.seeds
        ]
        for group in GROUPS
    }


def _unbroken(value: object) -> object:
    """A number and its % stay on one line; markup is left as it is."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def slug(text: str) -> str:
    """``text`` as part of an id; different texts of one page give different ids."""
    return "".join(char if char.isalnum() and char.isascii() else f"-{ord(char):x}" for char in text)


def duration(seconds: float) -> str:
    """A time for readers: ``4.2 s``, ``3 min 20 s``, ``1 h 05 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _title(evidence: Evidence) -> str:
    if len(evidence) == 1 and evidence.demos:
        (demo,) = evidence.demos.values()
        return f"Learned and kept: {', '.join(demo.results.stream.new)}"
    names = [*evidence.demos, *evidence.rollouts, *evidence.choices, *evidence.runs]
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: learned and kept"


def _kicker(evidence: Evidence) -> str:
    if len(evidence) == 1 and evidence.demos:
        (demo,) = evidence.demos.values()
        return f"Fine-tuning on {', '.join(demo.results.stream.new)}: what was learned, what was kept"
    kinds = (
        (len(evidence.demos), "result"),
        (len(evidence.rollouts), "rollout"),
        (len(evidence.choices), "multiple-choice result"),
        (len(evidence.runs), "training run"),
    )
    return f"{', '.join(plural(number, noun) for number, noun in kinds if number)}: what was learned, what was kept"


def _coverage(demo: Demo) -> str:
    stream = demo.results.stream
    return f"{coverage(demo.results)}; {len(stream.old)} old and {plural(len(stream.new), 'new task')}."


def _grouped(found: Sequence[Remark], *, folded: bool) -> dict[str, Sequence[Remark]]:
    """Remarks that are shown; where many things are compared, the first, warnings before all, and the rest folded."""
    num_shown = MOST_REMARKS if folded and len(found) > MOST_REMARKS + 1 else len(found)
    return {"shown": found[:num_shown], "folded": found[num_shown:]}


def _settings(evidence: Evidence) -> Iterator[Details]:
    for name, values in evidence.settings.items():
        summary = "Settings" if len(evidence) == 1 else f"Settings of {name}"
        yield Details(summary, [pairs_table(summary, values)] if values else [])


def _provenance(evidence: Evidence) -> Iterator[Details]:
    for name, values in evidence.provenance.items():
        summary = "Where the numbers come from" if len(evidence) == 1 else f"Where the numbers of {name} come from"
        yield Details(summary, [pairs_table(summary, values)])


def _times(evidence: Evidence) -> Iterator[Details]:
    for name, demo in evidence.demos.items():
        seconds = demo.results.seconds
        whole = seconds.get("total", sum(seconds.values()))
        of = "" if len(evidence) == 1 else f" of {name}"
        rows = tuple((stage, duration(value)) for stage, value in seconds.items())
        yield Details(f"Time{of}: {duration(whole)}", [Table(f"Time by stage{of}", ("stage", "time"), rows)])
    for name, run in evidence.runs.items():
        if run.seconds is not None:
            of = "" if len(evidence) == 1 else f" of {name}"
            yield Details(f"Time{of}: {duration(run.seconds)}", [])
