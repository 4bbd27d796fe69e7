"""The report for programs and for READMEs: one JSON document, or Markdown."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

from craft_trainer.report.course import course, moments
from craft_trainer.report.evidence import Evidence
from craft_trainer.report.remarks import remarks
from craft_trainer.report.results import GROUPS, Count, Results
from craft_trainer.report.sentences import conflict_sentence, constraint_sentence, coverage, headlines
from craft_trainer.report.tables import (
    choices_table,
    demos_table,
    differing_settings,
    format_table,
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
    document = {
        "schema": SCHEMA,
        "sentences": headlines(evidence),
        "remarks": [one._asdict() for one in remarks(evidence)],
        "results": {name: _results(demo.results) for name, demo in evidence.demos.items()},
        "rollouts": {
            name: {"policy": one.policy, "tasks": one.counts, "all": one.total}
            for name, one in evidence.rollouts.items()
        },
        "multiple_choice": {
            name: {
                "checkpoints": [
                    {"model": asked.model, "right": asked.right, "margin_gold": asked.margin_gold}
                    for asked in one.asked
                ],
                "comparison": one.comparison,
            }
            for name, one in evidence.asked.items()
        },
        "training": {
            name: asdict(course(histories)) | {"moments": [asdict(one) for one in moments(histories)]}
            for name, histories in evidence.trajectories.items()
        },
        "settings": evidence.settings,
        "provenance": evidence.provenance,
    }
    return {key: _plain(value) for key, value in document.items()}


def _results(results: Results) -> dict[str, Any]:
    """Rates by method: of each group, of each task, and the share of the teacher's old-task success."""
    tasks = [(group, task) for group in GROUPS for task in results.stream.tasks(group)]
    methods = {
        method: {
            **{group: results.count(method, group) for group in GROUPS},
            "kept": results.kept(method),
            "tasks": {task: results.count(method, group, task=task) for group, task in tasks},
        }
        for method in results.methods
    }
    return {"seeds": results.seeds, "methods": methods, "seconds": results.seconds}


def _plain(value: Any) -> Any:
    """``value`` as JSON has it: a count with its rate and interval, null for every number that is not finite."""
    if isinstance(value, Count):
        return {**asdict(value), "rate": value.rate, "interval": list(value.interval)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def as_markdown(evidence: Evidence) -> str:
    """The page in Markdown, without its figures."""
    return "\n\n".join(filter(None, _parts(evidence))) + "\n"


def _parts(evidence: Evidence) -> Iterator[str]:
    first, *others = headlines(evidence)
    yield from (f"# {first}", *others)
    yield from _findings(evidence)
    yield "## May I believe it?"
    about = ((one, f"{', '.join(one.about)}: " if one.about else "") for one in remarks(evidence))
    yield "\n".join(f"- {MARKS[one.kind]} {names}{one.text}" for one, names in about)
    yield from _training(evidence)
    yield "## The runs" if len(evidence) > 1 else "## The run"
    for table in differing_settings(evidence):
        yield table.markdown()
    for name, values in evidence.settings.items():
        yield pairs_table(f"Settings of {name}", values).markdown()
    for name, values in evidence.provenance.items():
        yield pairs_table(f"Where the numbers of {name} come from", values).markdown()


def _findings(evidence: Evidence) -> Iterator[str]:
    if evidence.demos or evidence.rollouts or evidence.asked:
        yield "## Did it learn, did it forget?"
    if len(evidence.demos) > 1:
        yield demos_table(evidence.demos).markdown()
    for name, demo in evidence.demos.items():
        yield f"### {name}: {coverage(demo.results)}"
        yield format_table(demo.results, "markdown")
    if evidence.rollouts:
        yield rollouts_table(evidence.rollouts).markdown()
    if evidence.asked:
        yield choices_table(evidence.asked).markdown()


def _training(evidence: Evidence) -> Iterator[str]:
    trajectories = evidence.trajectories
    if trajectories or evidence.runs:
        yield "## During training"
    if evidence.runs:
        yield runs_table(evidence.runs).markdown()
    if len(trajectories) > 1:
        yield trajectories_table(trajectories).markdown()
    if len(trajectories) == 1:
        (histories,) = trajectories.values()
        yield f"{constraint_sentence(histories, evidence.scale)} {conflict_sentence(histories)}"
        yield trajectory_table(histories).markdown()
