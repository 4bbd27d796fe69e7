"""The document of ``craft-trainer mcq`` as a few lines to read."""

from collections.abc import Mapping
from typing import Any

FIRST = ("accuracy", "accuracy_per_char", "accuracy_per_byte", "accuracy_per_token", "accuracy_pmi", "margin_gold")
LONGEST = 36  # characters of a model's name


def table(document: Mapping[str, Any]) -> str:
    """A line for each metric, one column for each model, and what may be concluded of the two."""
    parts = [document, *([document["compare"]] if "compare" in document else [])]
    names = [_end(str(part["model"])) for part in parts]
    widths = [max(10, len(name)) for name in names]
    metrics = [*FIRST, *(name for name in parts[0]["metrics"] if name not in FIRST)]
    lines = [f"{'':<20}" + "  ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))]
    for name in metrics:
        values = [part["metrics"].get(name) for part in parts]
        if None in values:
            continue
        written = [str(value) if isinstance(value, int) else f"{value:.4g}" for value in values]
        cells = [f"{value:>{width}}" for value, width in zip(written, widths, strict=True)]
        lines.append(f"{name:<20}" + "  ".join(cells))
    if document["refused"]:
        num_refused = len({one["row"] for one in document["refused"]})
        lines.append(f"\n{num_refused} questions were left out: see `refused` in the result")
    unclean = [sum(not item["boundary_ok"] for item in part["items"]) for part in parts]
    if any(unclean):
        lines.append(f"\nprompt and choice share a token in {max(unclean)} questions: see `boundary_ok`")
    if "comparison" in document:
        both = document["comparison"]["num_items"]
        if any(part["num_items"] != both for part in parts):
            lines.append(
                f"\neach column is over other questions; the comparison is over the {both} questions that both take"
            )
        lines.append(f"\n{document['comparison']['conclusion']}")
    return "\n".join(lines)


def _end(name: str) -> str:
    """``name``, or its end if it is long: checkpoints of one run differ there."""
    return name if len(name) <= LONGEST else "…" + name[1 - LONGEST :]
