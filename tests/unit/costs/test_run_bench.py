"""``craft-trainer bench run``: the arms, what they cost and keep, and a run of the toy's plain and held training."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from craft_trainer.cli.main import main
from craft_trainer.costs import run as bench
from craft_trainer.costs.run import Arm, Command, Row, RunBenchArguments, Times, execute, table, train_words
from craft_trainer.costs.toy import make_toy

OWN: dict[str, Any] = {"model": "teacher", "dataset": "new", "anchors": ["a/old,b/own"], "held_out": "held"}


def test_the_frontier_is_every_combination_beside_plain_training() -> None:
    arms = RunBenchArguments(**OWN, every=["1", "5"], sizes=["64", "16"]).arms()
    assert arms[0] == Arm("plain")
    assert len(arms) == 1 + 2 * 2 * 2
    assert len({arm.name for arm in arms}) == len(arms)
    assert Arm("own, every 5, 16", "b/own", 5, 16) in arms


def test_arms_differ_in_retention_alone() -> None:
    arguments = RunBenchArguments(**OWN, steps=7, training="t.yaml", seed=3)
    same = ("train", "--config", "t.yaml", "--model", "teacher", "--dataset", "new", "--seed", "3")
    same += ("--output_dir", "out", "--max_steps", "7")
    assert train_words(arguments, Arm("plain"), Path("out")) == (*same, "--method", "plain")
    held = ("--anchors", "b/own", "--retention_every", "5", "--retention_batch_size", "16")
    assert train_words(arguments, Arm("", "b/own", 5, 16), Path("out")) == (*same, *held)


def test_plain_training_has_no_anchors_of_the_file_either(tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text("anchors: outputs/anchors\nmax_steps: 7\n")
    assert bench.without_anchors(tmp_path / "given.yaml", tmp_path / "used.yaml").read_text() == "max_steps: 7\n"


def test_costs_are_those_of_the_median_run_beside_plain() -> None:
    plain = Row(Arm("plain"), [Times(10.0, 20.0), Times(12.0, 24.0), Times(90.0, 90.0)], {"L_retain": 0.5})
    held = Row(Arm("held", "a"), [Times(15.0, 24.0), Times(18.0, 36.0), Times(90.0, 90.0)], {"L_retain": 0.01})
    assert held.cost(plain) == (1.5, 1.5)
    head, first, second = table([plain, held]).splitlines()
    assert head.split() == ["processor", "wall", "clock", "L_retain"]
    assert first.split() == ["plain", "12.0", "s", "1.00", "×", "24.0", "s", "1.00", "×", "0.5"]
    assert second.split() == ["held", "18.0", "s", "1.50", "×", "36.0", "s", "1.50", "×", "0.01"]


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"craft-trainer trian failed \(2\):[\s\S]*explains a command"):
        execute(Command(("trian",), tmp_path / "log"))


def test_success_is_read_for_every_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def fake(command: Command) -> Times:
        asked.append(command.words)
        rows = [{"task": "push-v3", "successes": 1, "episodes": 4}, {"task": "door", "successes": 4, "episodes": 4}]
        (tmp_path / "run-0.json").write_text(json.dumps({"rows": rows}))
        return Times(0.0, 0.0)

    monkeypatch.setattr(bench, "execute", fake)
    arguments = RunBenchArguments(**OWN | {"held_out": None}, tasks=["push-v3,door"], episodes=4)
    found = bench.kept(arguments, tmp_path / "run-0", tmp_path)
    assert found == {"success": 0.625, "push-v3": 0.25, "door": 1.0}
    assert asked[0][:7] == (
        "rollout",
        "--policy",
        str(tmp_path / "run-0"),
        "--tasks",
        "push-v3,door",
        "--episodes",
        "4",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "new"}, "dataset is given and model is not"),
        (OWN | {"anchors": []}, "model needs anchors as well"),
        (OWN | {"held_out": None}, "give either tasks"),
        (OWN | {"tasks": ["push-v3"]}, "give either tasks"),
        (OWN | {"every": ["1,0"]}, "are 1, 1, 0, 8: each must be a whole number ≥ 1"),
        (OWN | {"sizes": ["half"]}, "each must be a whole number"),
        ({"repeats": 0}, "each must be a whole number"),
    ],
)
def test_what_cannot_be_measured_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunBenchArguments(**given)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say what a process used after its end")
def test_whole_runs_of_the_toy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps each, so the figures mean little; the anchors are the held-out ones."""
    toy = make_toy(tmp_path / "toy")
    assert main(list(toy.commands[-1])) == 0
    options = {"model": toy.model, "dataset": toy.dataset, "training": toy.training, "steps": 2, "every": 1}
    options |= {"anchors": toy.held_out, "held_out": toy.held_out, "output_dir": tmp_path / "runs"}
    options |= {"json": tmp_path / "figures.json"}
    assert main(["bench", "run", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]) == 0
    plain, held = json.loads((tmp_path / "figures.json").read_text())
    assert plain["cost"] == [1.0, 1.0]
    assert plain["times"][0][0] > 0.5
    assert 0 <= held["kept"]["L_retain"] < plain["kept"]["L_retain"]
    assert "held_out_texts, every 1, 8" in capsys.readouterr().out
    assert "retention_batch_size" in (tmp_path / "runs/run-1/run.json").read_text()
