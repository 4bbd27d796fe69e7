"""Clipping in CraftTrainer: the norm that surgery found is Trainer's own, and Trainer measures where there is none."""

import pytest
import torch
from runs import BASE, history
from toy import ToyModel, ToyTask, toy_anchors
from transformers import TrainerCallback

from craft_trainer import CraftConfig, CraftTrainer


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    return toy_anchors(tmp_path_factory.mktemp("anchors") / "cache")


class Watching(CraftTrainer):
    """Counts the norms that Trainer measures, and keeps the one of every step's gradient."""

    factor = 1.0  # that a user's own training_step multiplies the gradient by
    measured = 0

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        for parameter in self.model.parameters():
            if self.factor != 1 and parameter.grad is not None:
                parameter.grad.mul_(self.factor)
        self.seen = [*getattr(self, "seen", []), self.length()]
        return loss

    def length(self):
        return (
            torch.cat([p.grad.double().flatten() for p in self.model.parameters() if p.grad is not None]).norm().item()
        )


class AfterClipping(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.seen.append(Watching.length(self.trainer))


def trained(folder, anchors, *, factor=1.0, **changes):
    config = CraftConfig(output_dir=str(folder), **BASE | {"max_steps": 12, "logging_steps": 1} | changes)
    after = AfterClipping()
    trainer = Watching(ToyModel(), config, anchors=anchors, train_dataset=ToyTask(), callbacks=[after])
    after.trainer, trainer.factor = trainer, factor
    measure = trainer.accelerator.clip_grad_norm_

    def counting(*args, **kwargs):
        trainer.measured += 1
        return measure(*args, **kwargs)

    trainer.accelerator.clip_grad_norm_ = counting
    trainer.train()
    logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    return trainer, after, logged


@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.parametrize("maximum", [0.0, 0.05, 1e3])
def test_every_norm_is_right_and_none_is_measured_again(tmp_path, anchors, maximum, granularity):
    trainer, after, logged = trained(tmp_path, anchors, max_grad_norm=maximum, granularity=granularity)
    assert trainer.measured == 0
    assert logged == pytest.approx(trainer.seen, rel=1e-5)
    assert max(logged) > 0.05
    for before, clipped in zip(trainer.seen, after.seen, strict=True):
        assert clipped == pytest.approx(min(before, maximum or before), rel=1e-4)


def test_steps_without_a_retention_pass_are_measured_by_trainer(tmp_path, anchors):
    trainer, after, logged = trained(tmp_path, anchors, max_grad_norm=0.05, retention_every=3)
    passes = len(history(tmp_path))
    assert trainer.measured == 12 - passes
    assert 0 < passes < 12
    assert logged == pytest.approx(trainer.seen, rel=1e-5)
    assert max(after.seen) <= 0.05 * (1 + 1e-4)


def test_a_gradient_that_a_subclass_changes_is_measured_again(tmp_path, anchors):
    """Breaks when the norm that surgery found is used for another gradient."""
    trainer, after, logged = trained(tmp_path, anchors, factor=10.0, max_grad_norm=0.05)
    assert trainer.measured == 12
    assert logged == pytest.approx(trainer.seen, rel=1e-5)
    assert max(after.seen) <= 0.05 * (1 + 1e-4)
