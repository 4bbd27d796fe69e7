"""Runs, rollouts and multiple choice are read as they are or refused with the way out; names tell them apart."""

import json
import re

import pytest
from report_inputs import write_demo, write_history, write_json, write_mcq, write_rollout, write_run

from craft_trainer.report import gather
from craft_trainer.report.choices import load_choices
from craft_trainer.report.remarks import remarks
from craft_trainer.report.rollouts import load_rollout
from craft_trainer.report.run import load_run


def test_a_run_is_read(tmp_path):
    run = load_run(write_run(tmp_path / "craft"))
    assert (run.step, run.max_steps, run.seconds) == (60, 60, 9.5)
    assert run.losses[0].tolist() == [10, 20, 30, 40, 50, 60]
    assert run.losses[1].tolist() == pytest.approx([1 / step for step in (10, 20, 30, 40, 50, 60)])
    assert run.known[1].tolist() == [1.0, 0.75]
    assert run.settings == {"epsilon": 0.05, "learning_rate": 1e-4}
    assert run.provenance == {
        "python": "3.12.1", "started": "2026-01-02T03:04:05+00:00", "ended": "2026-01-02T03:05:05+00:00",
    }  # fmt: skip
    assert run.history is not None
    assert len(run.history.step) == 60
    assert run.history.measured_angles()[0].tolist() == [1, 11, 21, 31, 41, 51]


def test_a_run_that_was_killed_is_read_from_its_last_checkpoint(tmp_path):
    """Seen to fail with the checkpoints in the order of their names: 1000 comes before 200 there."""
    for step in (200, 1000):
        write_json(tmp_path / f"checkpoint-{step}/trainer_state.json", {"global_step": step, "max_steps": 2000})
    (tmp_path / "checkpoint-old").mkdir()
    run = load_run(tmp_path)
    assert (run.step, run.max_steps, run.history, run.recorded) == (1000, 2000, None, False)
    assert run.settings == {"max_steps": 2000}


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder; pass the output_dir"):
        load_run(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"holds none of lambda_history\.csv, trainer_state\.json, run\.json"):
        load_run(tmp_path)
    (tmp_path / "trainer_state.json").write_text("{")
    with pytest.raises(ValueError, match=r"trainer_state\.json: not JSON .*; remove it"):
        load_run(tmp_path)
    (tmp_path / "trainer_state.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a list, expected an object"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "is no result of craft-trainer rollout"),
        (
            {"rows": [{"task": "push-v3", "episodes": 20}]},
            "rows[0].successes is missing",
        ),
        (
            {"rows": [{"task": "a", "episodes": 20, "successes": 21}]},
            "rows[0].successes is 21, expected an integer from 0 to 20",
        ),
        ({"rows": [{"task": "a", "episodes": 0, "successes": 0}]}, "rows[0].episodes is 0, expected an integer ≥ 1"),
        ({"rows": [{"task": "a", "episodes": 2, "successes": 1}] * 2}, "rows[1] repeats 'a'"),
    ],
)
def test_a_damaged_rollout_is_refused(tmp_path, changes, message):
    path = write_rollout(tmp_path / "rollout.json")
    assert load_rollout(path).total.successes == 36
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_rollout(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "is no result of craft-trainer mcq of schema 1"),
        ({"items": []}, "items is [], expected a list of at least one"),
        ({"metrics": {"margin_gold": float("nan")}}, "metrics.margin_gold is nan, expected a finite number"),
    ],
)
def test_damaged_multiple_choice_is_refused(tmp_path, changes, message):
    path = write_mcq(tmp_path / "mcq.json")
    assert [one.right.rate for one in load_choices(path).asked] == [0.8, 0.5]
    write_mcq(path, **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_choices(path)


@pytest.mark.parametrize("load", [load_choices, load_rollout])
def test_files_that_are_missing_or_no_json_are_refused(tmp_path, load):
    with pytest.raises(FileNotFoundError, match="no such file; pass"):
        load(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json: not JSON .*again"):
        load(tmp_path / "broken.json")


def test_names_are_the_shortest_ends_that_differ(tmp_path):
    """Files that are called alike everywhere are called by their folders."""
    runs = [write_run(tmp_path / f"seed{seed}/craft") for seed in (0, 1)]
    named = gather(runs=[str(runs[0]), f"mine={runs[1]}"], results=[str(write_demo(tmp_path / "first"))])
    assert list(named.runs) == ["seed0/craft", "mine"]
    alone = gather(runs=[str(path) for path in runs])
    assert list(alone.runs) == ["seed0/craft", "seed1/craft"]


def test_a_rollout_beside_its_run_is_told_from_it(tmp_path):
    """The layout of the guides: craft.json beside craft. Seen to fail as given twice."""
    run, plain = write_run(tmp_path / "craft"), write_run(tmp_path / "plain")
    rollouts = [write_rollout(tmp_path / f"{name}.json") for name in ("craft", "plain")]
    found = gather(runs=[str(run), str(plain)], rollouts=[str(path) for path in rollouts])
    assert list(found.runs) == ["craft", "plain"]
    assert list(found.rollouts) == ["craft.json", "plain.json"]


def test_a_folder_with_results_is_a_demo(tmp_path):
    write_demo(tmp_path / "demo", seeds=(0, 3))
    evidence = gather(runs=[str(tmp_path / "demo")])
    assert list(evidence.demos) == ["demo"]
    assert list(evidence.trajectories["demo"]) == [0, 3]
    assert not evidence.runs


def test_a_run_whose_results_were_pushed_is_still_a_run(tmp_path):
    """`push --results` leaves a copy in it. Seen to fail: --run showed the results, and no training."""
    run = write_run(tmp_path / "craft")
    write_demo(run)
    assert list(gather(runs=[str(run)]).runs) == ["craft"]
    assert list(gather(results=[str(run)]).demos) == ["craft"]


def test_twice_the_same_is_refused(tmp_path):
    run = str(write_run(tmp_path / "craft"))
    with pytest.raises(ValueError, match="craft is given twice: name it once"):
        gather(runs=[run, run])
    other = str(write_run(tmp_path / "other"))
    with pytest.raises(ValueError, match="two inputs are named 'a': give each its own name"):
        gather(runs=[f"a={run}", f"a={other}"])


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to report: name at least one of --results, --run, --rollout, --mcq"):
        gather()


def test_multiple_choice_inside_a_run_belongs_to_it(tmp_path):
    run = write_run(tmp_path / "craft")
    write_mcq(run / "mcq.json")
    evidence = gather(runs=[str(run)])
    assert list(evidence.asked) == ["craft"]
    assert "sha256 of mcq.json" in evidence.provenance["craft"]


def test_checksums_are_of_the_files(tmp_path):
    """The SHA-256 of two bytes, from another program."""
    run = write_run(tmp_path / "craft", record=False, history=False)
    (run / "trainer_state.json").write_text("{}")
    empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert gather(runs=[str(run)]).provenance == {"craft": {"sha256 of trainer_state.json": empty}}


def test_an_angle_outside_its_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"column update_cosine has values outside \[-1, 1\]"):
        load_run(write_history(tmp_path, update_cosine=1.5))


def test_a_run_that_was_cut_off_says_so(tmp_path):
    """Killed before its first checkpoint, run.json is all that tells of it. Seen to fail without `ended`."""
    folder = write_run(tmp_path / "run")
    assert load_run(folder).ended is True
    told = json.loads((folder / "run.json").read_text()) | {"end": None}
    (folder / "run.json").write_text(json.dumps(told))
    (folder / "trainer_state.json").unlink()
    assert load_run(folder).ended is False
    said = [str(remark) for remark in remarks(gather(runs=[str(folder)]))]
    assert any("had not ended" in text for text in said)
    assert any("So far the constraint is " in text for text in said)
    assert not any("at the end of training" in text for text in said)


def test_rollouts_say_that_training_has_luck_too(tmp_path):
    """A page of a teacher and its students had nothing under "May I believe it?". Seen to fail without the note."""
    teacher = write_rollout(tmp_path / "teacher.json", policy="outputs/teacher")
    found = gather(rollouts=[str(write_rollout(tmp_path / "craft.json"))], teacher=str(teacher), new=["reach-v3"])
    assert "the luck of the run that trained" in " ".join(one.text for one in remarks(found))
