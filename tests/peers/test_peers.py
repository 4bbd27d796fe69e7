"""Retention mixed into the trainers of other libraries: it changes nothing without anchors, and holds with them."""

import csv
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainers import PEERS, Peer, Toys
from transformers import TrainerCallback

from craft_trainer import retaining, retaining_config
from craft_trainer.losses.loss import TrainingStart
from craft_trainer.models.families import as_anchored_model

STEPS, SAVED = 6, 3
TRAINING = {
    "max_steps": STEPS,
    "save_steps": SAVED,
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-3,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}
RETENTION = {"retention_batch_size": 8, "multiplier_init": 10.0}


class Runs:
    """The runs of a peer that the tests compare, each made when it is first asked for."""

    def __init__(self, peer: Peer, toys: Toys, folder: Path) -> None:
        self.peer, self.toys, self.folder = peer, toys, folder
        self.base, self.config = peer.classes

    def trainer(self, kind: type, config: type, name: str, **more: Any) -> Any:
        """Make a trainer whose output folder is ``name``."""
        torch.manual_seed(0)
        held = {"retention_terms": list(self.peer.terms), self.peer.epsilon: 1e-4} | RETENTION
        options = self.peer.options | (held if "anchors" in more else {})
        args = config(output_dir=str(self.folder / name), **TRAINING | options)
        return kind(args=args, **self.peer.given(self.toys), **more)

    def held(self, name: str) -> Any:
        """Make a trainer with anchors."""
        anchors = self.toys.anchors(self.peer.kind)
        return self.trainer(retaining(self.base), retaining_config(self.config), name, anchors=anchors)

    @cached_property
    def plain(self) -> Any:
        """The base class, trained."""
        return trained(self.trainer(self.base, self.config, "plain"))

    @cached_property
    def without_anchors(self) -> Any:
        """The class with retention, trained without anchors."""
        return trained(self.trainer(retaining(self.base), retaining_config(self.config), "without"))

    @cached_property
    def with_anchors(self) -> Any:
        """The class with retention, trained with anchors."""
        return trained(self.held("with"))


def trained(trainer: Any) -> Any:
    trainer.train()
    return trainer


def model_of(trainer: Any) -> nn.Module:
    return trainer.accelerator.unwrap_model(trainer.model)


def losses(trainer: Any) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def retention_loss(runs: Runs, trainer: Any) -> float:
    """L_retain of the model that ``trainer`` has trained, over all anchors."""
    anchors, settings = runs.toys.anchors(runs.peer.kind), runs.with_anchors.settings
    student = as_anchored_model(model_of(trainer))
    start = TrainingStart(student, anchors.specs, anchors.scales, len(anchors), anchors.batch, settings, False)
    with torch.no_grad():
        found = settings.recipe.loss.begin(start)(student, anchors.batch(list(range(len(anchors)))))
    return found.mean().item()


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return Toys(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="module", params=PEERS)
def runs(request: pytest.FixtureRequest, toys: Toys, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(PEERS[request.param], toys, tmp_path_factory.mktemp(request.param))


def test_without_anchors_it_is_the_base_bit_for_bit(runs: Runs) -> None:
    base, ours = runs.plain, runs.without_anchors
    assert len(losses(base)) == STEPS
    assert losses(base) == losses(ours)
    assert equal(model_of(base).state_dict(), model_of(ours).state_dict())


def test_with_anchors_it_forgets_less(runs: Runs) -> None:
    forgotten, held = retention_loss(runs, runs.plain), retention_loss(runs, runs.with_anchors)
    assert runs.with_anchors.state.global_step == runs.plain.state.global_step == STEPS
    assert forgotten > 0.01, "the toy task does not pull at what is held"
    assert held < 0.8 * forgotten


class KilledError(Exception):
    pass


class Kill(TrainerCallback):
    """Ends a run with nothing saved since its checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == SAVED + 1:
            raise KilledError


def test_killed_and_resumed_it_is_as_if_never_interrupted(runs: Runs) -> None:
    killed = runs.held("killed")
    killed.add_callback(Kill())
    with pytest.raises(KilledError):
        killed.train()
    resumed = runs.held("killed")
    resumed.train(resume_from_checkpoint=True)
    whole = runs.with_anchors
    assert equal(model_of(whole).state_dict(), model_of(resumed).state_dict())
    assert losses(whole) == losses(resumed)
    history = [(runs.folder / name / "lambda_history.csv").read_text() for name in ("with", "killed")]
    assert history[0] == history[1]
    assert len(list(csv.DictReader(history[0].splitlines()))) == STEPS


def test_the_peers_own_code_loads_what_it_saves(runs: Runs) -> None:
    trainer, folder = runs.with_anchors, runs.folder / "saved"
    trainer.save_model(str(folder))
    loaded = runs.peer.load(folder)
    assert equal(model_of(trainer).state_dict(), loaded.state_dict())
    args = torch.load(folder / "training_args.bin", weights_only=False)
    assert type(args) is retaining_config(runs.config)
    assert args.retention_settings.epsilon == 1e-4
