"""What a suite reads from outside it: the same for all raw results of a table, wherever the suite ran."""

import importlib
import json
import pkgutil
import shutil
from copy import deepcopy

import pytest
from pretending import pretend
from test_suite import STORY

from craft_trainer import cli
from craft_trainer.suites.expansion import cells
from craft_trainer.suites.running import open_work, run_work
from craft_trainer.suites.runs import read_runs
from craft_trainer.suites.suite import Suite


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """It reads a folder and a file of the working folder, ``teacher`` and ``c.yaml``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/weights").write_text("one")
    (tmp_path / "c.yaml").write_text("learning_rate: 1.0e-3\n")
    content = deepcopy(STORY) | {"streams": {"one": STORY["streams"]["one"]}, "methods": {"plain": {}}}
    content["commands"]["student"] |= {"model": "teacher", "config": "c.yaml", "policy_type": "act"}
    return Suite.of("story", content)


def go(suite, folder, seed, raw):
    """Run the cell of one seed; its raw result."""
    chosen = [cell for cell in cells(suite) if cell.seed == seed]
    work = open_work(suite, chosen, folder / "work", raw)
    run_work(suite, work, folder / "work", execute=pretend, num_workers=1)
    return json.loads((raw / f"story/one/plain/seed{seed}.json").read_text())


@pytest.mark.parametrize("place", ["teacher/weights", "c.yaml"])
def test_seeds_that_read_other_content_are_refused(place, suite, tmp_path):
    """Seen to fail: with another --output both stood in one table, seed 1 with another teacher or learning rate."""
    raw = tmp_path / "raw"
    before = (tmp_path / place).read_text()
    go(suite, tmp_path / "w1", 0, raw)
    (tmp_path / place).write_text("learning_rate: 1.0e-6\n")
    name = place.partition("/")[0]
    with pytest.raises(ValueError, match=rf"seed0.json was made from {name}, which has changed since: restore it, put"):
        go(suite, tmp_path / "w2", 1, raw)
    assert not (tmp_path / "w2").exists()
    go(suite, tmp_path / "w3", 1, tmp_path / "others")
    shutil.copy(tmp_path / "others/story/one/plain/seed1.json", raw / "story/one/plain/seed1.json")
    with pytest.raises(ValueError, match=rf"seed0.json and .*seed1.json both read {name}, which was changed between"):
        read_runs(raw, "story")
    (tmp_path / place).write_text(before)
    shutil.rmtree(tmp_path / "raw/story/one/plain")
    assert [go(suite, tmp_path / "w1", seed, raw)["seed"] for seed in (0, 1)] == [0, 1]
    assert len(read_runs(raw, "story")) == 2


def test_digests_are_of_the_content_and_not_of_the_place(suite, tmp_path, monkeypatch):
    """The same in a copy of the working folder; and nothing that the suite makes is among them."""
    found = go(suite, tmp_path / "w1", 0, tmp_path / "raw")["inputs"]
    assert set(found) == {"teacher", "c.yaml"}
    copy = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "teacher", copy / "teacher")
    shutil.copy(tmp_path / "c.yaml", copy)
    monkeypatch.chdir(copy)
    assert go(suite, copy, 1, tmp_path / "raw")["inputs"] == found
    assert len(read_runs(tmp_path / "raw", "story")) == 2


def test_a_file_for_every_seed(suite, tmp_path):
    """Seen to fail: all was run, and then refused as made by other settings (dataset fold0.jsonl and fold1.jsonl)."""
    suite.commands["student"].update(dataset="fold{seed}.jsonl", data_seed="10{seed}")
    read = []
    for seed in (0, 1):
        (tmp_path / f"fold{seed}.jsonl").write_text(f"of seed {seed}")
        read.append(go(suite, tmp_path / "w1", seed, tmp_path / "raw").get("inputs"))
    assert len(read_runs(tmp_path / "raw", "story")) == 2
    assert [set(found) for found in read] == [{"teacher", "c.yaml", f"fold{seed}.jsonl"} for seed in (0, 1)]


@pytest.mark.parametrize("name", ["record", "train", "act", "5"])
def test_a_word_that_names_no_place_is_no_input(name, suite, tmp_path):
    """Seen to fail: a folder of the working folder that is called like a word of a command blocked the suite."""
    (tmp_path / name).mkdir()
    go(suite, tmp_path / "w1", 0, tmp_path / "raw")
    (tmp_path / name / "new").write_text("")
    assert go(suite, tmp_path / "w1", 1, tmp_path / "raw")["seed"] == 1


def test_every_place_that_a_command_reads_is_an_input():
    """The options that commands check before they load anything, and those that name several places."""
    from craft_trainer.suites.inputs import PLACES

    modules = [
        importlib.import_module(f"craft_trainer.cli.{module.name}") for module in pkgutil.iter_modules(cli.__path__)
    ]
    named = {name for module in modules for name in getattr(module, "PLACES", ())}
    assert len(named) > 10
    assert named <= set(PLACES)
