"""The report for programs and for READMEs: one JSON document, or Markdown."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

from craft_trainer.report.course import course, moments
from craft_trainer.report.evidence import Evidence
from craft_trainer.report.headline import headlines, kept_share
from craft_trainer.report.remarks import remarks
from craft_trainer.report.results import GROUPS, Count, Results
from craft_trainer.report.summary import conflict_sentence, constraint_sentence, coverage
from craft_trainer.report.table import format_table
from craft_trainer.report.tables import (
    Table,
    choices_table,
    demos_table,
    differing_settings,
    markdown,
    pairs_table,
    rollouts_table,
    runs_table,
    trajectories_table,
    trajectory_table,
)

SCHEMA = 1
MARKS = {"beware": "**Beware:**", "holds": "Holds:", "note": "Note:"}


def as_document(evidence: Evidence) -> dict[str, Any]:
    """Everything the page says, as plain JSON values: rates and intervals are fractions, unknown numbers are null."""
    return {
        "schema": SCHEMA,
        "sentences": list(headlines(evidence)),
        "remarks": [{"kind": one.kind, "about": list(one.about), "text": one.text} for one in remarks(evidence)],
        "results": {name: _results(demo.results) for name, demo in evidence.demos.items()},
        "rollouts": {
            name: {"policy": one.policy, "tasks": {task: _rate(count) for task, count in one.counts.items()}}
            | {"all": _rate(one.total)}
            for name, one in evidence.rollouts.items()
        },
        "multiple_choice": {
            name: {
                "checkpoints": [
                    {"model": asked.model, "right": _rate(asked.right), "margin_gold": asked.margin_gold}
                    for asked in one.asked
                ],
                "comparison": one.comparison,
            }
            for name, one in evidence.asked.items()
        },
        "training": {
            name: _finite(asdict(course(histories)) | {"moments": [asdict(one) for one in moments(histories)]})
            for name, histories in evidence.trajectories.items()
        },
        "settings": evidence.settings,
        "provenance": evidence.provenance,
    }


def _results(results: Results) -> dict[str, Any]:
    """Rates by method: of each group, of each task, and the share of the teacher's old-task success."""
    found: dict[str, Any] = {}
    for method in results.methods:
        groups = {group: _rate(results.count(method, group)) for group in GROUPS}
        tasks = {
            task: _rate(results.count(method, group, task=task))
            for group in GROUPS
            for task in results.stream.tasks(group)
        }
        found[method] = {**groups, "kept": kept_share(results, method), "tasks": tasks}
    return {"seeds": list(results.seeds), "methods": found, "seconds": dict(results.seconds)}


def _rate(count: Count | None) -> dict[str, Any] | None:
    if count is None:
        return None
    return {**asdict(count), "rate": count.rate, "interval": list(count.interval)}


def _finite(value: Any) -> Any:
    """``value`` with null for every number that is not finite: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def as_markdown(evidence: Evidence) -> str:
    """The page in Markdown, without its figures."""
    return "\n\n".join(part for part in _parts(evidence) if part) + "\n"


def _parts(evidence: Evidence) -> Iterator[str]:
    first, *others = headlines(evidence)
    yield f"# {first}"
    yield from others
    yield from _findings(evidence)
    yield "## May I believe it?"
    yield "\n".join(
        f"- {MARKS[one.kind]} {f'{", ".join(one.about)}: ' if one.about else ''}{one.text}" for one in remarks(evidence)
    )
    yield from _training(evidence)
    yield "## The runs" if len(evidence) > 1 else "## The run"
    yield from map(markdown, differing_settings(evidence))
    for name, values in evidence.settings.items():
        yield markdown(pairs_table(f"Settings of {name}", values))
    for name, values in evidence.provenance.items():
        yield markdown(pairs_table(f"Where the numbers of {name} come from", values))


def _findings(evidence: Evidence) -> Iterator[str]:
    if evidence.demos or evidence.rollouts or evidence.asked:
        yield "## Did it learn, did it forget?"
    if len(evidence.demos) > 1:
        yield markdown(demos_table(evidence))
    for name, demo in evidence.demos.items():
        yield f"### {name}: {coverage(demo.results)}"
        yield format_table(demo.results, "markdown")
    tables: Iterator[Table] = (
        make(evidence)
        for make, found in ((rollouts_table, evidence.rollouts), (choices_table, evidence.asked))
        if found
    )
    yield from map(markdown, tables)


def _training(evidence: Evidence) -> Iterator[str]:
    trajectories = evidence.trajectories
    if trajectories or evidence.runs:
        yield "## During training"
    if evidence.runs:
        yield markdown(runs_table(evidence.runs))
    if len(trajectories) > 1:
        yield markdown(trajectories_table(evidence))
    if len(trajectories) == 1:
        (histories,) = trajectories.values()
        yield f"{constraint_sentence(histories, evidence.scale)} {conflict_sentence(histories)}"
        yield markdown(trajectory_table(histories))
