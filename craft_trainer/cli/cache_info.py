"""``craft-trainer cache info``: what a cache was made from, and its bytes per anchor."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from craft_trainer.cli.words import printable
from craft_trainer.options import option

PLACES = ("cache",)
EXAMPLE = "craft-trainer cache info --cache outputs/anchors"
PARTS = {"input": "inputs", "hidden": "hidden features", "output": "output", "token": "tokens", "task": "task loss"}

NOT_SETTINGS = (
    "dataset",
    "revision",
    "fingerprint",
    "frames",
    "rows",
    "source",
    "chosen",
    "parts",
    "anchors",
    "reading",
)


@dataclass
class InfoArguments:
    """The cache."""

    cache: str = option("anchor cache: a folder or a Hub repository")


def run(arguments: InfoArguments) -> None:
    """Print its provenance and its sizes."""
    from craft_trainer.anchors.provenance import Provenance
    from craft_trainer.hub.resolve_path import resolve_path

    made = Provenance.read(resolve_path(arguments.cache, "dataset"))
    total = sum(made.groups.values())
    rows = {
        "teacher": "; ".join(
            f"{one['path']}, weights {one['weights'][:12]}"
            + (f" ({one['quantization']})" if "quantization" in one else "")
            + (f", of {one['anchors']} anchors" if len(made.teachers) > 1 else "")
            for one in made.teachers
        ),
        "dataset": f"{made.data['dataset']} {made.data['revision']}".strip() + f", {made.data['frames']} samples",
        "made from": made.told_source(),
        "settings": _settings(made.data),
        "anchors": f"{total}: " + ", ".join(f"{count} of {group}" for group, count in made.groups.items()),
        "features": ", ".join(f"{spec['path']} ({spec['pooling']})" for spec in made.features) or "none",
        "inputs": made.storage["inputs"],
        "labels": ", ".join(made.storage["labels"]) or "none: retention term task, replay, agem and ewc need them",
        "dtype": made.storage["dtype"],
        "made with": ", ".join(f"{name} {version}" for name, version in made.versions.items()),
        "fingerprint": made.fingerprint,
    }
    for name, value in rows.items():
        if value:
            print(f"{name:<12} {printable(value)}")
    print("\nbytes per anchor")
    parts: Counter[str] = Counter()
    for name, size in made.sizes.items():
        parts[PARTS.get(name.partition("/")[0], "row and group")] += size
    for part, size in parts.items():
        print(f"{part:<16} {size / total:>12,.0f}")
    print(f"{'in all':<16} {sum(made.sizes.values()) / total:>12,.0f}")


def _settings(data: Mapping[str, Any]) -> str:
    """What the samples were made by, e.g. "views 2, view_noise 0.1, view_seed 7"; of parts one after the other."""
    parts = data.get("parts") or []
    told = (
        ", ".join(
            f"{key} {', '.join(map(str, value)) if isinstance(value, list) else value}"
            for key, value in one.items()
            if key not in NOT_SETTINGS and not isinstance(value, Mapping)
        )
        for one in (data, *(parts.values() if isinstance(parts, Mapping) else parts))
    )
    return "; ".join(dict.fromkeys(filter(None, told)))
