"""Plain fine-tuning beside CRaFT, on a policy and data of one's own: a graph of commands, and its results."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from craft_trainer.files import digest_of
from craft_trainer.hub.manifest import newest_whole
from craft_trainer.report.results import GROUPS
from craft_trainer.suites.demo import DONE, METHODS, Row, Settings, places, summarize
from craft_trainer.suites.jobs import Job, command_line
from craft_trainer.training.run_record import machine

OF_TARGETS = ("layers", "pooling", "dtype", "num_tokens")  # of `cache build`: what of the teacher is kept
OF_L_RETAIN = ("retention_terms", "retention_weights", "hidden_distance")
SET_HERE = {  # what a comparison sets in the commands that it runs, and the way to say it
    "train": {
        "model": "give --policy",
        "dataset": "give --new_dataset",
        "seed": "give --seeds",
        "max_steps": "give --steps",
        "num_train_epochs": "give --steps, which would win over it",
        "per_device_train_batch_size": "give --batch_size",
        "output_dir": "give --output",
        "use_cpu": "give --device cpu",
        "resume_from_checkpoint": "leave it out, for the same command goes on",
    },
    "cache": {
        "teacher": "give --policy",
        "dataset": "give --old_dataset",
        "tasks": "give --old_tasks",
        "output_dir": "give --output",
        "held_out_only": "leave it out",
    },
}
SAVES = 5  # checkpoints of a run, of which the latest stays: an interrupted one goes on


@dataclass(frozen=True)
class Comparison:
    """One comparison: the policy that both start from, what it knew and what it is to learn.

    Attributes:
        datasets: ``old``, which may be missing with rollouts, and ``new``.
        tasks: of ``old`` and of ``new``, for rollouts; without any the verdict comes from held-out episodes.
        training: settings of `train`, of both runs.
        retention: those that CRaFT has besides.
        anchoring: those of `cache build`, the sources among them.
        rollout: those of `rollout`.
        loading: how the policy is loaded, for all commands that read the datasets.
        device: the option of that name, if it is given.
        held_out: share of the episodes that nothing is learned from; 0 with rollouts.
        held_out_anchors: of the old data, on which L_retain is measured.
    """

    policy: str
    datasets: Mapping[str, str]
    tasks: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    training: Settings
    retention: Settings
    anchoring: Settings
    rollout: Settings
    loading: Settings
    device: Settings
    held_out: float
    held_out_anchors: int

    def settings(self) -> Settings:
        """Everything that decides the result, as plain JSON values."""
        return json.loads(json.dumps(vars(self)))  # type: ignore[no-any-return]  # JSON has no types

    def read(self) -> dict[str, str]:
        """The policy and the datasets that are here, by name, each with its digest: another may come to lie there."""
        places = map(Path, (self.policy, *self.datasets.values()))
        return {str(place): digest_of(place) for place in places if place.exists()}

    @property
    def in_simulator(self) -> bool:
        """True if the verdict comes from rollouts."""
        return bool(self.tasks)


def comparison_jobs(comparison: Comparison, folder: Path) -> list[Job]:
    """The commands of the whole comparison under ``folder``; what the teacher is measured by comes first."""
    anchors = folder / "anchors"
    jobs = [Job("anchors", _cache(comparison, anchors), anchors)]
    for seed in comparison.seeds:
        jobs += [_training(comparison, method, seed, folder / f"seed{seed}" / method) for method in METHODS[1:]]
    known = {job.name for job in jobs}
    measured = list((_rollouts if comparison.in_simulator else _losses)(comparison, folder))
    of_teacher = [job for job in measured if not known & {*job.after}]  # first: what cannot be measured is found early
    return of_teacher + jobs + [job for job in measured if job not in of_teacher]


def loss_file(folder: Path, method: str, seed: int | None, group: str) -> Path:
    """Name the file for the loss of a method on held-out episodes; that of the teacher has no seed."""
    return (folder if seed is None else folder / f"seed{seed}") / f"loss-{method}-{group}.json"


def rollout_file(folder: Path, method: str, seed: int, group: str) -> Path:
    """Name the file for the rollouts of a method on a group of tasks."""
    return folder / f"seed{seed}" / f"rollout-{method}-{group}.json"


def rollout_results(comparison: Comparison, folder: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    """The contents of results.json from the rollout files under ``folder``."""
    rows: list[Row] = []
    for seed in comparison.seeds:
        for method in METHODS:
            for group in GROUPS:
                rolled = json.loads(rollout_file(folder, method, seed, group).read_text())
                rows += [
                    {"seed": seed, "method": method, "group": group}
                    | {key: row[key] for key in ("task", "episodes", "successes")}
                    for row in rolled["rows"]
                ]
    stream = {group: list(dict.fromkeys(str(row["task"]) for row in rows if row["group"] == group)) for group in GROUPS}
    return {"stream": stream, "rows": rows, "summary": summarize(rows)} | _about(comparison, seconds)


def loss_results(comparison: Comparison, folder: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    """The contents of held_out.json from the files of losses under ``folder``."""
    rows: list[Row] = []
    for method in METHODS:
        for seed in [None] if method == "teacher" else comparison.seeds:
            old, new = (json.loads(loss_file(folder, method, seed, group).read_text()) for group in GROUPS)
            rows.append(
                {"method": method, "seed": seed, "old": old["loss"], "new": new["loss"], "L_retain": old["L_retain"]}
            )
    frames = {group: int(found["frames"]) for group, found in zip(GROUPS, (old, new), strict=True)}
    return {"frames": frames, "rows": rows} | _about(comparison, seconds)


def _about(comparison: Comparison, seconds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "schema": 1,
        "seeds": list(comparison.seeds),
        "settings": comparison.settings(),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "provenance": machine() | {"collected": datetime.now(UTC).isoformat(timespec="seconds")},
    }


def _cache(comparison: Comparison, anchors: Path) -> tuple[str, ...]:
    given: Settings = {"teacher": comparison.policy, "output_dir": anchors} | comparison.loading | comparison.anchoring
    sources, datasets = given["source"], comparison.datasets
    given |= places(sources, datasets.get("old", ""), datasets["new"], comparison.tasks.get("old", ()))
    if comparison.held_out and {"dataset", "new_task"} & set(sources):
        given["held_out"] = comparison.held_out
    return command_line("cache", "build", given)


def _held_out_anchors(comparison: Comparison, anchors: Path) -> tuple[str, ...]:
    given = {"teacher": comparison.policy, "output_dir": anchors, "dataset": comparison.datasets["old"]}
    given |= comparison.device | {
        "anchors": comparison.held_out_anchors,
        "held_out": comparison.held_out,
        "held_out_only": True,
    }
    given |= {name: value for name, value in comparison.anchoring.items() if name in OF_TARGETS}
    return command_line("cache", "build", given | comparison.loading)


def _training(comparison: Comparison, method: str, seed: int, folder: Path) -> Job:
    given: Settings = {"model": comparison.policy, "dataset": comparison.datasets["new"], "seed": seed}
    given |= {"output_dir": folder} | comparison.loading | comparison.training
    if comparison.held_out:
        given["held_out"] = comparison.held_out
    needs: tuple[str, ...] = ()
    if method == "craft":
        given |= comparison.retention | {"anchors": folder.parents[1] / "anchors"}
        needs = ("anchors",)
    goes_on = not (folder / DONE).exists() and newest_whole(folder) is not None
    if goes_on:
        given["resume_from_checkpoint"] = "last"
    return Job(f"seed{seed}-{method}", command_line("train", given), folder / DONE, needs, None if goes_on else folder)


def _rollouts(comparison: Comparison, folder: Path) -> Iterator[Job]:
    for seed in comparison.seeds:
        for method in METHODS:
            policy = comparison.policy if method == "teacher" else folder / f"seed{seed}" / method
            needs = () if method == "teacher" else (f"seed{seed}-{method}",)
            for group in GROUPS:
                result = rollout_file(folder, method, seed, group)
                given = {"policy": policy, "tasks": ",".join(comparison.tasks[group]), "seed": seed, "output": result}
                name = f"seed{seed}-rollout-{method}-{group}"
                yield Job(name, command_line("rollout", given | comparison.rollout), result, needs)


def _losses(comparison: Comparison, folder: Path) -> Iterator[Job]:
    anchors = folder / "held_out_anchors"
    yield Job("held-out-anchors", _held_out_anchors(comparison, anchors), anchors)
    trained = comparison.training | comparison.retention
    measured = {name: trained[name] for name in OF_L_RETAIN if name in trained}
    for method in METHODS:
        for seed in [None] if method == "teacher" else comparison.seeds:
            policy = comparison.policy if seed is None else folder / f"seed{seed}" / method
            for group in GROUPS:
                result = loss_file(folder, method, seed, group)
                given = {"policy": policy, "dataset": comparison.datasets[group], "held_out": comparison.held_out}
                given |= {"output": result} | comparison.loading | comparison.device
                needs = [] if seed is None else [f"seed{seed}-{method}"]
                if group == "old":
                    given |= {"anchors": anchors} | measured
                    needs.append("held-out-anchors")
                name = "-".join([*([] if seed is None else [f"seed{seed}"]), "loss", method, group])
                yield Job(name, command_line("loss", given), result, tuple(needs))
