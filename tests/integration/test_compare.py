"""`compare` on tiny data: plain beside CRaFT without a simulator, and what it refuses before anything is run."""

import json
from pathlib import Path

import pytest

from craft_trainer.cli.compare import CompareArguments, planned, refuse_unknown
from craft_trainer.cli.main import main
from craft_trainer.suites.comparison import comparison_jobs


@pytest.fixture
def words(teacher: Path, tiny_dataset: Path, tmp_path: Path) -> list[str]:
    given = {"policy": teacher, "old_dataset": tiny_dataset, "new_dataset": tiny_dataset, "output": tmp_path / "out"}
    small = {"steps": 3, "batch_size": 4, "held_out": 0.3, "device": "cpu", "learning_rate": 1e-3}
    allowed = json.dumps({"learned_inputs": "allow"})  # old and new are one dataset here
    return [word for key, value in (given | small).items() for word in (f"--{key}", str(value))] + ["--train", allowed]


@pytest.mark.slow
def test_plain_beside_craft_without_a_simulator(words: list[str], tmp_path: Path, capsys) -> None:
    assert main(["compare", *words]) == 0
    found = json.loads((tmp_path / "out" / "held_out.json").read_text())
    losses = {row["method"]: row for row in found["rows"]}
    assert set(losses) == {"teacher", "plain", "craft"}
    assert losses["teacher"]["L_retain"] < 1e-6 < losses["craft"]["L_retain"] < losses["plain"]["L_retain"]
    assert all(row["old"] == row["new"] for row in losses.values())  # the same episodes are held out
    assert len({row["old"] for row in losses.values()}) == 3
    said = capsys.readouterr().out
    assert "Held-out episodes: on the old data the loss is" in said
    assert "Losses on held-out episodes" in (tmp_path / "out" / "report.html").read_text()
    # again: nothing is left to run, except what an interruption left unfinished
    (tmp_path / "out" / "seed0" / "loss-craft-new.json").unlink()
    began = (tmp_path / "out" / "seed0" / "loss-craft-old.json").stat().st_mtime_ns
    assert main(["compare", *words]) == 0
    assert json.loads((tmp_path / "out" / "held_out.json").read_text())["rows"] == found["rows"]
    assert (tmp_path / "out" / "seed0" / "loss-craft-old.json").stat().st_mtime_ns == began


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--old_tasks", "push-v3"), "rollouts need tasks of both kinds"),
        (("--env", "pusht"), "env has no effect here"),
        (("--old_tasks", "push-v3", "--new_tasks", "door-open-v3"), "held_out has no effect here"),
        (("--source", "rollouts"), "give old_tasks and new_tasks"),
        (("--held_out", "0.9"), "none would be left to learn from"),
        (("--seeds", "1,1"), "none twice"),
        (("--steps", "0"), "at least 1"),
        (("--cache", '{"selection": "other", "vieuws": 1}'), "no option --vieuws"),
        (("--train", '{"lerning_rate": 1}'), "no option --lerning_rate"),
        (("--train", '{"learning_rate": 1}'), "train has learning_rate, which is an option of compare itself"),
        (("--cache", '{"source": ["new_task"]}'), "give it by --source"),
        (("--train", '{"seed": 3}'), "train has seed, which compare itself sets: give --seeds"),
        (("--train", '{"max_steps": 3}'), "give --steps"),
        (("--train", '{"num_train_epochs": 3}'), "give --steps, which would win over it"),
        (("--cache", '{"dataset": "others"}'), "cache has dataset, which compare itself sets: give --old_dataset"),
        (("--source", "new_task", "--train", '{"retention_terms": ["output"]}'), "hidden features alone are held"),
        (("--device", "cuda:1"), "choose by CUDA_VISIBLE_DEVICES"),
        (("--cache", '{"source_weights": [1, 2]}'), "source_weights has no effect with one source, dataset"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_run(changed, said, words, tmp_path, capsys) -> None:
    try:
        status = main(["compare", *words, *changed])
    except SystemExit as refused:
        status = refused.code
    assert status != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_as_many_anchors_as_there_are_frames(teacher: Path, tiny_dataset: Path) -> None:
    data = {"old_dataset": str(tiny_dataset), "new_dataset": str(tiny_dataset), "learning_rate": 1e-3}
    plan = planned(CompareArguments(policy=str(teacher), **data, held_out=0.3))
    frames = json.loads((tiny_dataset / "meta" / "info.json").read_text())["total_frames"]
    assert plan.anchoring["anchors"] + plan.held_out_anchors == frames
    plan = planned(CompareArguments(policy=str(teacher), **data, anchors=7, source=["dataset", "new_task"]))
    assert plan.anchoring["anchors"] == 7
    weighted = {"source": ["dataset", "statistics"], "cache": {"source_weights": [1, 3]}}
    plan = planned(CompareArguments(policy=str(teacher), **data, held_out=0.3, **weighted))
    assert plan.anchoring["anchors"] == 4 * (frames - plan.held_out_anchors)


def test_anchors_may_be_without_the_action(teacher: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    """Seen to fail: `output` of `cache build` was taken for the folder of the comparison."""
    data = {"old_dataset": str(tiny_dataset), "new_dataset": str(tiny_dataset), "learning_rate": 1e-3}
    plan = planned(CompareArguments(policy=str(teacher), **data, held_out=0.3, cache={"output": False}))
    (anchors,) = (job for job in comparison_jobs(plan, tmp_path) if job.name == "anchors")
    assert anchors.argv[anchors.argv.index("--output") + 1] == "False"


def test_old_data_is_needed_only_where_it_is_read(teacher: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    given = {"policy": str(teacher), "new_dataset": str(tiny_dataset), "learning_rate": 1e-3}
    tasks = {"old_tasks": ["push-v3"], "new_tasks": ["door-open-v3"]}
    plan = planned(CompareArguments(**given, **tasks, source=["rollouts"]))
    jobs = comparison_jobs(plan, tmp_path)
    assert not [job for job in jobs if "--dataset" in job.argv and job.name == "anchors"]
    refuse_unknown(jobs)
    assert plan.anchoring["anchors"] == 1000
    shown = {"observation.image": "observation.images.top"}
    simulator = {"env": "metaworld", "env_options": {"obs_type": "pixels"}, "env_rename": shown}
    plan = planned(CompareArguments(**given, **tasks, source=["rollouts"], **simulator))
    jobs = {job.name: " ".join(job.argv) for job in comparison_jobs(plan, tmp_path)}
    of_simulator = (
        f"""--env metaworld --env_options {json.dumps(simulator["env_options"])} --rename {json.dumps(shown)}"""
    )
    assert of_simulator in jobs["anchors"]  # seen to fail: the teacher acted in this package's own Meta-World
    assert of_simulator in jobs["seed0-rollout-teacher-old"]
    with pytest.raises(ValueError, match="give the same rename and env_rename"):
        CompareArguments(**given, **tasks, source=["rollouts", "new_task"], **simulator)
    with pytest.raises(ValueError, match="the losses are measured on old_dataset"):
        CompareArguments(**given, source=["new_task"])
    with pytest.raises(ValueError, match="source dataset takes anchors from old_dataset"):
        CompareArguments(**given, **tasks)


def test_nobody_chooses_the_learning_rate_for_you(words: list[str], capsys) -> None:
    """Its default was 1e-5, by which a small policy learned nothing."""
    place = words.index("--learning_rate")
    with pytest.raises(SystemExit):
        main(["compare", *words[:place], *words[place + 2 :]])
    assert "--learning_rate" in capsys.readouterr().err


def test_a_language_model_is_sent_to_its_own_commands(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    data = {"old_dataset": str(tiny_dataset), "new_dataset": str(tiny_dataset), "learning_rate": 1e-3}
    with pytest.raises(ValueError, match="is no LeRobot policy"):
        planned(CompareArguments(policy=str(tmp_path), **data))


def test_the_loss_of_a_policy_is_of_all_frames(teacher: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    found = []
    for size in ("64", "3"):
        given = {"policy": teacher, "dataset": tiny_dataset, "batch_size": size, "output": tmp_path / f"{size}.json"}
        assert main(["loss", *(word for key, value in given.items() for word in (f"--{key}", str(value)))]) == 0
        found.append(json.loads((tmp_path / f"{size}.json").read_text()))
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=0.01)  # chunks end at an episode's end
    assert [one["batch_size"] for one in found] == [64, 3]  # for it counts a little
    assert found[0]["frames"] == json.loads((tiny_dataset / "meta" / "info.json").read_text())["total_frames"]
