"""mcq.json: multiple choice by likelihood, of one checkpoint or of two, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from craft_trainer.report.reading import json_object
from craft_trainer.report.results import Count, Json

SCHEMA = 1
CHANGES = ("accuracy_difference", "margin_gold_change")


@dataclass(frozen=True)
class Asked:
    """One checkpoint: how many questions it has right, and its mean gold margin in nats (answer − best other)."""

    model: str
    fingerprint: str
    right: Count
    margin_gold: float


@dataclass(frozen=True)
class Choices:
    """The document of ``craft-trainer mcq``: one checkpoint, or two and their paired ``comparison``."""

    path: Path
    asked: tuple[Asked, ...]
    comparison: Mapping[str, Any] | None
    data: Mapping[str, Json]
    settings: Mapping[str, Json]
    num_refused: int


def load_choices(path: Path) -> Choices:
    """Read ``path``; FileNotFoundError where there is none, ValueError where it is not what ``mcq`` writes."""
    document = json_object(path, "pass what craft-trainer mcq wrote, or run it again")
    if document.get("schema") != SCHEMA or "metrics" not in document:
        raise ValueError(f"{path}: is no result of craft-trainer mcq of schema {SCHEMA}; pass the file it wrote")
    parts = [document, *([document["compare"]] if "compare" in document else [])]
    refused = document.get("refused") or []
    return Choices(
        path=path,
        asked=tuple(_asked(part, path) for part in parts),
        comparison=_comparison(document, path),
        data=document.get("data") or {},
        settings=document.get("settings") or {},
        num_refused=len({one.get("row") for one in refused}),
    )


def _asked(part: Mapping[str, Any], path: Path) -> Asked:
    items, metrics = part.get("items"), part["metrics"]
    if not items:
        raise ValueError(f"{path}: {part.get('model')} has no items; run craft-trainer mcq again")
    return Asked(
        model=str(part.get("model")),
        fingerprint=str(part.get("fingerprint", "")),
        right=Count(sum(bool(item["correct"]) for item in items), len(items)),
        margin_gold=_finite(metrics.get("margin_gold"), "metrics.margin_gold", path),
    )


def _comparison(document: Mapping[str, Any], path: Path) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = document.get("comparison")
    if found is None:
        return None
    for name in CHANGES:
        _finite(found.get(name), f"comparison.{name}", path)
        ends = list(found.get(f"{name}_ci") or [])
        if len(ends) != 2 or _finite(ends[0], f"{name}_ci", path) > _finite(ends[1], f"{name}_ci", path):
            raise ValueError(f"{path}: comparison.{name}_ci is {ends!r}, expected two ends in order")
    return found


def _finite(value: Any, name: str, path: Path) -> float:
    if not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{path}: {name} is {value!r}, expected a finite number; run craft-trainer mcq again")
    return float(value)
