"""The report for programs: one JSON document."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from craft_trainer.report.evidence import Evidence
from craft_trainer.report.history import course, moments
from craft_trainer.report.remarks import remarks
from craft_trainer.report.results import GROUPS, Count, Results
from craft_trainer.report.rollouts import Rollout
from craft_trainer.report.sentences import headlines

SCHEMA = 1
SHOWN = ("model", "right", "margin_gold")  # of a checkpoint that was asked


def as_document(evidence: Evidence) -> dict[str, Any]:
    """Everything the page says, as plain JSON values: rates and intervals are fractions, unknown numbers are null."""
    document = {
        "schema": SCHEMA,
        "sentences": headlines(evidence),
        "remarks": [one._asdict() for one in remarks(evidence)],
        "results": {name: _results(demo.results) for name, demo in evidence.demos.items()},
        "held_out": {name: {"losses": one.losses, "frames": one.frames} for name, one in evidence.held_out.items()},
        "rollouts": {
            name: {"policy": one.policy, "tasks": one.counts, "all": one.total} | _of_roles(one, evidence)
            for name, one in evidence.rollouts.items()
        },
        "multiple_choice": {
            name: {
                "checkpoints": [{key: vars(asked)[key] for key in SHOWN} for asked in one.asked],
                "comparison": one.comparison,
            }
            for name, one in evidence.asked.items()
        },
        "training": {n: vars(course(h)) | {"moments": moments(h)} for n, h in evidence.trajectories.items()},
        "settings": evidence.settings,
        "provenance": evidence.provenance,
    }
    return {key: _plain(value) for key, value in document.items()}


def _of_roles(rollout: Rollout, evidence: Evidence) -> dict[str, Any]:
    """Successes on old and on new tasks, and what was kept of the teacher's; null where it is not known."""
    roles = evidence.roles
    if roles is None:
        return dict.fromkeys((*GROUPS, "kept"))
    kept = roles.kept(rollout, evidence.rollouts)
    return {group: roles.count(rollout, group) for group in GROUPS} | {"kept": kept}


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
        return {**vars(value), "rate": value.rate, "interval": list(value.interval)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value
