"""Cells that run, by a command that writes files instead of training: raw results, a second call, refusals."""

import json
import os
import shutil
import subprocess
from copy import deepcopy
from dataclasses import replace

import pytest
from pretending import pretend
from test_suite import STORY

from craft_trainer.suites import running
from craft_trainer.suites.expansion import Step, cells
from craft_trainer.suites.running import open_work, run_work
from craft_trainer.suites.suite import Suite


def suite_of(**methods):
    content = deepcopy(STORY) | {"streams": {"one": STORY["streams"]["one"]}, "seeds": [0], "budgets": [20]}
    return Suite.of("story", content | {"methods": methods or {"plain": {}, "craft": STORY["methods"]["replay"]}})


def go(suite, tmp_path):
    folder, raw = tmp_path / "work", tmp_path / "raw"
    work = open_work(suite, cells(suite), folder, raw)
    run_work(suite, work, folder, execute=pretend, num_workers=2)
    return {path.relative_to(raw).as_posix(): json.loads(path.read_text()) for path in sorted(raw.rglob("*.json"))}


def ran(tmp_path):
    return (tmp_path / "work/ran").read_text().splitlines()


def test_every_cell_leaves_one_raw_file_with_what_decides_it(tmp_path):
    found = go(suite_of(), tmp_path)
    assert list(found) == ["story/one/craft-20/seed0.json", "story/one/plain/seed0.json"]
    raw = found["story/one/craft-20/seed0.json"]
    assert (raw["suite"], raw["stream"], raw["method"], raw["budget"], raw["seed"]) == (
        "story",
        "one",
        "craft-20",
        20,
        0,
    )
    assert raw["tasks"] == STORY["streams"]["one"]
    assert raw["evaluations"]["score"]["rows"][0]["outcomes"] == "10"
    assert raw["machine"]["versions"]["torch"]
    assert set(raw["seconds"]) == {"old_data", "teacher", "new_data", "anchors", "student", "score"}
    assert not any(str(tmp_path) in word for argv in raw["commands"] for word in argv)
    assert len(ran(tmp_path)) == 3 + 1 + 2 + 2  # data twice, teacher; anchors; two students, two scores


def test_a_finished_cell_is_never_run_again_and_an_unfinished_one_goes_on(tmp_path):
    go(suite_of(), tmp_path)
    before = ran(tmp_path)
    assert open_work(suite_of(), cells(suite_of()), tmp_path / "work", tmp_path / "raw") == []
    (tmp_path / "raw/story/one/plain/seed0.json").unlink()  # ended between the last command and its raw file
    assert len(go(suite_of(), tmp_path)) == 2
    assert ran(tmp_path) == before
    (tmp_path / "raw/story/one/plain/seed0.json").unlink()
    (tmp_path / "work/one/seed0/score.json").unlink()
    (tmp_path / "work/one/seed0/student/trainer_state.json").unlink()  # killed while it trained
    assert len(go(suite_of(), tmp_path)) == 2
    assert [line.split()[0] for line in ran(tmp_path)[len(before) :]] == ["train", "rollout"]


def test_a_cell_whose_settings_changed_is_refused_and_a_new_method_is_not(tmp_path):
    go(suite_of(plain={}), tmp_path)
    with pytest.raises(ValueError, match=r"by other settings \(then .*, now --epochs 2 .*\).*new name"):
        go(suite_of(plain={"student": {"epochs": 2}}), tmp_path)
    assert len(go(suite_of(plain={}, longer={"student": {"epochs": 2}}), tmp_path)) == 2


def test_outputs_of_other_settings_or_another_commit_are_refused(tmp_path, monkeypatch):
    go(suite_of(plain={}), tmp_path)
    (tmp_path / "raw/story/one/plain/seed0.json").unlink()
    changed = suite_of(plain={})
    changed.commands["old_data"]["episodes"] = 7
    with pytest.raises(ValueError, match=r"old_data had .*then --episodes 5, now --episodes 7.*another --output"):
        go(changed, tmp_path)
    monkeypatch.setattr(running, "commit", lambda: "abc")
    with pytest.raises(ValueError, match="this is abc: go on with that one"):
        go(suite_of(plain={}), tmp_path)


def test_files_that_changed_under_one_name_are_refused(tmp_path):
    """Seen to fail: seeds of one table were asked different questions, or trained on different data."""
    questions, data = tmp_path / "q.jsonl", tmp_path / "data"
    data.mkdir()
    questions.write_text("one")
    (data / "1.parquet").write_text("one")
    asked = suite_of(plain={"student": {"dataset": str(data)}})
    asked.commands["old_data"]["data"] = str(questions)
    go(asked, tmp_path)
    for file, refused in ((questions, questions), (data / "2.parquet", data)):
        file.write_text("two")
        shutil.rmtree(tmp_path / "raw", ignore_errors=True)  # which would be refused first: test_inputs.py
        with pytest.raises(ValueError, match=f"{refused} has changed since .* was begun: choose another --output"):
            go(replace(asked, seeds=[0, 1]), tmp_path)
        file.unlink() if file.parent == data else file.write_text("one")
    assert len(go(replace(asked, seeds=[0, 1]), tmp_path)) == 2


def test_two_states_between_commits_are_told_apart(tmp_path, monkeypatch):
    """Seen to fail: both were the commit with a +. So are files that git does not know yet."""
    package = tmp_path / "package"
    (package / "suites").mkdir(parents=True)
    file = package / "suites/running.py"
    file.write_text("one")
    author = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b.c",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a",
    }
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", "-C", package, *words], check=True, env=os.environ | author)
    monkeypatch.setattr(running, "__file__", str(file))
    clean = running.commit()
    found = {clean}
    for changed, text in ((file, "two"), (file, "three"), (package / "new.py", "one"), (package / "new.py", "two")):
        changed.write_text(text)
        found.add(running.commit())
        assert running.commit() in found
    assert len(found) == 5
    assert all(one.startswith(clean) for one in found)
    (package / "new.py").unlink()
    file.write_text("one")
    assert running.commit() == clean


def test_a_stream_that_changed_is_refused_where_no_command_shows_it(tmp_path):
    """Seen to fail: the cell was finished, and its raw result told of other old tasks."""
    go(suite_of(plain={}), tmp_path)
    changed = suite_of(plain={})
    changed.streams["one"]["steps"] = [50, 100]
    with pytest.raises(ValueError, match=r"plain/seed0.json was made by other settings \(then tasks ") as refused:
        go(changed, tmp_path)
    refused.match(r"now .*'steps': \[50, 100\].*changed method plain, the changed stream one or the suite a new name")


def test_evaluations_that_changed_are_refused_where_no_command_shows_it(tmp_path):
    """Seen to fail: the raw results of one stream did not have the same evaluations."""
    go(suite_of(plain={}), tmp_path)
    changed = replace(suite_of(plain={}), evaluations=["student", "score"])
    with pytest.raises(ValueError, match=r"then evaluations \['score'\], now \['score', 'student'\]"):
        go(changed, tmp_path)


def test_cells_that_are_not_chosen_were_made_by_the_same_settings(tmp_path):
    """They stand in one table. Seen to fail: a second seed was trained by other settings, in a folder of its own."""
    go(suite_of(plain={}), tmp_path)
    changed = replace(suite_of(plain={"student": {"epochs": 2}}), seeds=[0, 1])
    chosen = [cell for cell in cells(changed) if cell.seed == 1]
    with pytest.raises(ValueError, match=r"plain/seed0.json was made by other settings .*now --epochs 2"):
        open_work(changed, chosen, tmp_path / "second", tmp_path / "raw")
    same = replace(suite_of(plain={}), seeds=[0, 1])
    assert [work.cell for work in open_work(same, chosen, tmp_path / "second", tmp_path / "raw")] == chosen


@pytest.mark.parametrize("place", ["one/seed0/craft-20/student", "one/seed0/craft-20/score.json", "one/new_data"])
def test_an_output_of_unknown_settings_is_neither_used_nor_deleted(place, tmp_path):
    """Seen to fail: what lay there was taken for finished, or deleted as if it were unfinished."""
    (tmp_path / "work" / place).mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"{place} is there already, and .*commands.json does not say by which"):
        go(suite_of(), tmp_path)
    assert (tmp_path / "work" / place).exists()
    assert not (tmp_path / "work/ran").exists()


def test_a_folder_that_another_method_has_begun_goes_on(tmp_path):
    go(suite_of(plain={}), tmp_path)
    before = ran(tmp_path)
    assert len(go(suite_of(), tmp_path)) == 2
    assert [line.split()[0] for line in ran(tmp_path)[len(before) :]] == ["cache", "train", "rollout"]
    (tmp_path / "raw/story/one/plain/seed0.json").unlink()
    (tmp_path / "work/commands.json").unlink()
    with pytest.raises(ValueError, match=r"is there already, and .*commands.json does not say by which settings"):
        go(suite_of(), tmp_path)


def test_a_failure_stops_what_needs_it_alone(tmp_path):
    suite = suite_of(agem={"student": {"method": "agem"}}, plain={})
    with pytest.raises(RuntimeError, match=r"one-seed0-agem-student ended with status 3(.|\n)*no gradient"):
        go(suite, tmp_path)
    assert (tmp_path / "raw/story/one/plain/seed0.json").is_file()
    assert not (tmp_path / "raw/story/one/agem").exists()


def test_of_a_comparison_every_question_keeps_its_change(tmp_path):
    before = [{"id": "a", "correct": True, "margin_gold": 0.5}, {"id": "b", "correct": False, "margin_gold": -0.25}]
    after = [{"id": "b", "correct": True, "margin_gold": 0.25}, {"id": "a", "correct": True, "margin_gold": 0.25}]
    document = {"items": [*before, {"id": "c", "correct": True, "margin_gold": 1.0}], "compare": {"items": after}}
    result = tmp_path / "asked.json"
    result.write_text(json.dumps(document | {"comparison": {"num_items": 2}, "sha256": "of all this"}))
    kept = running._read(Step("asked", ("mcq",), result, result, (), frozenset()))
    assert kept == {"comparison": {"num_items": 2}, "changes": {"correct": [0, 1], "margin_gold": [-0.25, 0.5]}}


def test_of_a_loss_every_row_is_kept(tmp_path):
    result = tmp_path / "general.json"
    found = {"model": "m", "loss": 1.0, "row_losses": [1.0], "row_tokens": [3]}
    result.write_text(json.dumps(found | {"sha256": "of all this"}))
    assert running._read(Step("general", ("loss",), result, result, (), frozenset())) == found
