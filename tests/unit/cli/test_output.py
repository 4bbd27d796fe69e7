"""Whose ``output_dir`` is."""

import json

import pytest

from craft_trainer.cli.output import claim_output
from craft_trainer.config import CraftConfig

OF_A_RUN = ("adapter_model.safetensors", "adapter_config.json", "run.json", "trainer_state.json", "lambda_history.csv")
OF_THE_USER = ("notes.md", "results.json", "questions.jsonl")


def config(folder, **settings):
    return CraftConfig(output_dir=str(folder), use_cpu=True, report_to="none", **settings)


def finished(folder, step=20, epoch=2.0):
    """A run of 20 steps, with checkpoints at 10 and 20 and files of the user."""
    folder.mkdir()
    for name in (*OF_A_RUN, *OF_THE_USER):
        (folder / name).write_text("{}")
    for number in (10, step):
        checkpoint = folder / f"checkpoint-{number}"
        checkpoint.mkdir()
        state = {"global_step": number, "epoch": epoch * number / step, "max_steps": step}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    return folder


@pytest.mark.parametrize("content", [(), OF_THE_USER, ("run.json", "lambda_history.csv")])
def test_a_folder_without_a_model_is_free(tmp_path, content):
    for name in content:
        (tmp_path / name).write_text("{}")
    assert claim_output(config(tmp_path), None, overwrite=False) is None
    assert {path.name for path in tmp_path.iterdir()} == set(content)


@pytest.mark.parametrize(
    "left", ["model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "checkpoint-5"]
)
def test_a_folder_with_a_run_is_not(tmp_path, left):
    """Seen to fail with the weights left out, and with the checkpoints left out."""
    (tmp_path / left).mkdir() if left.startswith("checkpoint") else (tmp_path / left).write_text("")
    with pytest.raises(FileExistsError, match=f"holds a run \\({left}\\).*--overwrite_output_dir true"):
        claim_output(config(tmp_path), None, overwrite=False)


def test_an_earlier_run_is_removed_and_nothing_else(tmp_path):
    """Seen to fail with the adapter's configuration left there."""
    folder = finished(tmp_path / "run")
    assert claim_output(config(folder), str(tmp_path / "elsewhere"), overwrite=True) is None
    assert {path.name for path in folder.iterdir()} == set(OF_THE_USER)


@pytest.mark.parametrize("start", [".", "checkpoint-10"])
def test_what_a_run_starts_from_is_not_removed(tmp_path, start):
    folder = finished(tmp_path / "run")
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="is what the run starts from"):
        claim_output(config(folder), str(folder / start), overwrite=True)
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize("word", ["last", "true", "True"])
def test_the_newest_checkpoint_is_gone_on_with(tmp_path, word):
    """By number, not by name: 100 comes after 20."""
    folder = finished(tmp_path / "run", step=100)
    claimed = claim_output(config(folder, resume_from_checkpoint=word, max_steps=101), None, overwrite=False)
    assert claimed == str(folder / "checkpoint-100")


def test_false_is_a_run_from_the_beginning(tmp_path):
    assert claim_output(config(tmp_path, resume_from_checkpoint="false"), None, overwrite=False) is None


@pytest.mark.parametrize(
    ("settings", "knob"), [({"max_steps": 20}, "max_steps"), ({"num_train_epochs": 2}, "num_train_epochs")]
)
def test_a_run_that_has_ended_does_not_go_on(tmp_path, settings, knob):
    """Seen to fail with ``>`` for ``>=``, where transformers takes one step more."""
    folder = finished(tmp_path / "run")
    for word in ("last", str(folder / "checkpoint-20")):
        with pytest.raises(ValueError, match=f"has ended, at optimizer step 20.*raise {knob}"):
            claim_output(config(folder, resume_from_checkpoint=word, **settings), None, overwrite=False)
    earlier = str(folder / "checkpoint-10")
    assert claim_output(config(folder, resume_from_checkpoint=earlier, **settings), None, overwrite=False) == earlier
    longer = {name: value + 1 for name, value in settings.items()}
    assert claim_output(config(folder, resume_from_checkpoint="last", **longer), None, overwrite=False) is not None


def test_there_is_nothing_to_go_on_with(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoint"):
        claim_output(config(tmp_path, resume_from_checkpoint="true"), None, overwrite=False)
    with pytest.raises(FileNotFoundError, match="checkpoint-7"):
        claim_output(config(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-7")), None, overwrite=False)
