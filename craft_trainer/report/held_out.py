"""Losses on held-out episodes of old and new data: held_out.json of ``craft-trainer compare``, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from craft_trainer.report.reading import ANYTHING, NAME, Schema, check, integer, json_object, number, without_checksum
from craft_trainer.report.results import Json

HELD_OUT_FILE = "held_out.json"
WAY_OUT = "pass what craft-trainer compare wrote, or run it again"
ROW: Schema = {"method": NAME, "seed": ANYTHING, "old": number(), "new": number(), "L_retain": number()}


@dataclass(frozen=True)
class HeldOut:
    """The losses by method, each a list over seeds: on ``old`` data, on ``new`` data, and ``L_retain``."""

    path: Path
    losses: Mapping[str, tuple[Mapping[str, float], ...]]
    frames: Mapping[str, int]
    settings: Mapping[str, Json]
    provenance: Mapping[str, Json]

    def mean(self, method: str, what: str) -> float | None:
        """The mean over seeds; None of a method that was not measured."""
        return fmean(one[what] for one in self.losses[method]) if self.losses.get(method) else None

    def kept(self) -> float | None:
        """The share of what plain fine-tuning lost on old data that CRaFT did not lose; None if plain lost nothing."""
        teacher, plain, craft = (self.mean(method, "old") for method in ("teacher", "plain", "craft"))
        if teacher is None or plain is None or craft is None or plain <= teacher:
            return None
        return 1 - (craft - teacher) / (plain - teacher)


def load_held_out(path: Path) -> HeldOut:
    """Read ``path``; FileNotFoundError where there is none, ValueError where it is not what ``compare`` writes."""
    content = without_checksum(json_object(path, WAY_OUT), path, WAY_OUT)
    if not content.get("rows") or "frames" not in content:
        raise ValueError(f"{path}: is no result of craft-trainer compare (no rows, or no frames); {WAY_OUT}")
    check(content["rows"], [ROW], f"{path}: rows")
    check(content["frames"], {"old": integer(1), "new": integer(1)}, f"{path}: frames")
    losses: dict[str, list[Mapping[str, float]]] = {}
    seen = [(row["method"], row["seed"]) for row in content["rows"]]
    for index, (method, seed) in enumerate(seen):
        if (method, seed) in seen[:index]:
            raise ValueError(f"{path}: rows[{index}] repeats method {method!r} and seed {seed!r}; keep one of the two")
    for row in content["rows"]:
        losses.setdefault(row["method"], []).append({name: row[name] for name in ("old", "new", "L_retain")})
    own = {name: content.get(name) or {} for name in ("settings", "provenance")}
    return HeldOut(path, {name: tuple(rows) for name, rows in losses.items()}, content["frames"], **own)
