"""Pushes of a run whose Hub is a stub: only the main process makes any, and each is told if it fails."""

import time

import pytest
import toy
from peft import LoraConfig, get_peft_model
from runs import BASE
from tiny_lm import TokenTask, collate, tiny_llama

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.hub.hub_trainer import PushError
from craft_trainer.hub.repository import Repository


@pytest.fixture
def commits(monkeypatch):
    """What is committed instead of being sent: (message, names)."""
    made = []
    monkeypatch.setattr(Repository, "opened", lambda self: self)
    monkeypatch.setattr(
        Repository, "commit", lambda self, files, message, replaces: made.append((message, sorted(files)))
    )
    return made


def trained(folder, kind=CraftTrainer, **changes):
    settings = BASE | {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "hub_always_push": True} | changes
    config = CraftConfig(output_dir=str(folder), push_to_hub=True, hub_model_id="org/toy", **settings)
    trainer = kind(toy.ToyModel(), config, anchors=None, train_dataset=toy.ToyTask())
    trainer.train()
    return trainer


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_another_process_pushes_nothing(tmp_path, commits, monkeypatch, strategy):
    """Seen to fail without the question in push_to_hub and in _push_from_checkpoint."""

    class OfAnotherProcess(CraftTrainer):
        def is_world_process_zero(self):
            return False

    def never(self):
        raise AssertionError("only the main process may make a repository")

    monkeypatch.setattr(Repository, "opened", never)
    trainer = trained(tmp_path, OfAnotherProcess, hub_strategy=strategy)
    trainer.save_model()
    assert commits == []
    trainer.require_pushed()


def test_the_main_process_pushes_every_save_and_the_end(tmp_path, commits):
    trainer = trained(tmp_path, hub_strategy="all_checkpoints")
    trainer.save_model()
    saves = [f"Training in progress, step {step}" for step in (1, 2)]
    assert [message for message, _ in commits] == [*saves, "Model save"]
    assert [name for name in commits[1][1] if name.startswith("checkpoint-")] != []
    assert all(name.split("/")[0] == "checkpoint-2" for name in commits[1][1] if "/" in name)
    assert not list(tmp_path.glob("_push-*"))


def test_a_base_that_only_this_machine_has_is_told_once(tmp_path, commits, caplog):
    """Of an adapter; seen to fail without the look at the first push."""
    settings = BASE | {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "hub_always_push": True}
    config = CraftConfig(output_dir=str(tmp_path / "run"), push_to_hub=True, hub_model_id="org/toy", **settings)
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    model.get_base_model().config.save_pretrained(tmp_path / "teacher")  # PEFT looks for it
    model.active_peft_config.base_model_name_or_path = str(tmp_path / "teacher")
    CraftTrainer(model, config, anchors=None, train_dataset=TokenTask(), data_collator=collate).train()
    assert len(commits) == 2
    (told,) = [text for text in caplog.messages if "is a folder of this machine" in text]
    assert "the base of this adapter, teacher, is a folder" in told


def test_a_push_is_judged_when_it_has_ended(tmp_path, commits, monkeypatch):
    """Seen to fail with the error of the Hub itself: the push was on its way, and taken for one that had arrived."""

    def refused(self, files, message, replaces):
        time.sleep(0.2)
        raise PermissionError("org/toy: the Hub answered 403")

    trainer = trained(tmp_path, hub_strategy="end")
    monkeypatch.setattr(Repository, "commit", refused)
    with pytest.raises(PushError, match=r"(?s)1 of 1 pushes.*answered 403.*craft-trainer push --run"):
        trainer.push_to_hub()


def test_without_anchors_the_card_says_so(tmp_path, commits):
    trained(tmp_path, hub_strategy="end").save_model()
    card = (tmp_path / "README.md").read_text()
    assert "by the method plain, nothing retained" in card
    assert "The constraint at the end" not in card


def test_an_error_of_the_training_tells_the_pushes_that_failed(tmp_path, monkeypatch):
    """As a note of the error, which the command prints. Seen to fail without the note."""

    def refuse(self, files, message, replaces):
        raise PermissionError("org/toy: the Hub answered 403")

    class Fails(CraftTrainer):
        def training_step(self, *arguments, **keywords):
            if self.state.global_step == 1:
                self._finish_current_push()
                raise FloatingPointError("not finite")
            return super().training_step(*arguments, **keywords)

    monkeypatch.setattr(Repository, "opened", lambda self: self)
    monkeypatch.setattr(Repository, "commit", refuse)
    with pytest.raises(FloatingPointError) as raised:
        trained(tmp_path, Fails, hub_strategy="every_save")
    assert "1 of 1 pushes to the Hub failed" in raised.value.__notes__[0]
    assert f"craft-trainer push --run {tmp_path}" in raised.value.__notes__[0]


def test_the_end_raises_what_is_missing(tmp_path, commits, monkeypatch):
    trainer = trained(tmp_path, hub_strategy="end")

    def drop(self, files, message, replaces):
        raise ConnectionError("org/toy: the connection failed")

    monkeypatch.setattr(Repository, "commit", drop)
    with pytest.raises(PushError, match=r"1 of 1 pushes .*(?s:.*)craft-trainer push --run"):
        trainer.save_model()
    assert (tmp_path / "model.safetensors").is_file()
