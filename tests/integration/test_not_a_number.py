"""Wherever a NaN comes from, the run ends with an error that says so, and saves nothing after it."""

import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from command_words import flags
from lm_folders import save_lines, save_tiny_lm
from runs import BASE
from safetensors.torch import load_file, save_file
from torch import nn
from toy import ToyModel, ToyTask, toy_anchors
from transformers import TrainerCallback

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.cli.main import main
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.training.finite import FiniteMixin

NAN = float("nan")
PLAIN = {name: value for name, value in BASE.items() if hasattr(CraftConfig, name)} | {"method": "plain"}


def bad_task(key, rows=slice(None)):
    task = ToyTask()
    getattr(task, key)[rows] = NAN
    return task


def plain(folder, *, kind=CraftTrainer, model=None, **more):
    """A run without anchors."""
    data = {name: more.pop(name) for name in ("train_dataset", "eval_dataset") if name in more}
    config = CraftConfig(output_dir=str(folder), **PLAIN | more)
    return kind(model or ToyModel(), config, **{"train_dataset": ToyTask()} | data)


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    return toy_anchors(tmp_path_factory.mktemp("anchors") / "cache")


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("backward", ["separate", "joint"])
@pytest.mark.parametrize("key", ["x", "y"])
def test_with_anchors_at_the_step_itself(key, backward, every, anchors, tmp_path):
    """The look is at the loss itself."""
    options = {"retention_every": every, "surgery": "none", "backward": backward, "update_angle_every": 10}
    config = CraftConfig(output_dir=str(tmp_path), **BASE | options)
    trainer = CraftTrainer(ToyModel(), config, anchors=anchors, train_dataset=bad_task(key))
    with pytest.raises(FloatingPointError, match=r"step 1: the task loss is nan.*no checkpoint was saved before"):
        trainer.train()


class Poisoned(ToyModel):
    """A gradient that is not a number below a loss that is: in the backward pass of the call ``bad``."""

    def __init__(self, bad, retains=False):
        super().__init__()
        self.bad, self.retains, self.calls = bad, retains, 0

    def _poison(self, value):
        self.calls += 1
        if self.calls == self.bad:
            value.register_hook(lambda gradient: gradient * NAN)
        return value

    def forward(self, x, y, return_loss=True):
        found = super().forward(x, y)
        return found if self.retains else {"loss": self._poison(found["loss"])}

    def predict(self, batch):
        value = super().predict(batch)
        return self._poison(value) if self.retains and value.requires_grad else value


@pytest.mark.parametrize("last", [4, 6])
@pytest.mark.parametrize("anchored", [False, True])
def test_in_the_gradient_before_the_optimizer_steps(anchored, last, anchors, tmp_path):
    """At the last step, which has no retention pass. The weights are those before it."""
    options = {"max_steps": last, "save_strategy": "steps", "save_steps": last - 1, "logging_strategy": "no"}
    config = CraftConfig(output_dir=str(tmp_path), **BASE | options | {"retention_every": 2})
    given = {"anchors": anchors} if anchored else {}
    trainer = CraftTrainer(Poisoned(last), config, train_dataset=ToyTask(), **given)
    with pytest.raises(
        FloatingPointError, match=rf"step {last}: the norm .* nan: .*; go on from .*checkpoint-{last - 1}"
    ):
        trainer.train()
    saved = load_file(tmp_path / f"checkpoint-{last - 1}/model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in trainer.model.state_dict().items())


def test_in_the_gradient_of_retention(anchors, tmp_path):
    config = CraftConfig(output_dir=str(tmp_path), **BASE | {"max_steps": 2})
    trainer = CraftTrainer(Poisoned(2, retains=True), config, anchors=anchors, train_dataset=ToyTask())
    with pytest.raises(FloatingPointError, match=r"step 2: .*\|g_retain\|² is nan"):
        trainer.train()


class Overflowed(TrainerCallback):
    """Adam's second moment is infinite from step 2 on, so that nothing is learned any more, by finite weights."""

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step == 1:
            next(iter(optimizer.state.values()))["exp_avg_sq"].fill_(float("inf"))


@pytest.mark.parametrize(("saved", "step"), [({"save_strategy": "steps", "save_steps": 3}, 3), ({}, 6)])
def test_in_the_optimizer(saved, step, tmp_path):
    """Before it is saved, and at the end."""
    trainer = plain(tmp_path, **saved)
    trainer.add_callback(Overflowed())
    with pytest.raises(FloatingPointError, match=rf"step {step}: exp_avg_sq of the optimizer is not finite any more"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_between_two_retention_passes(anchors, tmp_path):
    """Nothing is logged or saved before the end, and the bad step has no pass."""
    options = {"retention_every": 2, "max_steps": 3, "logging_strategy": "no", "max_grad_norm": 0.0}
    config = CraftConfig(output_dir=str(tmp_path), **BASE | options | {"learning_rate": 1e30})
    trainer = CraftTrainer(ToyModel(), config, anchors=anchors, train_dataset=ToyTask())
    with pytest.raises(FloatingPointError, match=r"step 2: the task loss is inf"):
        trainer.train()


@pytest.mark.parametrize("key", ["x", "y"])
def test_without_anchors_at_the_step_itself(key, tmp_path):
    """The look is at the loss itself."""
    trainer = plain(tmp_path, train_dataset=bad_task(key), logging_strategy="no")
    with pytest.raises(FloatingPointError, match=r"step 1: the task loss is nan"):
        trainer.train()


class Steep(ToyModel):
    """One step of SGD at the largest learning rate makes its weights infinite, by finite gradients."""

    def forward(self, x, y, return_loss=True):
        return {"loss": super().forward(x, y)["loss"] * 1e3}


STEEP = {"logging_strategy": "no", "max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 3e38}


@pytest.mark.parametrize(
    "when",
    [
        {"save_strategy": "steps", "save_steps": 1},
        {"save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 64},
        {"max_steps": 1},
    ],
)
def test_weights_that_a_step_has_lost_are_not_saved(when, tmp_path):
    """By a finite gradient: before a checkpoint, before that of an epoch's end, and at the end."""
    trainer = plain(tmp_path, model=Steep(), **STEEP | when)
    with pytest.raises(FloatingPointError, match=r"step 1: .* is not finite any more"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_in_what_is_evaluated(tmp_path):
    trainer = plain(tmp_path, eval_dataset=bad_task("y", rows=[3]), eval_strategy="steps", eval_steps=2)
    with pytest.raises(FloatingPointError, match=r"step 2: eval_loss is nan although every weight is finite"):
        trainer.train()


def test_in_the_weights_when_they_are_evaluated(tmp_path):
    """So that no NaN chooses the best checkpoint."""
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "metric_for_best_model": "loss"}
    trainer = plain(tmp_path, model=Steep(), eval_dataset=ToyTask(8), **STEEP | options)
    with pytest.raises(FloatingPointError, match=r"step 1: .* is not finite any more"):
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
    assert f"step 2: the task loss is nan: lower learning_rate, or look for bad samples; go on from {tmp_path}" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out" / "model.safetensors").exists()
    saved = list((tmp_path / "out").glob("checkpoint-*/model.safetensors"))
    assert [path.parent.name for path in saved] == ["checkpoint-1"]
    assert all(value.isfinite().all() for value in load_file(saved[0]).values())


def poisoned(teacher, folder):
    """A copy of a checkpoint, one weight of which is not a number."""
    shutil.copytree(teacher, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[next(name for name in tensors if "mlp" in name or "linear1.weight" in name)].view(-1)[0] = NAN
    save_file(tensors, file, {"format": "pt"})
    return folder


def refused_with(words, output, capsys):
    """Whether a command ends with status 1, a line that says why, and no result."""
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "not finite. Its weights hold such numbers" in told
    assert not output.exists()


def test_in_a_language_model_that_is_measured(tmp_path, capsys):
    """Seen to fail: "difference +nan: chance may do that", NaN in a JSON file, and a merge of the teacher's weights."""
    teacher = save_tiny_lm(tmp_path / "teacher")
    bad, out = poisoned(teacher, tmp_path / "bad"), tmp_path / "out"
    texts = save_lines(tmp_path / "texts.jsonl", [{"text": f"hello world {n}"} for n in range(8)])
    built = {"teacher": teacher, "dataset": texts, "anchors": 8, "output_dir": tmp_path / "anchors"}
    assert main(["cache", "build", *flags(**built)]) == 0
    for models in ({"model": teacher, "compare": bad}, {"model": bad}):
        refused_with(["loss", *flags(**models, dataset=texts, output=out)], out, capsys)
    merged = {"teacher": teacher, "tuned": bad, "anchors": tmp_path / "anchors", "epsilon": 0.05}
    refused_with(["merge", *flags(**merged, output_dir=out)], out, capsys)


def test_in_a_policy_that_is_measured(tiny_policy, tiny_dataset, tmp_path, capsys):
    """Seen to fail: "L_retain nan", a merge of the teacher's weights, and episodes of actions that are no numbers."""
    tiny_policy().save_pretrained(tmp_path / "teacher")
    bad, out = poisoned(tmp_path / "teacher", tmp_path / "bad"), tmp_path / "out"
    built = {"teacher": tmp_path / "teacher", "dataset": tiny_dataset, "anchors": 8, "output_dir": tmp_path / "anchors"}
    assert main(["cache", "build", *flags(**built)]) == 0
    refused_with(["loss", *flags(policy=bad, dataset=tiny_dataset, output=out)], out, capsys)
    merged = {"teacher": tmp_path / "teacher", "tuned": bad, "anchors": tmp_path / "anchors", "epsilon": 0.05}
    refused_with(["merge", *flags(**merged, output_dir=out)], out, capsys)
    seen = {"observation.state": torch.zeros(1, 4), "observation.environment_state": torch.zeros(1, 39)}
    policy = PolicyModel.from_pretrained(bad).eval()
    with torch.no_grad(), pytest.raises(FloatingPointError, match="an action of the policy is not finite"):
        policy.select_action(seen)


@pytest.mark.parametrize(
    ("engine", "precision", "refused"),
    [
        (DistributedType.NO, "no", True),
        (DistributedType.DEEPSPEED, "bf16", True),
        (DistributedType.DEEPSPEED, "fp16", False),  # DeepSpeed has a scaler of its own, which skips the step
    ],
)
def test_whoever_has_no_scaler_is_stopped(engine, precision, refused, tmp_path):
    """Seen to fail without the look at DeepSpeed: its first steps in fp16 overflow, and were the end of the run."""
    accelerator = SimpleNamespace(scaler=None, distributed_type=engine, mixed_precision=precision)
    state, args = SimpleNamespace(global_step=0), SimpleNamespace(output_dir=str(tmp_path))
    trainer = SimpleNamespace(accelerator=accelerator, state=state, args=args)
    with pytest.raises(FloatingPointError, match="step 1: loss is inf") if refused else nullcontext():
        FiniteMixin.require_finite(trainer, {"loss": float("inf")})
