"""The JSON file of ``craft-trainer rollout``: closed-loop success of one policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from craft_trainer.report.reading import ANYTHING, NAME, Schema, check, integer, json_object, without_checksum
from craft_trainer.report.results import Count, Json, pooled

WAY_OUT = "pass what craft-trainer rollout wrote, or run it again"
ALWAYS = ("seed", "max_steps")  # of what was rolled out: every version has recorded them
OF_ENVIRONMENT = ("env_options", "shadows")
OWN_ENVIRONMENT = "Meta-World by craft-trainer"
ROW: Schema = {"task": NAME, "episodes": integer(1), "successes": ANYTHING}


@dataclass(frozen=True)
class Rollout:
    """Successes of one policy by task, and what it was told to do in the tasks where that was recorded.

    ``settings`` are those that decide what an episode is: its environment, its goal (by the seed) and its length.
    """

    path: Path
    policy: str
    counts: Mapping[str, Count]
    sentences: Mapping[str, str]
    settings: Mapping[str, Json]

    @property
    def total(self) -> Count:
        """Every episode of every task."""
        return pooled(self.counts.values())


def load_rollout(path: Path) -> Rollout:
    """Read ``path``; FileNotFoundError where there is none, ValueError where it is not what ``rollout`` writes."""
    content = without_checksum(json_object(path, WAY_OUT), path, WAY_OUT)
    if "policy" not in content or not content.get("rows"):
        wrong = "is no result of craft-trainer rollout (no policy, or no rows)"
        raise ValueError(f"{path}: {wrong}; pass the file it wrote")
    check(content, {"policy": NAME, "rows": [ROW]}, f"{path}: ")
    counts: dict[str, Count] = {}
    for index, row in enumerate(content["rows"]):
        place = f"{path}: rows[{index}]"
        check(row["successes"], integer(0, row["episodes"]), f"{place}.successes")
        if row["task"] in counts:
            raise ValueError(f"{place} repeats {row['task']!r}; keep one of the two")
        counts[row["task"]] = Count(row["successes"], row["episodes"])
    sentences = {row["task"]: row["sentence"] for row in content["rows"] if isinstance(row.get("sentence"), str)}
    settings: dict[str, Json] = {"env": content.get("env") or OWN_ENVIRONMENT}
    settings |= {name: content.get(name, "not recorded") for name in ALWAYS}
    if settings["max_steps"] is None:
        settings["max_steps"] = "the environment's own"
    settings |= {name: content[name] for name in OF_ENVIRONMENT if name in content}
    return Rollout(path, str(content["policy"]), counts, sentences, settings)
