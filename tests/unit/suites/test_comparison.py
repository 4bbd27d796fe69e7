"""The graph of `compare`: what is run, after what, and what is made of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from craft_trainer.cli.main import understood
from craft_trainer.report import load_results
from craft_trainer.suites import comparison as module
from craft_trainer.suites.comparison import Comparison, comparison_jobs, loss_file, loss_results, rollout_results
from craft_trainer.suites.demo import METHODS

HELD_OUT = Comparison(
    policy="outputs/policy",
    datasets={"old": "data/old", "new": "data/new"},
    tasks={},
    seeds=(0, 7),
    training={"max_steps": 10},
    retention={"retention": 0.99},
    anchoring={"source": ["dataset"], "anchors": 32},
    rollout={"episodes": 3},
    loading={"rename": {"front": "observation.images.top"}},
    device={"device": "cpu"},
    held_out=0.2,
    held_out_anchors=16,
)
SIMULATED = replace(HELD_OUT, tasks={"old": ("push-v3",), "new": ("door-open-v3",)}, held_out=0.0)


def named(comparison: Comparison, folder: Path) -> dict[str, module.Job]:
    jobs = comparison_jobs(comparison, folder)
    assert len({job.name for job in jobs}) == len({job.result for job in jobs}) == len(jobs)
    seen: set[str] = set()
    for job in jobs:
        assert seen.issuperset(job.after), job.name
        seen.add(job.name)
    return {job.name: job for job in jobs}


@pytest.mark.parametrize("comparison", [HELD_OUT, SIMULATED])
def test_every_command_is_understood(comparison: Comparison, tmp_path: Path) -> None:
    for job in named(comparison, tmp_path).values():
        understood(job.argv[0], job.argv[1:], checks_places=False)


@pytest.mark.parametrize(
    ("comparison", "first"), [(HELD_OUT, "loss-teacher-new"), (SIMULATED, "seed7-rollout-teacher-new")]
)
def test_the_teacher_is_measured_before_anything_is_trained(comparison: Comparison, first: str, tmp_path: Path) -> None:
    """What cannot be measured ends the comparison before hours of training."""
    names = list(named(comparison, tmp_path))
    assert names.index(first) < names.index("anchors") < names.index("seed0-plain")


def test_nothing_is_learned_or_held_from_episodes_that_are_held_out(tmp_path: Path) -> None:
    for name, job in named(HELD_OUT, tmp_path).items():
        words = list(job.argv)
        assert words[words.index("--held_out") + 1] == "0.2", name
        assert ("--held_out_only" in words) is (name == "held-out-anchors")


def test_in_a_simulator_everything_is_learned(tmp_path: Path) -> None:
    jobs = named(SIMULATED, tmp_path)
    assert not [name for name, job in jobs.items() if "--held_out" in job.argv]
    assert not [name for name in jobs if "loss" in name]


def test_craft_differs_from_plain_by_retention_alone(tmp_path: Path) -> None:
    jobs = named(HELD_OUT, tmp_path)
    plain, craft = (set(jobs[f"seed7-{method}"].argv) for method in ("plain", "craft"))
    assert craft - plain == {
        "--anchors",
        str(tmp_path / "anchors"),
        "--retention",
        "0.99",
        str(tmp_path / "seed7" / "craft"),
    }
    assert plain - craft == {str(tmp_path / "seed7" / "plain")}


def test_l_retain_is_measured_as_it_is_trained(tmp_path: Path) -> None:
    """Seen to fail when the weights and the distance of the run, and the layers of its anchors, were left out."""
    trained = {"retention_terms": ["hidden"], "retention_weights": [2.0], "hidden_distance": "cosine"}
    of_anchors = {"layers": ["0", "-1"], "views": 3}
    jobs = named(
        replace(HELD_OUT, training=HELD_OUT.training | trained, anchoring=HELD_OUT.anchoring | of_anchors), tmp_path
    )
    measured = " ".join(jobs["seed7-loss-craft-old"].argv)
    assert "--retention_terms hidden --retention_weights 2.0 --hidden_distance cosine" in measured
    held = jobs["held-out-anchors"].argv
    assert held[held.index("--layers") :][:3] == ("--layers", "0", "-1")
    assert "--views" not in held


@pytest.mark.parametrize(("name", "goes_on"), [("checkpoint-5", True), (None, False)])
def test_an_interrupted_run_goes_on(name: str | None, goes_on: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "newest_whole", lambda folder: name and folder / name)
    job = named(HELD_OUT, tmp_path)["seed0-craft"]
    assert ("--resume_from_checkpoint" in job.argv) is goes_on
    assert (job.folder is None) is goes_on


def test_rollouts_become_the_results_of_a_demo(tmp_path: Path) -> None:
    for seed in SIMULATED.seeds:
        for method, successes in zip(METHODS, (3, 0, 2), strict=True):
            for group, tasks in SIMULATED.tasks.items():
                rows = [{"task": task, "episodes": 3, "successes": successes} for task in tasks]
                file = module.rollout_file(tmp_path, method, seed, group)
                file.parent.mkdir(exist_ok=True)
                file.write_text(json.dumps({"rows": rows}))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rollout_results(SIMULATED, tmp_path, {"total": 1.0})))
    results = load_results(path)
    assert results.kept("craft") == pytest.approx(2 / 3)
    assert results.stream.new == ("door-open-v3",)


def test_losses_have_a_row_for_each_seed_and_one_for_the_teacher(tmp_path: Path) -> None:
    for method in METHODS:
        for seed in (None,) if method == "teacher" else HELD_OUT.seeds:
            for group, loss in (("old", 1.0), ("new", 2.0)):
                file = loss_file(tmp_path, method, seed, group)
                file.parent.mkdir(exist_ok=True)
                retained = {"L_retain": 0.5} if group == "old" else {}
                file.write_text(json.dumps({"loss": loss, "frames": 9} | retained))
    found = loss_results(HELD_OUT, tmp_path, {})
    assert [(row["method"], row["seed"]) for row in found["rows"]] == [
        ("teacher", None),
        *((method, seed) for method in ("plain", "craft") for seed in (0, 7)),
    ]
    assert found["rows"][1] == {"method": "plain", "seed": 0, "old": 1.0, "new": 2.0, "L_retain": 0.5}
    assert found["frames"] == {"old": 9, "new": 9}


def test_another_policy_of_the_same_name_is_noticed(tmp_path: Path) -> None:
    """Seen to fail: seeds that were added were trained from other weights than those before, in one table."""
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "model.safetensors").write_bytes(bytes(3_000_000))
    compared = replace(HELD_OUT, policy=str(policy))
    before = compared.read()
    assert list(before) == [str(policy)]
    (policy / "model.safetensors").write_bytes(bytes(2_999_999) + b"1")
    assert compared.read() != before
