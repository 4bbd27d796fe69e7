"""The JSON file of ``craft-trainer rollout``: closed-loop success of one policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from craft_trainer.report.reading import Value, json_object
from craft_trainer.report.results import Count, pooled


@dataclass(frozen=True)
class Rollout:
    """Successes of one policy by task."""

    path: Path
    policy: str
    counts: Mapping[str, Count]

    @property
    def total(self) -> Count:
        """Every episode of every task."""
        return pooled(self.counts.values())


def load_rollout(path: Path) -> Rollout:
    """Read ``path``; FileNotFoundError where there is none, ValueError where it is not what ``rollout`` writes."""
    document = json_object(path, "pass what craft-trainer rollout wrote, or run it again")
    if "policy" not in document or not document.get("rows"):
        raise ValueError(
            f"{path}: is no result of craft-trainer rollout (no policy, or no rows); pass the file it wrote"
        )
    counts: dict[str, Count] = {}
    for row in Value(path, document["rows"], "rows").items("row"):
        task, episodes = row.field("task").text(), row.field("episodes").integer(1)
        if task in counts:
            raise ValueError(f"{path}: {row.place} repeats {task!r}; keep one of the two")
        counts[task] = Count(row.field("successes").integer(0, episodes), episodes)
    return Rollout(path, str(document["policy"]), counts)
