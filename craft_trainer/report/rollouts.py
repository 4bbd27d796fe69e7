"""The JSON file of ``craft-trainer rollout``: closed-loop success of one policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_trainer.report.reading import json_object
from craft_trainer.report.results import Count

ROW_KEYS = ("task", "episodes", "successes")


@dataclass(frozen=True)
class Rollout:
    """Successes of one policy by task."""

    path: Path
    policy: str
    seed: int
    counts: Mapping[str, Count]

    @property
    def total(self) -> Count:
        """Every episode of every task."""
        return Count(
            sum(count.successes for count in self.counts.values()),
            sum(count.episodes for count in self.counts.values()),
        )


def load_rollout(path: Path) -> Rollout:
    """Read ``path``; FileNotFoundError where there is none, ValueError where it is not what ``rollout`` writes."""
    document = json_object(path, "pass what craft-trainer rollout wrote, or run it again")
    if "policy" not in document or not document.get("rows"):
        raise ValueError(
            f"{path}: is no result of craft-trainer rollout (no policy, or no rows); pass the file it wrote"
        )
    counts: dict[str, Count] = {}
    for index, row in enumerate(document["rows"]):
        task, count = _row(row, f"{path}: rows[{index}]")
        if task in counts:
            raise ValueError(f"{path}: rows[{index}] repeats {task!r}; keep one of the two")
        counts[task] = count
    return Rollout(path, str(document["policy"]), document.get("seed", 0), counts)


def _row(row: Any, where: str) -> tuple[str, Count]:
    if not isinstance(row, dict) or any(key not in row for key in ROW_KEYS):
        raise ValueError(f"{where} is {row!r}, expected an object with {', '.join(ROW_KEYS)}")
    episodes, successes = row["episodes"], row["successes"]
    if type(episodes) is not int or type(successes) is not int or not 0 <= successes <= episodes or episodes < 1:
        raise ValueError(
            f"{where} has {successes!r} successes of {episodes!r} episodes, expected 0 ≤ successes ≤ episodes"
        )
    return str(row["task"]), Count(successes, episodes)
