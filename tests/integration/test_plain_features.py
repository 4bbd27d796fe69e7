"""Everything that plain Trainer offers works the same with anchors.

Two runs of the same script: ``Trainer``, and ``CraftTrainer`` with anchors whose gradient is given no weight (λ = 0, no
surgery). Every feature must give the same weights, logs and checkpoints bit for bit, and must have done something.
"""

import pytest
import torch
from runs import TIMES, outcome
from tiny_lm import TokenTask, collate, lm_anchors, tiny_llama
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from craft_trainer import CraftConfig, CraftTrainer

BASE = {
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "remove_unused_columns": False,
}
WITHOUT_WEIGHT = {"surgery": "none", "multiplier": "fixed", "multiplier_init": 0.0, "task_kl_samples": 0}
TERMS = {"retention_terms": ["hidden", "token_kl"], "retention_batch_size": 8}
EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


class Meddling(TrainerCallback):
    """A user's callback that takes over: logs, evaluates and saves when it likes, and stops after step 4."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = control.should_save = state.global_step == 2
        control.should_log = state.global_step == 3
        control.should_training_stop = state.global_step == 4
        return control


class Listening(TrainerCallback):
    """Writes down every event with what comes with it."""

    def __init__(self):
        self.heard = []

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def hear(args, state, control, **kwargs):
            logs = sorted(name for name in kwargs.get("logs") or () if not name.startswith("retention/"))
            self.heard.append((name, state.global_step, sorted(kwargs), logs))

        return hear


def own_optimizer(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    return {"optimizers": (optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1))}


def own_metrics(model):
    def accuracy(prediction):
        chosen, labels = prediction.predictions[:, :-1], prediction.label_ids[:, 1:]
        return {"accuracy": float((chosen == labels)[labels != -100].mean()), "dims": prediction.predictions.ndim}

    return {"compute_metrics": accuracy, "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(dim=-1)}


FEATURES = {  # arguments, and what the trainer is given beside
    "label smoothing": ({"label_smoothing_factor": 0.3}, None),
    "cosine schedule": ({"lr_scheduler_type": "cosine", "warmup_steps": 2}, None),
    "schedule with keywords": (
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.005}},
        None,
    ),
    "plateau schedule": (
        {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "threshold": 10.0}}
        | {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"},
        None,
    ),
    "another optimizer": ({"optim": "adafactor"}, None),
    "optimizers=": ({}, own_optimizer),
    "compute_metrics": ({"eval_strategy": "steps", "eval_steps": 2}, own_metrics),
    "best model at the end": (EVERY_STEP | {"load_best_model_at_end": True, "learning_rate": 0.5}, None),
    "early stopping": (
        EVERY_STEP | {"load_best_model_at_end": True, "learning_rate": 0.5},
        lambda model: {"callbacks": [EarlyStoppingCallback(early_stopping_patience=1)]},
    ),
    "a callback that meddles": ({}, lambda model: {"callbacks": [Meddling]}),
    "accumulation and clipping": ({"gradient_accumulation_steps": 2, "max_grad_norm": 0.01}, None),
    "neftune": ({"neftune_noise_alpha": 5.0}, None),
}


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    return lm_anchors(tmp_path_factory.mktemp("anchors") / "cache")


def train(kind, config, model, *, given=None, **more):
    trainer = kind(
        model,
        config,
        train_dataset=TokenTask(),
        eval_dataset=TokenTask(size=16, seed=3),
        data_collator=collate,
        **(given(model) if given else {}),
        **more,
    )
    trainer.train()
    return trainer


def plain(folder, feature=None):
    arguments, given = FEATURES[feature] if feature else ({}, None)
    return train(Trainer, TrainingArguments(output_dir=str(folder), **BASE | arguments), tiny_llama(), given=given)


def crafted(folder, anchors, feature, **craft):
    arguments, given = FEATURES[feature]
    config = CraftConfig(output_dir=str(folder), **BASE | arguments | TERMS | craft)
    return train(CraftTrainer, config, tiny_llama(), given=given, anchors=anchors)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_of_trainer_is_the_same_with_anchors(feature, anchors, tmp_path):
    """Seen to fail with λ = 1, for every feature."""
    theirs = outcome(plain(tmp_path / "plain", feature))
    ours = crafted(tmp_path / "craft", anchors, feature, **WITHOUT_WEIGHT)
    assert any("retention/loss" in log for log in ours.state.log_history), "retention passes were made"
    assert outcome(ours) == theirs
    assert theirs != outcome(plain(tmp_path / "without")), "the feature did something"


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_of_trainer_works_while_anchors_hold(feature, anchors, tmp_path):
    """With retention at full weight it is another run, which the feature still governs."""
    trainer = crafted(tmp_path, anchors, feature)
    state, losses = trainer.state, [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    stopped = {"early stopping": 2, "a callback that meddles": 4}
    assert state.global_step == stopped.get(feature, 6)
    if feature in ("best model at the end", "early stopping"):
        assert state.best_metric == min(losses) == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-6)
    if feature == "compute_metrics":
        assert all(log["eval_dims"] == 2 for log in state.log_history if "eval_dims" in log)


def test_a_users_callback_hears_the_same_events_with_anchors(anchors, tmp_path):
    """Names, steps, arguments and logs, in the same order. Seen to fail with a second `on_log` in CraftTrainer.log."""
    options = BASE | {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 3}
    heard = []
    for kind, config, more in (
        (Trainer, TrainingArguments(output_dir=str(tmp_path / "plain"), **options), {}),
        (CraftTrainer, CraftConfig(output_dir=str(tmp_path / "craft"), **options | TERMS), {"anchors": anchors}),
    ):
        ear = Listening()
        train(kind, config, tiny_llama(), given=lambda model, ear=ear: {"callbacks": [ear]}, **more)
        heard.append(ear.heard)
    assert {"on_pre_optimizer_step", "on_substep_end", "on_evaluate", "on_log"} <= {event[0] for event in heard[0]}
    assert heard[0] == heard[1]


def test_evaluate_and_predict_by_hand_are_those_of_trainer(anchors, tmp_path):
    """Before and after training; `evaluate` takes another dataset and prefix."""
    both = []
    for kind, config, more in (
        (Trainer, TrainingArguments(output_dir=str(tmp_path / "plain"), **BASE), {}),
        (
            CraftTrainer,
            CraftConfig(output_dir=str(tmp_path / "craft"), **BASE | TERMS | WITHOUT_WEIGHT),
            {"anchors": anchors},
        ),
    ):
        model = tiny_llama()
        trainer = kind(model, config, train_dataset=TokenTask(), data_collator=collate, **own_metrics(model), **more)
        before = trainer.evaluate(TokenTask(size=16, seed=4), metric_key_prefix="old")
        trainer.train()
        after = trainer.predict(TokenTask(size=16, seed=4))
        metrics = {**before, **after.metrics}
        kept = {name: value for name, value in metrics.items() if not name.endswith(TIMES)}
        both.append((kept, after.predictions.tolist()))
    assert {"old_loss", "old_accuracy", "test_loss", "test_accuracy"} <= both[0][0].keys()
    assert both[0] == both[1]
