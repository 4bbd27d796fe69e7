"""``craft-trainer bench run``: the arms, what they cost and keep, and a run of the toy's plain and held training."""

import json
from pathlib import Path
from typing import Any

import pytest

from craft_trainer.cli.main import main
from craft_trainer.costs import run as bench
from craft_trainer.costs.run import Arm, Command, Row, RunBenchArguments, Times, execute, table, train_words

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


def test_what_was_held_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail: the terms were those that `merge` has by default, whatever the training held."""
    asked: list[tuple[str, ...]] = []

    def fake(command: Command) -> Times:
        asked.append(command.words)
        folder = tmp_path / "run-0-measured"
        folder.mkdir()
        (folder / "merge.json").write_text(json.dumps({"curve": [{"retention_loss": 0.0, "task_loss": 9.0}]}))
        return Times(0.0, 0.0)

    monkeypatch.setattr(bench, "execute", fake)
    training = tmp_path / "t.yaml"
    training.write_text(
        "retention_terms: [hidden, output]\nretention_weights: [3, 1]\nhidden_distance: l1\nepsilon: 1\n"
    )
    bench.kept(RunBenchArguments(**OWN, training=str(training)), tmp_path / "run-0", tmp_path)
    held = ("--retention_terms", "hidden", "output", "--retention_weights", "3", "1", "--hidden_distance", "l1")
    assert asked[0][-len(held) :] == held
    assert asked[0].count("--epsilon") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "new"}, "dataset is given and model is not"),
        (OWN | {"anchors": []}, "model needs anchors as well"),
        (OWN | {"held_out": None}, "give either tasks"),
        (OWN | {"tasks": ["push-v3"]}, "give either tasks"),
        (OWN | {"every": ["1,0"]}, "are 1, 1, 0, 4, 16: each must be a whole number ≥ 1"),
        (OWN | {"sizes": ["half"]}, "each must be a whole number"),
        ({"repeats": 0}, "each must be a whole number"),
    ],
)
def test_what_cannot_be_measured_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunBenchArguments(**given)


def test_the_toy_is_built_trained_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command in its order; what the commands do is not run here."""
    asked: list[tuple[str, ...]] = []

    def fake(command: Command) -> Times:
        asked.append(command.words)
        if command.words[0] == "merge":
            folder = Path(command.words[command.words.index("--output_dir") + 1])
            folder.mkdir()
            curve = [{"retention_loss": 0.0, "task_loss": 9.0}, {"retention_loss": 0.25, "task_loss": 1.5}]
            (folder / "merge.json").write_text(json.dumps({"curve": curve}))
        return Times(2.0, 4.0)

    monkeypatch.setattr(bench, "execute", fake)
    file, runs = tmp_path / "new" / "figures.json", tmp_path / "runs"
    assert main(["bench", "run", "--every", "1,5", "--output_dir", str(runs), "--json", str(file)]) == 0
    assert [words[0] for words in asked] == ["train"] + ["cache"] * 3 + ["train", "merge"] * 9
    rows = json.loads(file.read_text())
    assert [row["arm"]["every"] for row in rows] == [1, 1, 1, 5, 5, 1, 1, 5, 5]
    assert all(row["kept"] == {"L_retain": 0.25, "task loss": 1.5} and row["cost"] == [1.0, 1.0] for row in rows)
    assert "own_texts, every 5, 16" in capsys.readouterr().out
    told = (runs / "toy/old.jsonl").read_text().splitlines()
    assert len(told) == len(set(told)) == 128
