"""Raw results of one table: each counts once, and all are of the same stream and settings."""

import json
import shutil

import pytest
from test_sequence_tables import FORGETS, sequence
from test_tables import COMMANDS, cell, table, text_cell

from craft_trainer.files import checked, write_json
from craft_trainer.suites.runs import read_runs


@pytest.fixture
def raw(tmp_path):
    for seed in (0, 1):
        cell(tmp_path, "plain", seed, (0, 0, 4))
        cell(tmp_path, "craft", seed, (4, 4, 4))
    return tmp_path


def changed(path, **content):
    """Write the raw result in ``path`` anew with this ``content``, and a checksum that fits."""
    write_json(path, checked(json.loads(path.read_text()) | content))


@pytest.mark.parametrize("copy", ["one/craft/seed1 (copy).json", "one/craft/seed3.json", "other/one/craft/seed1.json"])
def test_a_copy_of_a_raw_result_is_refused(raw, copy):
    """Seen to fail: three seeds, the interval of 24 episodes for 16, and a pair counted twice."""
    (raw / "tiny" / copy).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(raw / "tiny/one/craft/seed1.json", raw / "tiny" / copy)
    with pytest.raises(ValueError, match="are both the result of craft on the stream one with the seed 1") as refused:
        table(raw, "tiny/one")
    for path in ("one/craft/seed1.json", copy):
        assert str(raw / "tiny" / path) in str(refused.value)


def test_a_method_that_is_called_like_another_with_its_budget_is_refused(raw):
    cell(raw, "craft", 0, (4, 4, 4), budget=20)
    cell(raw, "craft-20", 1, (4, 4, 4))
    changed(raw / "tiny/one/craft-20/seed0.json", commands=COMMANDS)
    assert {run.method for run in read_runs(raw, "tiny")} == {"plain", "craft", "craft-20"}
    path = raw / "tiny/one/craft-20/seed1.json"
    changed(path, seed=0)
    with pytest.raises(ValueError, match="are both the result of craft-20 on the stream one with the seed 0"):
        read_runs(raw, "tiny")


def test_a_result_of_another_suite_is_refused(raw):
    shutil.copytree(raw / "tiny", raw / "large")
    with pytest.raises(ValueError, match=r"large/one/.*\.json is a result of the suite tiny, not of large"):
        read_runs(raw, "large")


def test_results_of_a_changed_stream_are_refused(raw):
    """Seen to fail: old tasks of one run were new ones of the other, in one column."""
    path = raw / "tiny/one/craft/seed1.json"
    changed(path, tasks={"old": ["a"], "new": ["b", "c"]})
    with pytest.raises(ValueError, match=r"their tasks differ .*changed stream or suite a name of its own") as refused:
        table(raw, "tiny/one")
    assert str(path) in str(refused.value)
    assert str(raw / "tiny/one/craft/seed0.json") in str(refused.value)


def test_results_of_other_evaluations_are_refused(raw):
    path = raw / "tiny/one/craft/seed1.json"
    rows = json.loads(path.read_text())["evaluations"]["score"]["rows"]
    changed(path, evaluations={"before": {"rows": [rows[0] | {"task": "z"}]}, "score": {"rows": rows}})
    with pytest.raises(ValueError, match=r"their evaluations differ \(\['score'\] and \['before', 'score'\]\)"):
        read_runs(raw, "tiny")


def commands(seed, **settings):
    """Those of a cell whose seed is in a folder, in an option of its own and in another."""
    student = ["train", "--seed", str(seed), "--split", f"train[{seed}:]", "--output_dir", f"one/seed{seed}/student"]
    student += [f"--{name} {value}" for name, value in settings.items()]
    return [["record", "--output_dir", "one/data"], student]


def test_seeds_of_one_method_with_other_settings_are_refused(raw):
    """Seen to fail: seeds of 800 and of 900 steps were averaged."""
    first, second = (raw / f"tiny/one/craft/seed{seed}.json" for seed in (0, 1))
    changed(first, commands=commands(0, max_steps=800), label="as it was called then")
    changed(second, commands=commands(1, max_steps=800))
    assert len(read_runs(raw, "tiny")) == 4  # words and seeds may differ
    changed(second, commands=commands(1, max_steps=900))
    with pytest.raises(ValueError, match=r"other settings \(max_steps 800 and max_steps 900\)") as refused:
        read_runs(raw, "tiny")
    assert str(first) in str(refused.value)
    assert str(second) in str(refused.value)
    changed(first, commands=commands(0, max_steps=80))
    changed(second, commands=commands(1, max_steps=8))
    with pytest.raises(ValueError, match=r"other settings \(max_steps 80 and max_steps 8\)"):
        read_runs(raw, "tiny")  # seen to fail with the digits of the seed left out of every number
    changed(first, commands=commands(0, max_steps=800))
    changed(second, commands=[*commands(1, max_steps=800), ["rollout", "--output", "s"]])
    with pytest.raises(ValueError, match=r"were made by other settings \("):
        read_runs(raw, "tiny")


def test_a_task_that_was_evaluated_twice_is_refused(tmp_path):
    """Seen to fail: the first of the two was lost."""
    sequence(tmp_path, "long", "plain", FORGETS)
    path = tmp_path / "row/long/plain/seed0.json"
    content = json.loads(path.read_text())
    content["evaluations"]["score2"]["rows"].append({"task": "a", "episodes": 4, "successes": 4})
    changed(path, **content)
    with pytest.raises(ValueError, match=r"seed0.json: evaluations.score2.rows has a task twice"):
        read_runs(tmp_path, "row")


def test_texts_of_which_other_things_were_measured_are_refused(tmp_path):
    """Seen to fail: a row with fewer cells than the table has columns."""
    text_cell(tmp_path, "plain", 0, [2.0, 1.5], [-1, 0], [-0.4, 0.0])
    text_cell(tmp_path, "start", 0, [2.0, 1.5], [-1, 0], [-0.4, 0.0])
    path = tmp_path / "texts/one/start/seed0.json"
    content = json.loads(path.read_text())
    changed(path, evaluations=content["evaluations"] | {"asked": {"loss": 1.0}})
    with pytest.raises(ValueError, match=r"start/seed0.json do not have the same columns \(.*asked: loss\): choose"):
        table(tmp_path, "texts/one")


def test_losses_of_other_rows_are_not_averaged(tmp_path):
    """Seen to fail: rows of the second seed were weighted by the tokens of the first."""
    for seed, tokens in ((0, [1, 9]), (1, [9, 1])):
        text_cell(tmp_path, "plain", seed, [2.0, 1.5], [-1, 0], [-0.4, 0.0])
        path = tmp_path / f"texts/one/plain/seed{seed}.json"
        general = {"loss": 1.0, "compare_loss": 1.5, "row_losses": [1.0, 1.0], "compare_row_losses": [1.0, 2.0]}
        evaluations = json.loads(path.read_text())["evaluations"]
        changed(path, evaluations=evaluations | {"general": general | {"row_tokens": tokens}})
    with pytest.raises(ValueError, match=r"seed0.json and .*seed1.json: general was measured on other rows"):
        table(tmp_path, "texts/one")


@pytest.mark.parametrize(
    "head", ["tiny against plain of plain, late", "tiny against plain of plain", "tiny seconds of timeless"]
)
def test_a_table_without_rows_is_refused(tmp_path, head):
    """Seen to fail: a head alone, and a page that was written."""
    cell(tmp_path, "plain", 0, (0, 0, 4))
    cell(tmp_path, "late", 1, (0, 0, 4))
    cell(tmp_path, "timeless", 0, (0, 0, 4))
    changed(tmp_path / "tiny/one/timeless/seed0.json", seconds={}, commands=COMMANDS)
    with pytest.raises(ValueError, match="no raw result has what this table shows: leave the block out"):
        table(tmp_path, head)


@pytest.mark.parametrize(
    ("option", "template"), [("dataset", "data/fold{seed}.jsonl"), ("data_seed", "10{seed}"), ("split", "t[{seed}0%:]")]
)
def test_a_setting_that_is_filled_with_the_seed_is_the_same(option, template, raw):
    """The suite's words tell. Seen to fail: made by other settings (dataset data/fold0.jsonl and data/fold1.jsonl)."""
    for seed in (0, 1):
        student = ["train", f"--{option}"]
        words = {"commands": [[*student, template.replace("{seed}", str(seed))]], "templates": [[*student, template]]}
        changed(raw / f"tiny/one/craft/seed{seed}.json", **words)
    assert len(read_runs(raw, "tiny")) == 4
    changed(raw / "tiny/one/craft/seed1.json", templates=[["train", f"--{option}", "other{seed}"]])
    with pytest.raises(ValueError, match=r"were made by other settings \("):
        read_runs(raw, "tiny")
