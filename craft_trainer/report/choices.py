"""mcq.json: multiple choice by likelihood, of one checkpoint or of two, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_trainer.report.reading import Value, json_object
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
    settings: Mapping[str, Json]
    num_refused: int


def load_choices(path: Path) -> Choices:
    """Read ``path``; FileNotFoundError where there is none, ValueError where it is not what ``mcq`` writes."""
    content = json_object(path, "pass what craft-trainer mcq wrote, or run it again")
    if content.get("schema") != SCHEMA or "metrics" not in content:
        raise ValueError(f"{path}: is no result of craft-trainer mcq of schema {SCHEMA}; pass the file it wrote")
    document = Value(path, content)
    if content.get("comparison") is not None:
        _check(document.field("comparison"))
    return Choices(
        path=path,
        asked=tuple(map(_asked, [document, *([document.field("compare")] if "compare" in content else [])])),
        comparison=content.get("comparison"),
        settings=(content.get("settings") or {}) | {"data": content.get("data") or {}},
        num_refused=len({one.get("row") for one in content.get("refused") or []}),
    )


def _asked(value: Value) -> Asked:
    right = [bool(item.field("correct").found) for item in value.field("items").items("question")]
    return Asked(
        model=value.field("model").text(),
        fingerprint=str(value.found.get("fingerprint", "")),
        right=Count(sum(right), len(right)),
        margin_gold=value.field("metrics").field("margin_gold").number(),
    )


def _check(comparison: Value) -> None:
    """Refuse a change that is no number, or whose interval is not two numbers in order."""
    for name in CHANGES:
        comparison.field(name).number()
        interval = comparison.field(f"{name}_ci")
        ends = [end.number() for end in interval.items("number")]
        if len(ends) != 2 or ends[0] > ends[1]:
            raise interval.wrong("two ends in order")
