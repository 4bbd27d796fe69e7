"""One backward pass of L_task + λ·L_retain is two passes whose gradients are added."""

import logging

import pytest
import torch
from runs import BASE, OwnStep, history
from tiny_lm import TokenTask, collate, lm_anchors, tiny_llama
from toy import ToyModel, ToyTask, toy_anchors

from craft_trainer import CraftConfig, CraftTrainer, retaining
from craft_trainer.report.figures.training import conflict_figure
from craft_trainer.report.history import load_history
from craft_trainer.report.sentences import conflict_sentence, gradients_compared
from craft_trainer.training.callbacks import LOGGED

NONE = BASE | {"surgery": "none", "update_angle_every": 10}
OF_GRADIENTS = ("cosine", "conflict", "task_grad_norm", "retention_grad_norm", "projected_energy", "update_cosine")
PER_GROUP = {"constraints": "per_group", "epsilon_per_group": {"drawer": 0.5}}
CASES = {
    "plainly": {},
    "accumulating": {"gradient_accumulation_steps": 3},
    "every_second_step": {"retention_every": 2},
    "per_group": PER_GROUP,
    "pi": {"multiplier": "pi", "gradient_accumulation_steps": 2},
    "probe": {"epsilon_probe_steps": 3, "epsilon": 0.1},
    "hidden_alone": {"retention_terms": ["hidden"]},
    "weighted_sum": {"method": "weighted_sum", "surgery": "one_sided"},
    "replay": {"method": "replay", "surgery": "one_sided"},
    "l2": {"method": "l2", "surgery": "one_sided"},
    "ewc": {"method": "ewc", "surgery": "one_sided"},
    "unclipped_sgd": {"optim": "sgd", "max_grad_norm": 0.0},
}


class NoBackward(OwnStep):
    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        loss.backward()
        return loss.detach()


class TwoBackwards(OwnStep):
    def training_step(self, model, inputs, num_items_in_batch=None):
        super().training_step(model, inputs)
        return super().training_step(model, inputs)


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    return toy_anchors(tmp_path_factory.mktemp("joint") / "cache", groups=["door"] * 16 + ["drawer"] * 8)


def trained(folder, anchors, kind=CraftTrainer, **options):
    trainer = kind(
        ToyModel(), CraftConfig(str(folder), **NONE | options), anchors=anchors, train_dataset=ToyTask(size=192)
    )
    trainer.train()
    return trainer


def assert_same_runs(one, one_folder, two, two_folder):
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], value, rtol=1e-6, atol=1e-6)
    left, right = history(one_folder), history(two_folder)
    assert len(left) == len(right) > 0
    for before, after in zip(left, right, strict=True):
        assert all(after[name] is None for name in OF_GRADIENTS)
        known = {name: value for name, value in before.items() if name not in OF_GRADIENTS}
        assert {name: after[name] for name in known} == pytest.approx(known, rel=1e-5, abs=1e-7)
    assert two.dual.multiplier == pytest.approx(one.dual.multiplier, rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_joint_is_separate_without_surgery(tmp_path, anchors, name):
    """Weights, λ, every loss. Seen to fail with λ = 1 in the sum, with the loss joined at every micro-batch, and with
    the weight of a probe that is not 0."""
    one, two = (
        trained(tmp_path / backward, anchors, backward=backward, **CASES[name]) for backward in ("separate", "joint")
    )
    assert_same_runs(one, tmp_path / "separate", two, tmp_path / "joint")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_joint_is_separate_on_a_language_model(tmp_path, checkpointing):
    """Also where activations are computed again: those of the anchors are not. Their graphs are held together."""
    anchors = lm_anchors(tmp_path / "cache")
    options = {"retention_terms": ["hidden", "token_kl"], "optim": "sgd", "learning_rate": 0.1, "max_steps": 3}
    options |= {"gradient_checkpointing": checkpointing, "gradient_accumulation_steps": 2}
    runs = []
    for backward in ("separate", "joint"):
        config = CraftConfig(str(tmp_path / backward), backward=backward, **NONE | options)
        given = {"anchors": anchors, "train_dataset": TokenTask(), "data_collator": collate}
        runs.append(CraftTrainer(tiny_llama(), config, **given))
        runs[-1].train()
    assert_same_runs(runs[0], tmp_path / "separate", runs[1], tmp_path / "joint")


def test_what_is_not_known_is_absent(tmp_path, anchors):
    """From the logs, and from the report of such a history. Seen to fail with zeros, and with `nan` for a conflict."""
    trainer = trained(tmp_path, anchors, backward="joint")
    logged = {name for log in trainer.state.log_history for name in log}
    assert LOGGED["retention_loss"] in logged
    assert not logged & {LOGGED[name] for name in OF_GRADIENTS}
    found = {0: load_history(tmp_path / "lambda_history.csv")}
    assert not gradients_compared({"run": found})
    assert "were not compared" in conflict_sentence(found)
    conflict_figure({"run": found}, 1)


def test_resumed_is_never_interrupted(tmp_path, anchors):
    trained(tmp_path / "whole", anchors, backward="joint")
    first = {"backward": "joint", "save_strategy": "steps", "save_steps": 3}
    trained(tmp_path / "cut", anchors, **first)
    config = CraftConfig(str(tmp_path / "cut"), **NONE | first)
    again = CraftTrainer(ToyModel(), config, anchors=anchors, train_dataset=ToyTask(size=192))
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    whole, cut = ((tmp_path / name / "lambda_history.csv").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_a_step_of_its_own_makes_backward_joint_and_says_so(tmp_path, anchors, caplog):
    """The same run as Trainer's own step; the record says joint. Seen to fail when nothing is joined."""
    kind = retaining(OwnStep)
    with caplog.at_level(logging.WARNING):
        own = trained(tmp_path / "own", anchors, kind, gradient_accumulation_steps=2)
    said = [text for text in caplog.messages if "backward is joint" in text]
    assert len(said) == 1
    assert "OwnStep.training_step does not call super().training_step" in said[0]
    assert own.args.backward == "joint"
    usual = trained(tmp_path / "usual", anchors, gradient_accumulation_steps=2)
    assert_same_runs(usual, tmp_path / "usual", own, tmp_path / "own")


def test_the_arguments_stay_what_they_are_for_another_trainer(tmp_path, anchors):
    """Seen to fail: the next trainer with the same arguments took one backward pass, and did not say so."""
    args = CraftConfig(str(tmp_path / "own"), **NONE)
    own = retaining(OwnStep)(ToyModel(), args, anchors=anchors, train_dataset=ToyTask(size=192))
    own.train()
    assert (own.args.backward, args.backward) == ("joint", "separate")


def test_a_step_of_its_own_is_refused_with_surgery(tmp_path, anchors):
    with pytest.raises(TypeError, match=r"OwnStep\.training_step does not call .* set surgery none"):
        trained(tmp_path, anchors, retaining(OwnStep), surgery="one_sided")


def test_what_joint_leaves_idle_is_refused_where_it_was_chosen_by_itself(tmp_path, anchors):
    with pytest.raises(ValueError, match="granularity layer has no effect with backward joint") as caught:
        trained(tmp_path, anchors, retaining(OwnStep), granularity="layer")
    assert any("OwnStep.training_step" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [(NoBackward, "does not call accelerator.backward"), (TwoBackwards, "calls accelerator.backward more than once")],
)
def test_a_step_that_cannot_be_joined_is_refused(tmp_path, anchors, kind, fault):
    """Seen to fail when the calls are not counted: nothing was retained, or L_retain twice."""
    with pytest.raises(RuntimeError, match=fault):
        trained(tmp_path, anchors, retaining(kind), backward="joint")


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, anchors):
    """Before the backward pass. Seen to fail without the check: weights of NaN."""
    dataset = ToyTask(size=192)
    dataset.y[:] = float("inf")
    config = CraftConfig(str(tmp_path), backward="joint", **NONE)
    trainer = CraftTrainer(ToyModel(), config, anchors=anchors, train_dataset=dataset)
    with pytest.raises(FloatingPointError, match=r"step 1: the task loss is inf"):
        trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_model_that_is_not_its_teacher_is_noticed_at_the_first_step(tmp_path, anchors):
    """As with separate. Seen to fail without the check of the first pass."""
    trainer = CraftTrainer(
        ToyModel(), CraftConfig(str(tmp_path), backward="joint", **NONE), anchors=anchors, train_dataset=ToyTask()
    )
    with torch.no_grad():
        trainer.model.encoder.weight.add_(1.0)
    with pytest.raises(ValueError, match="before the first step"):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"surgery": "one_sided"}, "surgery one_sided compares .* set surgery none, or backward separate"),
        ({"surgery": "symmetric"}, "surgery symmetric compares"),
        ({"surgery": "barrier"}, "surgery barrier compares"),
        ({"method": "agem"}, "method agem compares their gradients: choose another method"),
        ({"method": "plain"}, "backward joint has no effect with method plain"),
        ({"surgery": "none", "granularity": "layer"}, "granularity layer has no effect with backward joint"),
        ({"surgery": "none", "merge": "equal"}, "merge equal has no effect with backward joint"),
        ({"surgery": "none", "merge": "task_priority"}, "merge task_priority has no effect with backward joint"),
        ({"surgery": "none", "conflict_threshold": -0.5}, "conflict_threshold -0.5 has no effect with backward joint"),
        ({"surgery": "none", "update_angle_every": 1}, "update_angle_every 1 has no effect with backward joint"),
        ({"surgery": "none", "backward": "both"}, "backward is 'both': it must be one of separate, joint"),
    ],
)
def test_what_needs_two_gradients_is_refused(tmp_path, options, fault):
    with pytest.raises(ValueError, match=fault):
        CraftConfig(str(tmp_path), use_cpu=True, **{"backward": "joint"} | options)
