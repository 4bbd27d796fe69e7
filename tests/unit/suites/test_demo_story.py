"""The demo's graph of commands, and its pooled success rates."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from craft_trainer.cli.arguments import parse_all
from craft_trainer.cli.cache_build import BuildArguments
from craft_trainer.cli.record import RecordArguments
from craft_trainer.cli.rollout import RolloutArguments
from craft_trainer.cli.train import TrainArguments
from craft_trainer.cli.train_config import TrainConfig
from craft_trainer.suites.demo import (
    DONE,
    FINE_TUNING,
    METHODS,
    RETENTION,
    TEACHER,
    Experiment,
    Settings,
    collect_results,
    experiment_jobs,
    retention_of,
    summarize,
)
from craft_trainer.suites.jobs import Job, clear_unfinished

STORY = Experiment(
    old=("push-v3", "door-open-v3"),
    new=("window-close-v3",),
    seeds=(0, 7),
    demonstrations=5,
    anchors=64,
    episodes=4,
    teacher=TEACHER | {"max_steps": 3},
    fine_tuning=FINE_TUNING | {"max_steps": 2},
    retention=RETENTION,
)


@pytest.fixture
def jobs(tmp_path: Path) -> dict[str, Job]:
    listed = experiment_jobs(STORY, tmp_path)
    by_name = {job.name: job for job in listed}
    assert len(by_name) == len(listed)  # names are unique: they are names of log files
    return by_name


def options(job: Job) -> dict[str, tuple[str, ...]]:
    """Words after each ``--key`` of a command line."""
    found: dict[str, tuple[str, ...]] = {}
    for word in job.argv[2 if job.argv[0] == "cache" else 1 :]:  # cache has verbs
        if word.startswith("--"):
            key = word.removeprefix("--")
            assert key not in found, f"{key} is given twice"
            found[key] = ()
        else:
            found[key] += (word,)
    return found


def needed(jobs: dict[str, Job], name: str) -> set[str]:
    """Everything a job needs, directly or not."""
    return set().union(*({other} | needed(jobs, other) for other in jobs[name].after))


def test_there_are_seven_jobs_per_seed_and_two_recordings(jobs: dict[str, Job]) -> None:
    assert len(jobs) == 2 + len(STORY.seeds) * (4 + len(METHODS))
    assert len({job.result for job in jobs.values()}) == len(jobs)


def test_every_job_needs_known_jobs_listed_before_it(jobs: dict[str, Job]) -> None:
    seen: set[str] = set()
    for name, job in jobs.items():
        assert seen.issuperset(job.after), name
        seen.add(name)


@pytest.mark.parametrize("seed", STORY.seeds)
def test_what_depends_on_what(jobs: dict[str, Job], seed: int) -> None:
    prefix = f"seed{seed}-"
    teacher, old = {f"{prefix}teacher"}, {"record-old"}
    assert needed(jobs, f"{prefix}teacher") == old
    assert needed(jobs, f"{prefix}anchors") == teacher | old | {"record-new"}
    assert needed(jobs, f"{prefix}plain") == teacher | old | {"record-new"}
    assert needed(jobs, f"{prefix}craft") == teacher | old | {"record-new", f"{prefix}anchors"}
    for method in METHODS:
        assert jobs[f"{prefix}rollout-{method}"].after == (f"{prefix}{method}",)


@pytest.mark.parametrize(
    ("source", "given"),
    [
        (["dataset"], {"dataset": "old"}),
        (["new_task"], {"new_dataset": "new"}),
        (["statistics"], {}),
        (["rollouts"], {"tasks": "push-v3,door-open-v3"}),
        (["dataset", "new_task"], {"dataset": "old", "new_dataset": "new"}),
    ],
)
def test_anchors_come_from_the_sources_that_are_asked_for(source, given, tmp_path: Path) -> None:
    story = replace(STORY, sources={"source": source, "views": 3})
    jobs = {job.name: job for job in experiment_jobs(story, tmp_path)}
    found = options(jobs["seed0-anchors"])
    assert (found["source"], found["views"]) == (tuple(source), ("3",))
    for key in ("dataset", "new_dataset"):
        assert found.get(key) == ((str(tmp_path / "data" / given[key]),) if key in given else None)
    assert found.get("tasks") == ((given["tasks"],) if "tasks" in given else None)
    parse_all("cache build", "", [BuildArguments], jobs["seed0-anchors"].argv[2:])


@pytest.mark.parametrize("seed", STORY.seeds)
def test_plain_and_craft_differ_in_retention_alone(jobs: dict[str, Job], seed: int) -> None:
    plain, craft = options(jobs[f"seed{seed}-plain"]), options(jobs[f"seed{seed}-craft"])
    extra = {key: words for key, words in craft.items() if key not in plain}
    assert set(extra) == set(RETENTION) | {"anchors"}
    assert {key for key in plain if plain[key] != craft[key]} == {"output_dir"}


def test_every_path_a_job_reads_is_one_that_a_needed_job_makes(jobs: dict[str, Job], tmp_path: Path) -> None:
    for name, job in jobs.items():
        made = [jobs[other].result for other in needed(jobs, name)]
        for key in ("model", "policy", "dataset", "teacher", "anchors"):
            for word in options(job).get(key, ()):
                if Path(word).is_relative_to(tmp_path):
                    assert any(result.is_relative_to(word) for result in made), (name, key)


def test_every_command_line_is_understood(jobs: dict[str, Job]) -> None:
    kinds = {
        "record": [RecordArguments],
        "cache": [BuildArguments],
        "train": [TrainArguments, TrainConfig],
        "rollout": [RolloutArguments],
    }
    for job in jobs.values():
        command, *argv = job.argv
        if command == "cache":
            assert argv.pop(0) == "build"
        parsed = parse_all(command, "", kinds[command], argv)
        if job.name == "seed7-teacher":
            arguments, config = parsed
            assert arguments.policy_options == TEACHER["policy_options"]
            assert (config.max_steps, config.learning_rate, config.seed, config.use_cpu) == (3, 1e-3, 7, True)
        if job.name == "seed7-craft":
            assert parsed[1].retention_terms == RETENTION["retention_terms"]


def test_only_training_runs_that_did_not_finish_are_deleted(tmp_path: Path) -> None:
    """`train` would refuse their folders. Seen to fail with nothing deleted, and with finished runs deleted."""
    kept = {f"seed0/teacher/{DONE}", "seed0/anchors/data.arrow", "seed7/rollout-plain.json", "seed1/plain/model"}
    for name in kept | {"seed0/plain/model.safetensors", "seed7/craft/checkpoint-5/model.safetensors"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    clear_unfinished(experiment_jobs(STORY, tmp_path))
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == kept


def row(method: str, group: str, successes: int, episodes: int) -> dict[str, object]:
    return {"method": method, "group": group, "successes": successes, "episodes": episodes}


def test_summarize_pools_episodes_not_rates() -> None:
    """Old: (1 + 30) of (2 + 40), which is not the mean of 1/2 and 3/4."""
    rows = [
        row("plain", "old", 1, 2),
        row("plain", "old", 30, 40),
        row("plain", "new", 5, 5),
        row("craft", "old", 0, 3),
    ]
    assert summarize(rows) == {"plain": {"old": 31 / 42, "new": 1.0}, "craft": {"old": 0.0}}


def test_results_hold_every_rollout_with_its_seed_method_and_group(tmp_path: Path) -> None:
    successes = {"teacher": (4, 3, 0), "plain": (0, 1, 4), "craft": (4, 2, 3)}
    for seed in STORY.seeds:
        (tmp_path / f"seed{seed}").mkdir()
        for method, counts in successes.items():
            rolled = [
                {"task": task, "episodes": 4, "successes": count}
                for task, count in zip(STORY.old + STORY.new, counts, strict=True)
            ]
            (tmp_path / f"seed{seed}" / f"rollout-{method}.json").write_text(json.dumps({"rows": rolled}))
    results = collect_results(STORY, tmp_path, {"total": 1.234})
    assert len(results["rows"]) == 2 * 3 * 3
    assert {(r["task"], r["group"]) for r in results["rows"]} == {
        ("push-v3", "old"),
        ("door-open-v3", "old"),
        ("window-close-v3", "new"),
    }
    assert results["summary"] == {
        "teacher": {"old": 7 / 8, "new": 0.0},
        "plain": {"old": 1 / 8, "new": 1.0},
        "craft": {"old": 6 / 8, "new": 3 / 4},
    }
    assert results["seconds"] == {"total": 1.2}
    assert results["provenance"]["versions"]["craft-trainer"]
    assert json.loads(json.dumps(results)) == results


@pytest.mark.parametrize(
    ("sources", "terms"),
    [
        ({"source": ["dataset"]}, ["hidden", "output"]),
        ({"source": ["new_task"]}, ["hidden"]),
        ({"source": ["statistics", "new_task"]}, ["hidden"]),
        ({"source": ["new_task"], "views": 3}, ["hidden", "output"]),
    ],
)
def test_on_the_inputs_that_are_learned_features_alone_are_held(sources: Settings, terms: list[str]) -> None:
    """`train` would refuse more: it forbids learning."""
    assert retention_of(sources) == RETENTION | {"retention_terms": terms}
