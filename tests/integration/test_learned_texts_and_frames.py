"""``train`` on the data that the anchors are of: refused with the way out, or asked for."""

import pytest
from command_words import flags
from lm_folders import save_lines, save_tiny_lm

from craft_trainer.cli.main import main

RUN = {"max_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
FORBIDS = "anchors have the inputs that are to be learned, so holding the teacher's answers to them"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, its old texts, a part of those, and others."""
    folder = tmp_path_factory.mktemp("texts")
    save_tiny_lm(folder / "model")
    old = [{"text": f"hello world, the answer is {number} " + "yes " * (number % 5)} for number in range(20)]
    new = [{"text": f"where is the puck {number}?"} for number in range(20)]
    for name, rows in (("old", old), ("part", old[:15]), ("few", old[:4] + new), ("new", new)):
        save_lines(folder / f"{name}.jsonl", rows)
    for name, source in (("anchors", {}), ("references", {"inputs": "reference"})):
        given = {"teacher": folder / "model", "dataset": folder / "old.jsonl", "output_dir": folder / name}
        assert main(["cache", "build", *flags(**given, anchors=20, batch_size=4, **source)]) == 0
    return folder


def learn(place, name, folder, **options):
    given = {"model": place / "model", "dataset": place / f"{name}.jsonl", "output_dir": folder}
    return main(["train", *flags(**given | RUN | options)])


@pytest.mark.parametrize(
    ("name", "anchors", "count"), [("old", "anchors", 20), ("old", "references", 20), ("part", "anchors", 15)]
)
def test_texts_that_are_learned_are_refused_as_anchors(place, name, anchors, count, tmp_path, capsys):
    """The whole of them by their fingerprint, a part of them by its tokens."""
    held = {"anchors": place / anchors, "epsilon": 1e-6}
    assert learn(place, name, tmp_path / "run", **held) == 1
    error = capsys.readouterr().err
    assert f"{count} of 20 {FORBIDS} (token_kl) forbids learning the new ones" in error
    assert "set learned_inputs: allow" in error
    assert learn(place, name, tmp_path / "run", **held, learned_inputs="allow") == 0


def test_other_texts_are_no_concern_and_a_few_only_if_epsilon_has_no_room(place, tmp_path, capsys):
    held = {"anchors": place / "anchors", "epsilon": 1e-6}
    assert learn(place, "new", tmp_path / "new", **held) == 0
    assert learn(place, "few", tmp_path / "few", **held) == 1
    assert f"4 of 20 {FORBIDS}" in capsys.readouterr().err
    assert learn(place, "few", tmp_path / "few", **held | {"epsilon": 100.0}) == 0


def test_a_base_without_its_adapter_is_held_on_other_texts_than_those_that_are_learned(place, tmp_path, capsys):
    live = {"anchors": "adapter", "lora_rank": 2}
    assert learn(place, "old", tmp_path / "same", **live, anchors_dataset=place / "old.jsonl") == 1
    assert f"20 of 20 {FORBIDS}" in capsys.readouterr().err
    assert learn(place, "old", tmp_path / "other", **live, anchors_dataset=place / "new.jsonl") == 0


def test_frames_that_are_learned_are_refused_as_anchors(tiny_policy, tiny_dataset, tmp_path, capsys, monkeypatch):
    """From `cache build` of either source; under old instructions they are other inputs of a policy that reads them."""
    monkeypatch.setattr("craft_trainer.anchors.trial.reads_instructions", lambda *_: True)
    tiny_policy().save_pretrained(tmp_path / "teacher")
    (tmp_path / "old.txt").write_text("open the drawer\nclose it\n")
    for source, more, status in (
        ("dataset", {}, 1),
        ("new_task", {}, 1),
        ("new_task", {"prompts_file": tmp_path / "old.txt"}, 0),
    ):
        folder = tmp_path / f"{source}-{len(more)}"
        given = {"teacher": tmp_path / "teacher", "dataset": tiny_dataset, "output_dir": folder, "source": source}
        assert main(["cache", "build", *flags(**given, anchors=12, **more)]) == 0
        run = RUN | {"model": tmp_path / "teacher", "dataset": tiny_dataset, "anchors": folder}
        assert main(["train", *flags(**run, output_dir=f"{folder}-run")]) == status
        assert (f"12 of 12 {FORBIDS} (output)" in capsys.readouterr().err) is (status == 1)
