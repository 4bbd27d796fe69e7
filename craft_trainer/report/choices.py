"""mcq.json: multiple choice by likelihood, of one checkpoint or of two, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_trainer.report.reading import FLAG, NAME, Rule, Schema, check, json_object, number
from craft_trainer.report.results import Count, Json

SCHEMA = 1
CHANGES = ("accuracy_difference", "margin_gold_change")
CHECKPOINT: dict[str, Schema] = {"model": NAME, "items": [{"correct": FLAG}], "metrics": {"margin_gold": number()}}
ENDS = Rule("two ends in order", lambda ends: isinstance(ends, list) and len(ends) == 2 and _ascend(*ends))
COMPARISON = {key: rule for name in CHANGES for key, rule in ((name, number()), (f"{name}_ci", ENDS))}
OPTIONAL: dict[str, Schema] = {"compare": CHECKPOINT, "comparison": COMPARISON}


@dataclass(frozen=True)
class Asked:
    """One checkpoint: how many questions it has right, and its mean gold margin in nats (answer − best other)."""

    model: str
    right: Count
    margin_gold: float


@dataclass(frozen=True)
class Choices:
    """The document of ``craft-trainer mcq``: one checkpoint, or two and their paired ``comparison``."""

    path: Path
    asked: tuple[Asked, ...]
    comparison: Mapping[str, Any] | None
    settings: Mapping[str, Json]
    fingerprints: dict[str, Json]  # of weights
    num_refused: int


def load_choices(path: Path) -> Choices:
    """Read ``path``; FileNotFoundError where there is none, ValueError where it is not what ``mcq`` writes."""
    content = json_object(path, "pass what craft-trainer mcq wrote, or run it again")
    if content.get("schema") != SCHEMA or "metrics" not in content:
        raise ValueError(f"{path}: is no result of craft-trainer mcq of schema {SCHEMA}; pass the file it wrote")
    schema = CHECKPOINT | {key: kind for key, kind in OPTIONAL.items() if content.get(key) is not None}
    check(content, schema, f"{path}: ")
    checkpoints = [content, *([content["compare"]] if content.get("compare") else [])]
    weights = {f"weights of {one['model']}": one.get("fingerprint") for one in checkpoints}
    return Choices(
        path=path,
        asked=tuple(map(_asked, checkpoints)),
        comparison=content.get("comparison"),
        settings=(content.get("settings") or {}) | {"data": content.get("data") or {}},
        fingerprints={name: found for name, found in weights.items() if found},
        num_refused=len({one.get("row") for one in content.get("refused") or []}),
    )


def _asked(found: Mapping[str, Any]) -> Asked:
    right = Count(sum(item["correct"] for item in found["items"]), len(found["items"]))
    return Asked(found["model"], right, float(found["metrics"]["margin_gold"]))


def _ascend(low: Any, high: Any) -> bool:
    return number().holds(low) and number(low).holds(high)
