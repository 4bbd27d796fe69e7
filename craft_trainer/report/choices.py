"""mcq.json: multiple choice by likelihood, of one checkpoint or of two, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_trainer.files import CHECKSUM
from craft_trainer.report.reading import (
    ANY_KEY,
    ANYTHING,
    FLAG,
    NAME,
    SHA256,
    TEXT,
    Rule,
    Schema,
    check,
    integer,
    json_object,
    number,
    one_of,
    require_checksum,
)
from craft_trainer.report.recomputed import check_checkpoint, check_comparison
from craft_trainer.report.results import Count, Json

SCHEMA = 1
CHANGES = ("accuracy_difference", "margin_gold_change")
WAY_OUT = "pass what craft-trainer mcq wrote, or run it again"
EMPTY = Rule("an empty list", lambda value: value == [])
NATS = number(high=0.01)  # log-likelihoods; as sums of float32, those of certain tokens may be a rounding above 0
METHODS = ("auto", "packed", "prefix", "separate")
ITEM: dict[str, Schema] = {
    "id": NAME,
    "row": integer(0),
    "log_likelihoods": [NATS],
    "token_log_likelihoods": [[NATS]],
    "num_tokens": [integer(1)],
    "num_chars": [integer(1)],
    "num_bytes": [integer(1)],
    "unconditional_log_likelihoods": ANYTHING,  # None without PMI, checked where it is used
    "answer_index": integer(0),
    "predicted_index": integer(0),
    "correct": FLAG,
    "margin_gold": number(),
    "margin_top2": number(0),
    "boundary_ok": FLAG,
}
CHECKPOINT: dict[str, Schema] = {
    "model": NAME,
    "fingerprint": SHA256,
    "num_items": integer(1),
    "metrics": {ANY_KEY: number()},
    "items": [ITEM],
    "method": one_of(METHODS[1:]),
    "dtype": NAME,
    "seconds": number(0),
}
ENDS = Rule("two ends in order", lambda ends: isinstance(ends, list) and len(ends) == 2 and _ascend(*ends))
COMPARISON: dict[str, Schema] = {
    key: rule for name in CHANGES for key, rule in ((name, number()), (f"{name}_ci", ENDS))
}
COMPARISON |= {"seed": integer(0), "conclusion": NAME, ANY_KEY: ANYTHING}
SETTINGS: dict[str, Schema] = {"template": NAME, "delimiter": TEXT, "answers": one_of(("text", "letters"))}
SETTINGS |= {"chat": FLAG, "pmi": FLAG, "method": one_of(METHODS)}
REFUSED: dict[str, Schema] = {"row": integer(0), "id": TEXT, "reason": NAME}
REFUSED |= {"model": Rule("a name or null", lambda value: value is None or NAME.holds(value))}
DOCUMENT: dict[str, Schema] = CHECKPOINT | {"schema": ANYTHING, "data": {}, "settings": SETTINGS, "refused": ANYTHING}
OF_TWO: dict[str, Schema] = {"compare": CHECKPOINT, "comparison": COMPARISON}


@dataclass(frozen=True)
class Asked:
    """One checkpoint: how many questions it has right, and its mean gold margin in nats (answer − best other).

    ``ids`` are those of the questions it was asked, ``dtype`` is the number type of its weights.
    """

    model: str
    right: Count
    margin_gold: float
    ids: frozenset[str]
    dtype: str


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
    """Read ``path``; FileNotFoundError where there is none, ValueError where it is not what ``mcq`` writes.

    Every number that others decide (scores, metrics, the comparison) is computed again and must agree.
    """
    content = json_object(path, WAY_OUT)
    if content.get("schema") != SCHEMA or "metrics" not in content:
        raise ValueError(f"{path}: is no result of craft-trainer mcq of schema {SCHEMA}; pass the file it wrote")
    _check(content, f"{path}: ")
    require_checksum(content, path, WAY_OUT)
    checkpoints = [content, *([content["compare"]] if "compare" in content else [])]
    return Choices(
        path=path,
        asked=tuple(map(_asked, checkpoints)),
        comparison=content.get("comparison"),
        settings=content["settings"] | {"data": content["data"]},
        fingerprints={f"weights of {one['model']}": one["fingerprint"] for one in checkpoints},
        num_refused=len({one["row"] for one in content["refused"]}),
    )


def _check(content: Mapping[str, Any], place: str) -> None:
    compares = "compare" in content or "comparison" in content
    check(content, DOCUMENT | {CHECKSUM: TEXT} | (OF_TWO if compares else {}), place, exact=True)
    check(content["refused"], [REFUSED] if content["refused"] else EMPTY, f"{place}refused", exact=True)
    check_checkpoint(content, place)
    if compares:
        check_checkpoint(content["compare"], f"{place}compare.")
        check_comparison(content["items"], content["compare"]["items"], content["comparison"], f"{place}comparison.")


def _asked(found: Mapping[str, Any]) -> Asked:
    right = Count(sum(item["correct"] for item in found["items"]), len(found["items"]))
    ids = frozenset(item["id"] for item in found["items"])
    return Asked(found["model"], right, float(found["metrics"]["margin_gold"]), ids, found["dtype"])


def _ascend(low: Any, high: Any) -> bool:
    return number().holds(low) and number(low).holds(high)
