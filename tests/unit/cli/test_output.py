"""Whose ``output_dir`` is."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from craft_trainer.cli.output import claimed_output, save_and_push
from craft_trainer.training.config import CraftConfig

STEPS = 100


def config(folder, **settings):
    return CraftConfig(output_dir=str(folder), use_cpu=True, report_to="none", **settings)


def claim_output(config):
    with claimed_output(config) as checkpoint:
        return checkpoint


def write_checkpoint(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    state = {"global_step": step, "epoch": 2.0 * step / STEPS, "max_steps": STEPS}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({}, checkpoint / name)
    return checkpoint


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"hub_model_id": "me/run"}, "push_to_hub is not true"),
        ({"hub_strategy": "end"}, "push_to_hub is not true"),
        ({"hub_token": "hf_x"}, "push_to_hub is not true"),
        ({"hub_private_repo": True}, "push_to_hub is not true"),
        ({"hub_always_push": True}, "push_to_hub is not true"),
        ({"hub_revision": "trial"}, "push_to_hub is not true"),
        ({"hub_strategy": "checkpoint", "push_to_hub": True, "save_strategy": "no"}, "save_strategy is no"),
        ({"hub_always_push": True, "push_to_hub": True, "save_strategy": "no"}, "save_strategy is no"),
        ({"hub_always_push": True, "push_to_hub": True, "hub_strategy": "end"}, "hub_strategy is end"),
    ],
)
def test_a_setting_of_a_push_without_effect_is_refused(tmp_path, given, reason):
    """Seen to fail: the run ended well, and nothing, or no checkpoint, was on the Hub."""
    with pytest.raises(ValueError, match=rf"^{next(iter(given))} has no effect here: .*{reason}.*\. Leave it out"):
        claim_output(config(tmp_path / "run", **given))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"push_to_hub": True, "hub_strategy": "end", "save_strategy": "no"},
        {"push_to_hub": True, "hub_strategy": "all_checkpoints", "hub_always_push": True, "save_steps": 2},
    ],
)
def test_a_setting_of_a_push_with_an_effect_is_accepted(tmp_path, given):
    assert claim_output(config(tmp_path / "run", **given)) is None


@pytest.fixture
def run(tmp_path):
    """The folder of a run of 100 steps and 2 epochs that was killed at its end, with checkpoints at 20 and 100."""
    folder = tmp_path / "run"
    for step in (20, STEPS):
        write_checkpoint(folder, step)
    (folder / "model.safetensors").write_text("")
    return folder


@pytest.mark.parametrize(
    "content", [(), ("run.json", "lambda_history.csv"), ("statistics.safetensors", "config.json", "mine.safetensors")]
)
def test_a_folder_without_a_model_is_free(tmp_path, content):
    """The third has what is in a cache's folder. Seen to fail with every safetensors file taken for a model."""
    for name in content:
        (tmp_path / name).write_text("{}")
    assert claim_output(config(tmp_path)) is None


@pytest.mark.parametrize(
    "left",
    [
        *("model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        *("adapter_model.safetensors", "pytorch_model.bin", "checkpoint-5"),
    ],
)
def test_a_folder_with_a_run_is_not(tmp_path, left):
    """Seen to fail with the weights left out, and with the checkpoints left out."""
    (tmp_path / left).mkdir() if left.startswith("checkpoint") else (tmp_path / left).write_text("")
    with pytest.raises(
        FileExistsError, match=f"holds a run already \\({left}\\): give another --output_dir, or delete"
    ):
        claim_output(config(tmp_path))


def test_a_run_that_can_go_on_is_said_to(run):
    """Seen to fail with the advice left out."""
    with pytest.raises(FileExistsError, match="go on with it by --resume_from_checkpoint last, or delete"):
        claim_output(config(run))


def test_only_the_main_process_looks(run, monkeypatch):
    """Another one may come after the main process has written something. Seen to fail with every process looking."""
    monkeypatch.setattr(CraftConfig, "process_index", 1)
    assert claim_output(config(run)) is None


@pytest.mark.parametrize("word", ["last", "true", "True"])
def test_the_newest_checkpoint_is_gone_on_with(run, word):
    """By number: 100 comes after 20. Seen to fail with them sorted by name."""
    assert claim_output(config(run, resume_from_checkpoint=word, max_steps=101)) == str(run / "checkpoint-100")


@pytest.mark.parametrize("name", ["trainer_state.json", "optimizer.pt", "scheduler.pt"])
def test_a_checkpoint_that_was_being_written_is_passed_over(run, caplog, name):
    """Seen to fail without the look for the file."""
    (run / "checkpoint-100" / name).unlink()
    assert claim_output(config(run, resume_from_checkpoint="last", max_steps=101)) == str(run / "checkpoint-20")
    assert f"passed over: {run}/checkpoint-100 is not whole: {name} is missing" in caplog.text


@pytest.mark.parametrize("left", ["run.json", ".in-use", ".saving"])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path, caplog, left):
    """So a restart by the same command is not in vain."""
    (tmp_path / left).mkdir() if left == ".saving" else (tmp_path / left).write_text("")
    assert claim_output(config(tmp_path, resume_from_checkpoint="last")) is None
    assert "ended before its first checkpoint was whole: it begins anew" in caplog.text


def test_going_back_is_allowed_and_what_is_later_named(run, caplog):
    """Seen to fail without the warning."""
    again = str(run / "checkpoint-20")
    assert claim_output(config(run, resume_from_checkpoint=again, max_steps=STEPS)) == again
    assert "checkpoint-20 goes on; checkpoint-100 stay" in caplog.text


def test_a_checkpoint_of_elsewhere_needs_a_folder_of_its_own(run, tmp_path):
    """Weights of one kind would be added to those of another. Seen to fail with the folder not looked at."""
    other = str(write_checkpoint(tmp_path / "other", 7))
    with pytest.raises(FileExistsError, match="holds a run already"):
        claim_output(config(run, resume_from_checkpoint=other, max_steps=STEPS))
    assert claim_output(config(tmp_path / "new", resume_from_checkpoint=other, max_steps=STEPS)) == other


def test_false_is_a_run_from_the_beginning(tmp_path):
    assert claim_output(config(tmp_path, resume_from_checkpoint="false")) is None


@pytest.mark.parametrize(
    ("settings", "knob"), [({"max_steps": STEPS}, "max_steps"), ({"num_train_epochs": 2}, "num_train_epochs")]
)
def test_a_run_that_has_ended_does_not_go_on(run, settings, knob):
    """Seen to fail with ``>`` for ``>=``. One that was killed before its model was whole does, to write it."""
    assert claim_output(config(run, resume_from_checkpoint="last", **settings)) == str(run / "checkpoint-100")
    (run / "trainer_state.json").write_text("{}")
    for word in ("last", str(run / "checkpoint-100")):
        with pytest.raises(ValueError, match=f"has ended, at optimizer step 100.*raise {knob}"):
            claim_output(config(run, resume_from_checkpoint=word, **settings))
    longer = {name: value + 1 for name, value in settings.items()}
    assert claim_output(config(run, resume_from_checkpoint="last", **longer)) == str(run / "checkpoint-100")


def test_there_is_nothing_to_go_on_with(tmp_path):
    """Each message leads on, not back to the other. Seen to fail with one way out for both."""
    with pytest.raises(ValueError, match=r"holds no whole checkpoint-\*: drop it to start"):
        claim_output(config(tmp_path, resume_from_checkpoint="true"))
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(ValueError, match=r"holds no whole checkpoint-\*: start again in another folder"):
        claim_output(config(tmp_path, resume_from_checkpoint="true"))
    with pytest.raises(FileNotFoundError, match="checkpoint-7"):
        claim_output(config(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-7")))


@pytest.mark.parametrize("pushes", [False, True])
@pytest.mark.parametrize("saves", [True, False])
def test_the_state_is_written_when_the_model_is_there(tmp_path, saves, pushes):
    """Suites take it for the sign that a run is whole. Seen to fail the other way round, without the check, and with a
    push, which came after the state and saved the model."""
    done, model = [], torch.nn.Linear(2, 1)

    def save_model(_internal_call):
        assert _internal_call  # or Trainer pushes it
        done.append("model")
        if saves:
            save_file(model.state_dict(), tmp_path / "model.safetensors")

    trainer = SimpleNamespace(
        args=SimpleNamespace(push_to_hub=pushes, output_dir=str(tmp_path)),
        push_to_hub=lambda: done.append("push"),
        hub_model_id="me/run",
        is_world_process_zero=lambda: True,
        model=model,
        accelerator=Accelerator(cpu=True),
        save_model=save_model,
        save_state=lambda: done.append("state"),
    )
    with (
        nullcontext() if saves else pytest.raises(RuntimeError, match=f"saved in {tmp_path} cannot be loaded: No such")
    ):
        save_and_push(trainer)
    assert done == (["model", "state", *(["push"] if pushes else [])] if saves else ["model"])
