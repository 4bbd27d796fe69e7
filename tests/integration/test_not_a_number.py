"""Wherever a NaN comes from, the run ends with an error that says so, and saves nothing after it."""

import pytest
import torch
from runs import BASE
from safetensors.torch import load_file
from torch import nn
from toy import ToyModel, ToyTask, toy_anchors

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.cli.main import main
from craft_trainer.training.guards import FiniteWeights

NAN = float("nan")
PLAIN = {name: value for name, value in BASE.items() if hasattr(CraftConfig, name)} | {"method": "plain"}


def bad_task(key, rows=slice(None)):
    task = ToyTask()
    getattr(task, key)[rows] = NAN
    return task


def plain(folder, *, kind=CraftTrainer, model=None, **more):
    """A run as the commands make it without anchors."""
    data = {name: more.pop(name) for name in ("train_dataset", "eval_dataset") if name in more}
    config = CraftConfig(output_dir=str(folder), **PLAIN | more)
    return kind(model or ToyModel(), config, callbacks=[FiniteWeights()], **{"train_dataset": ToyTask()} | data)


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    return toy_anchors(tmp_path_factory.mktemp("anchors") / "cache")


@pytest.mark.parametrize("key", ["x", "y"])
def test_with_anchors_at_the_step_itself(key, anchors, tmp_path):
    config = CraftConfig(output_dir=str(tmp_path), **BASE)
    trainer = CraftTrainer(ToyModel(), config, anchors=anchors, train_dataset=bad_task(key))
    with pytest.raises(FloatingPointError, match=r"step 1: squared norms of the task and retention gradients are nan"):
        trainer.train()


def test_between_two_retention_passes(anchors, tmp_path):
    """Nothing is logged or saved before the end, and the only pass comes before the bad step."""
    options = {"retention_every": 50, "max_steps": 3, "logging_strategy": "no", "max_grad_norm": 0.0}
    config = CraftConfig(output_dir=str(tmp_path), **BASE | options | {"learning_rate": 1e30})
    trainer = CraftTrainer(ToyModel(), config, anchors=anchors, train_dataset=ToyTask())
    with pytest.raises(FloatingPointError, match=r"step 3: .* is not finite any more"):
        trainer.train()


@pytest.mark.parametrize("key", ["x", "y"])
@pytest.mark.parametrize(
    ("when", "step"),
    [
        ({"logging_steps": 2}, 2),
        ({"logging_strategy": "no", "max_steps": 1}, 1),
        ({"logging_strategy": "no", "save_strategy": "steps", "save_steps": 3}, 3),
        ({"logging_strategy": "no", "save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 1}, 8),
    ],
)
def test_without_anchors_before_it_is_saved(key, when, step, tmp_path):
    """At the next log, at the end, before a checkpoint, and before that of an epoch's end."""
    trainer = plain(tmp_path, train_dataset=bad_task(key), **when)
    with pytest.raises(FloatingPointError, match=rf"step {step}: .* is not finite any more"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_in_what_is_evaluated(tmp_path):
    trainer = plain(tmp_path, eval_dataset=bad_task("y", rows=[3]), eval_strategy="steps", eval_steps=2)
    with pytest.raises(FloatingPointError, match=r"step 2: eval_loss is nan although every weight is finite"):
        trainer.train()


def test_in_the_weights_when_they_are_evaluated(tmp_path):
    """So that no NaN chooses the best checkpoint."""
    options = {"eval_strategy": "steps", "eval_steps": 2, "logging_strategy": "no", "save_strategy": "best"}
    trainer = plain(
        tmp_path, train_dataset=bad_task("y"), eval_dataset=ToyTask(8), metric_for_best_model="loss", **options
    )
    with pytest.raises(FloatingPointError, match=r"step 2: .* is not finite any more"):
        trainer.train()


class ScaledTrainer(CraftTrainer):
    """fp16's gradient scaler on the CPU, where accelerate offers none."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        scaler = torch.amp.GradScaler("cpu")
        self.accelerator.scaler = scaler
        self.accelerator.unscale_gradients = lambda optimizer=None: scaler.unscale_(self.optimizer.optimizer)


@pytest.mark.parametrize(("steps", "skipped"), [(3, 3), (120, 100)])
def test_in_every_step_that_an_fp16_scaler_skips(steps, skipped, tmp_path):
    """The weights stay finite, and learn nothing."""
    trainer = plain(tmp_path, kind=ScaledTrainer, train_dataset=bad_task("y"), max_steps=steps, optim="sgd")
    with pytest.raises(FloatingPointError, match=rf"the fp16 scaler has skipped the last {skipped} steps"):
        trainer.train()


def test_in_a_few_steps_that_an_fp16_scaler_skips(tmp_path):
    """That is what it is for."""
    trainer = plain(tmp_path, kind=ScaledTrainer, train_dataset=bad_task("y", rows=[3]), optim="sgd", max_steps=10)
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() < 2.0**16


class Normed(ToyModel):
    """Running statistics, which see a batch whether its step is skipped or not."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x, y, return_loss=True):
        return super().forward(self.norm(x), y)


def test_in_running_statistics(tmp_path):
    trainer = plain(tmp_path, kind=ScaledTrainer, model=Normed(), train_dataset=bad_task("x", rows=[3]), optim="sgd")
    with pytest.raises(FloatingPointError, match=r"norm\.running_mean is not finite any more"):
        trainer.train()


def test_in_what_the_teacher_said(tmp_path):
    """An anchor that is not a number, whether the cache or the first pass finds it."""
    model = ToyModel()
    with torch.no_grad():
        model.head.bias.fill_(NAN)
    config = CraftConfig(output_dir=str(tmp_path / "run"), teacher_mismatch="allow", **BASE)
    with pytest.raises((FloatingPointError, ValueError), match=r"not finite|nan"):
        CraftTrainer(
            ToyModel(), config, anchors=toy_anchors(tmp_path / "cache", model=model), train_dataset=ToyTask()
        ).train()


def test_in_train(tiny_policy, tiny_dataset, tmp_path, capsys):
    """Exit status 1, no result, and no checkpoint that is not finite: after step 1 the weights are only huge."""
    tiny_policy().save_pretrained(tmp_path / "policy")
    words = ["train", "--model", str(tmp_path / "policy"), "--dataset", str(tiny_dataset), "--use_cpu", "true"]
    words += ["--output_dir", str(tmp_path / "out"), "--max_steps", "3", "--report_to", "none", "--max_grad_norm", "0"]
    assert main([*words, "--learning_rate", "1e30", "--save_steps", "1"]) == 1
    assert "is not finite any more, so the model is lost" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.safetensors").exists()
    saved = list((tmp_path / "out").glob("checkpoint-*/model.safetensors"))
    assert [path.parent.name for path in saved] == ["checkpoint-1"]
    assert all(value.isfinite().all() for value in load_file(saved[0]).values())
