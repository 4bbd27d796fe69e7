"""The demo as a graph of commands, and its results: what plain fine-tuning destroys and what CRaFT keeps."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from craft_trainer.suites.jobs import Job, command_line
from craft_trainer.training.run_record import machine

Settings = dict[str, Any]
Row = dict[str, Any]

DONE = "trainer_state.json"  # what `train` writes last
METHODS = ("teacher", "plain", "craft")
POLICY: Settings = {
    "policy_type": "act",
    "policy_options": {
        "chunk_size": 16,
        "n_action_steps": 8,
        "dim_model": 128,
        "n_heads": 4,
        "dim_feedforward": 256,
        "n_encoder_layers": 2,
        "n_decoder_layers": 1,
        "use_vae": False,
        "dropout": 0.0,
        "normalization_mapping": {"STATE": "MEAN_STD", "ENV": "MEAN_STD", "ACTION": "MEAN_STD"},
    },
    "policy_min_std": 0.01,  # one centimetre
}
TRAINING: Settings = {
    "per_device_train_batch_size": 64,
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 1.0,
    "logging_steps": 50,
    "save_strategy": "no",
    "report_to": "none",
    "dataloader_pin_memory": False,
    "use_cpu": True,
}
TEACHER: Settings = POLICY | TRAINING | {"max_steps": 2500, "learning_rate": 1e-3, "warmup_steps": 100}
FINE_TUNING: Settings = TRAINING | {"max_steps": 800, "learning_rate": 5e-4, "warmup_steps": 50}
RETENTION: Settings = {
    "retention_terms": ["hidden", "output"],
    "retention_batch_size": 64,
    "epsilon": 0.01,
}


def retention_of(sources: Mapping[str, Any]) -> Settings:
    """The settings of retention on anchors from ``sources``."""
    return RETENTION | terms_of(sources)


def terms_of(sources: Mapping[str, Any]) -> Settings:
    """The setting that holds hidden features alone on inputs that are learned; nothing for other ``sources``."""
    learned = "new_task" in sources["source"] and not sources.get("views")  # views do not keep the input itself
    return {"retention_terms": ["hidden"]} if learned else {}


@dataclass(frozen=True)
class Experiment:
    """One experiment: which tasks are old, which are new, and how much of everything."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    seeds: tuple[int, ...]
    demonstrations: int  # per task
    anchors: int
    episodes: int  # rollouts per task, method and seed
    teacher: Settings
    fine_tuning: Settings
    retention: Settings
    sources: Settings = field(default_factory=lambda: {"source": ["dataset"]})  # where the anchors come from

    def __post_init__(self) -> None:
        """Refuse a stream that has no answer: raises ValueError for missing, repeated or both old and new entries."""
        for name, entries in (("old", self.old), ("new", self.new), ("seeds", self.seeds)):
            if not entries or len(set(entries)) < len(entries):
                raise ValueError(f"{name} is {list(entries)}: name at least one, and none twice")
        if both := set(self.old) & set(self.new):
            raise ValueError(f"{', '.join(sorted(both))}: a task is either old or new")

    def settings(self) -> Settings:
        """Everything that decides the result, as plain JSON values."""
        return json.loads(json.dumps(vars(self)))  # type: ignore[no-any-return]  # JSON has no types


def experiment_jobs(experiment: Experiment, folder: Path) -> list[Job]:
    """The commands of the whole experiment under ``folder``; those on which most depends come first."""
    old, new = folder / "data" / "old", folder / "data" / "new"
    per_seed = [_seed_jobs(experiment, seed, folder / f"seed{seed}", old, new) for seed in experiment.seeds]
    recordings = []
    for data, tasks in ((old, experiment.old), (new, experiment.new)):
        record = {"tasks": ",".join(tasks), "output_dir": data, "episodes": experiment.demonstrations}
        recordings.append(Job(f"record-{data.name}", command_line("record", record), data))
    return recordings + [job for stage in zip(*per_seed, strict=True) for job in stage]


def places(sources: Sequence[str], old: str | Path, new: str | Path, tasks: Sequence[str]) -> Settings:
    """Data that ``sources`` of anchors read: demonstrations of ``old`` tasks or of the ``new``, ``tasks`` to act in."""
    read: dict[str, Settings] = {
        "dataset": {"dataset": old},
        "new_task": {"new_dataset": new},
        "rollouts": {"tasks": ",".join(tasks)},
    }
    return {name: place for source in sources for name, place in read.get(source, {}).items()}


def collect_results(experiment: Experiment, folder: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    """The contents of results.json from the rollout files under ``folder``."""
    rows: list[Row] = []
    for seed in experiment.seeds:
        for method in METHODS:
            rolled = json.loads((folder / f"seed{seed}" / f"rollout-{method}.json").read_text())
            rows += [
                {"seed": seed, "method": method, "group": "old" if row["task"] in experiment.old else "new"}
                | {key: row[key] for key in ("task", "episodes", "successes")}
                for row in rolled["rows"]
            ]
    return {
        "schema": 1,
        "stream": {"old": list(experiment.old), "new": list(experiment.new)},
        "seeds": list(experiment.seeds),
        "settings": experiment.settings(),
        "rows": rows,
        "summary": summarize(rows),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "provenance": machine() | {"collected": datetime.now(UTC).isoformat(timespec="seconds")},
    }


def summarize(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Fraction of successful episodes per method and group, all seeds and tasks pooled."""
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for row in rows:
        pooled = counts[row["method"]][row["group"]]
        pooled[0] += row["successes"]
        pooled[1] += row["episodes"]
    return {
        method: {group: successes / episodes for group, (successes, episodes) in groups.items()}
        for method, groups in counts.items()
    }


def _seed_jobs(experiment: Experiment, seed: int, folder: Path, old: Path, new: Path) -> list[Job]:
    teacher, anchors = folder / "teacher", folder / "anchors"
    train, cached = f"seed{seed}-teacher", f"seed{seed}-anchors"
    start = {"model": teacher, "dataset": new, "seed": seed}
    fine_tune = {
        "plain": command_line("train", experiment.fine_tuning, start | {"output_dir": folder / "plain"}),
        "craft": command_line(
            "train",
            experiment.fine_tuning | experiment.retention,
            start | {"output_dir": folder / "craft", "anchors": anchors},
        ),
    }
    rollout = {"tasks": ",".join(experiment.old + experiment.new), "episodes": experiment.episodes, "seed": seed}
    cache = {"teacher": teacher, "output_dir": anchors, "anchors": experiment.anchors, "seed": seed}
    cache |= places(experiment.sources["source"], old, new, experiment.old)
    return [
        Job(
            train,
            command_line("train", experiment.teacher, {"dataset": old, "output_dir": teacher, "seed": seed}),
            teacher / DONE,
            ("record-old",),
            teacher,
        ),
        Job(cached, command_line("cache", "build", cache, experiment.sources), anchors, (train, "record-new")),
        *(
            Job(
                f"seed{seed}-{method}",
                argv,
                folder / method / DONE,
                (train, "record-new", *([cached] if method == "craft" else [])),
                folder / method,
            )
            for method, argv in sorted(fine_tune.items())
        ),
        *(
            Job(
                f"seed{seed}-rollout-{method}",
                command_line("rollout", {"policy": folder / method, **rollout, "output": result}),
                result,
                (f"seed{seed}-{method}",),
            )
            for method in METHODS
            for result in [folder / f"rollout-{method}.json"]
        ),
    ]
