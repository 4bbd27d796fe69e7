"""Every argument of Trainer has a line in docs/training.md, and the runs here show what the line says.

A run is made by ``Trainer``, and by ``CraftTrainer`` with anchors whose gradient has no weight (λ = 0, no surgery):
weights and logs must be the same bit for bit. With λ = 10 the same arguments must hold the anchors better.
"""

import dataclasses
import inspect
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from runs import history, outcome
from tiny_lm import VOCABULARY, TokenTask, collate, lm_anchors, tiny_llama
from torch.nn.functional import cross_entropy
from transformers import (
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LabelSmoother
from transformers.training_args import OptimizerNames
from vlm_processors import vlm_and_processor

from craft_trainer import CraftConfig, CraftTrainer, retaining
from craft_trainer.losses.smoothing import SmoothedLoss
from craft_trainer.training.guards import require_exact
from craft_trainer.training.run_record import recorded

TABLE = Path(__file__).parents[2] / "docs" / "training.md"
BASE = {
    "max_steps": 5,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.02,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "remove_unused_columns": False,
}
TERMS = {"retention_terms": ["hidden", "token_kl"], "retention_batch_size": 8}
WITHOUT_WEIGHT = {"surgery": "none", "multiplier": "fixed", "multiplier_init": 0.0}
HEAVY = WITHOUT_WEIGHT | {"multiplier_init": 10.0}
EVERY_TWO = {"eval_strategy": "steps", "eval_steps": 2}


def own_model():
    return tiny_llama()


def tiny_mixtral():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    experts = {"num_key_value_heads": 2, "num_local_experts": 4, "output_router_logits": True}
    return MixtralForCausalLM(MixtralConfig(vocab_size=VOCABULARY, **sizes, **experts))


def own_loss(outputs, labels, num_items_in_batch=None):
    """The model's own, twice."""
    logits, targets = outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return 2 * cross_entropy(logits, targets, reduction="sum") / num_items_in_batch


EXACT = {  # arguments that decide what is learned
    "batches": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 2.0}
    | {"max_steps": -1, "dataloader_drop_last": True, "average_tokens_across_devices": False},
    "optimizer": {"optim": "adamw_torch", "learning_rate": 0.03, "weight_decay": 0.1, "adam_beta1": 0.8}
    | {"adam_beta2": 0.99, "adam_epsilon": 1e-6, "max_grad_norm": 0.05, "lr_scheduler_type": "cosine_with_min_lr"}
    | {"lr_scheduler_kwargs": {"min_lr": 0.01}, "warmup_steps": 1},
    "share of warmup": {"warmup_ratio": 0.5},
    "no fused steps": {"optim": "adafactor"},
    "momentum": {"optim": "sgd", "optim_args": "momentum=0.5"},
    "adagrad": {"optim": "adagrad"},
    "rmsprop": {"optim": "rmsprop"},
    "label smoothing": {"label_smoothing_factor": 0.3},
    "bfloat16": {"bf16": True, "bf16_full_eval": True} | EVERY_TWO,
    "evaluation in halves": {"fp16_full_eval": True} | EVERY_TWO,
    "recomputed": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "recomputed inside": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "compiled": {"torch_compile": True, "torch_compile_backend": "eager", "torch_compile_mode": "default"},
    "noise": {"neftune_noise_alpha": 5.0},
    "keys and values": {"use_cache": True},
    "memory": {"torch_empty_cache_steps": 1, "auto_find_batch_size": True},
    "order": {"train_sampling_strategy": "group_by_length", "length_column_name": "length", "seed": 5, "data_seed": 3}
    | {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2, "dataloader_persistent_workers": True}
    | {"accelerator_config": {"use_seedable_sampler": False}, "remove_unused_columns": True, "label_names": ["labels"]},
    "best": {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    | {"save_strategy": "steps", "save_steps": 2}
    | EVERY_TWO,
}
SAME = {"recomputed", "recomputed inside", "evaluation in halves", "keys and values", "memory", "compiled"}
GIVEN = {  # what the trainer is given beside its arguments
    "compute_loss_func": {"compute_loss_func": own_loss},
    "optimizer_cls_and_kwargs": {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.5})},
    "model_init": {"model": None, "model_init": own_model},
}
IDLE = {  # arguments that decide nothing about it: the weights are those of a run without them
    "logs": {"logging_strategy": "steps", "logging_steps": 2, "logging_first_step": True, "log_on_each_node": False}
    | {"logging_nan_inf_filter": False, "include_num_input_tokens_seen": "non_padding", "log_level": "error"}
    | {"log_level_replica": "error", "disable_tqdm": True, "report_to": [], "run_name": "r", "project": "p"}
    | {"trackio_space_id": "t", "logging_dir": "logs", "debug": "underflow_overflow", "skip_memory_metrics": False},
    "flags": {
        "resume_from_checkpoint": "x",
        "do_train": True,
        "do_eval": True,
        "do_predict": True,
        "dataloader_pin_memory": False,
        "local_rank": -1,
    },
    "evaluations": EVERY_TWO
    | {"eval_delay": 1, "per_device_eval_batch_size": 4, "prediction_loss_only": True, "eval_on_start": True}
    | {"eval_do_concat_batches": False, "eval_use_gather_object": True, "eval_accumulation_steps": 1}
    | {"include_for_metrics": ["loss"], "batch_eval_metrics": True},
    "saving": {"save_strategy": "steps", "save_steps": 2, "save_on_each_node": True, "save_total_limit": 1}
    | {"save_only_model": True, "push_to_hub": False, "hub_token": "hf_x", "hub_private_repo": True}
    | {"hub_model_id": "me/model", "hub_strategy": "end", "hub_always_push": True, "hub_revision": "main"},
}
ELSEWHERE = {  # argument → what shows its line
    "enable_jit_checkpoint": "test_a_checkpoint_before_the_optimizers_step_holds_the_multiplier_before_it",
    "full_determinism": "test_deterministic_kernels",
    "ignore_data_skip": "test_resumed_without_its_data",
    "restore_callback_states_from_checkpoint": "test_trainer.py: callbacks of the user",
    "fp16": "test_language_models.py: a scaler on the CPU",
    "fsdp": "tests/distributed",
    "fsdp_config": "tests/distributed",
    "parallelism_config": "test_distribution.py",
    "deepspeed": "test_distribution.py",
    "output_dir": "every run",
    "use_cpu": "every run",
    "optim_target_modules": "test_a_low_rank_optimizer",
    "args": "every run",
    "model": "every run",
    "data_collator": "every run",
    "train_dataset": "every run",
    "eval_dataset": "every run",
    "processing_class": "test_vision_language_commands.py",
    "compute_metrics": "test_plain_features.py",
    "callbacks": "test_plain_features.py",
    "optimizers": "test_plain_features.py",
    "preprocess_logits_for_metrics": "test_plain_features.py",
}
NOT_RUN = {"tf32", "use_liger_kernel", "liger_kernel_config"}  # they need a GPU
NOT_RUN |= {f"ddp_{name}" for name in ("backend", "broadcast_buffers", "bucket_cap_mb", "timeout")}
NOT_RUN |= {"ddp_find_unused_parameters"}  # tests/distributed has both


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """What Trainer learns with no argument but those of every run."""
    return outcome(plain(tmp_path_factory.mktemp("untouched"), {}))


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    return lm_anchors(tmp_path_factory.mktemp("anchors") / "cache")


def made(kind, config, given=None, **more):
    given = {"model": tiny_llama()} | (given or {}) | more
    data = {"train_dataset": TokenTask(20), "eval_dataset": TokenTask(8, seed=3), "data_collator": collate}
    return kind(args=config, **data | given)


def trained(kind, config, given=None, **more):
    trainer = made(kind, config, given, **more)
    trainer.train()
    return trainer


def crafted(folder, anchors, options, settings=WITHOUT_WEIGHT, given=None):
    config = CraftConfig(str(folder), **BASE | TERMS | settings | options)
    return trained(CraftTrainer, config, given, anchors=anchors)


def plain(folder, options, given=None):
    return trained(Trainer, TrainingArguments(str(folder), **BASE | options), given)


def documented():
    """Argument → verdict, from the table in the docs."""
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (exact|no effect|some refused|refused) \| ", TABLE.read_text(), re.M)
    pairs = [(name, verdict) for names, verdict in rows for name in re.findall(r"\w+", names)]
    assert len(pairs) == len(dict(pairs)), "an argument has two lines"
    return dict(pairs)


def test_every_argument_has_a_line():
    """A new version of transformers may bring new ones: read what Trainer does with them."""
    arguments = {field.name for field in dataclasses.fields(TrainingArguments)}
    arguments |= inspect.signature(Trainer.__init__).parameters.keys() - {"self"}
    assert documented().keys() == arguments


def test_every_line_is_shown():
    exact = {name for options in EXACT.values() for name in options} | GIVEN.keys()
    idle = {name for options in IDLE.values() for name in options}
    for name, verdict in documented().items():
        shown = (idle if verdict == "no effect" else exact) | ELSEWHERE.keys() | NOT_RUN
        assert name in shown, f"{name} is {verdict}: which run shows it?"


@pytest.mark.parametrize("run", [*EXACT, *GIVEN])
def test_with_anchors_it_is_trainers(run, anchors, untouched, tmp_path):
    options, given = EXACT.get(run, {}), GIVEN.get(run)
    theirs = outcome(plain(tmp_path / "plain", options, given))
    ours = outcome(crafted(tmp_path / "craft", anchors, options, given=given))
    assert ours == theirs
    assert (theirs["weights"] == untouched["weights"]) == (run in SAME)
    crafted(tmp_path / "heavy", anchors, options, HEAVY, given)
    free, held = (history(tmp_path / name)[-1]["retention_loss"] for name in ("craft", "heavy"))
    assert held < free


@pytest.mark.parametrize("run", IDLE)
def test_what_decides_nothing(run, anchors, untouched, tmp_path):
    """Nor do these change what is learned with anchors."""
    ours = crafted(tmp_path, anchors, IDLE[run])
    assert outcome(ours)["weights"] == untouched["weights"]


def test_optimizers_that_step_in_the_backward_pass_are_refused(anchors, tmp_path):
    trainer = made(CraftTrainer, CraftConfig(str(tmp_path), **BASE | TERMS), anchors=anchors)
    refused = set()
    for name in OptimizerNames:
        trainer.args.optim = name
        try:
            require_exact(trainer)
        except ValueError as error:
            refused.add(str(error).split()[1])
    layerwise = {f"{kind}_layerwise" for kind in ("galore_adamw", "galore_adamw_8bit", "galore_adafactor")}
    assert refused == {"lomo", "adalomo", "apollo_adamw_layerwise"} | layerwise
    with pytest.raises(ValueError, match="optim lomo cannot be used with anchors"):
        made(CraftTrainer, CraftConfig(str(tmp_path), optim="lomo", **BASE | TERMS), anchors=anchors)


class StepsItself(Trainer):
    """Its optimizer steps as soon as there is a gradient, and clears it, as LOMO does."""

    def training_step(self, model, *args, **kwargs):
        loss = super().training_step(model, *args, **kwargs)
        self.optimizer.step()
        model.zero_grad()
        return loss


def test_a_gradient_that_is_gone_is_refused(anchors, tmp_path):
    trainer = made(retaining(StepsItself), CraftConfig(str(tmp_path), **BASE | TERMS), anchors=anchors)
    with pytest.raises(ValueError, match="the backward pass of the task left no gradient to merge"):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "given", "fault"),
    [
        ({"torch_compile": True, "torch_compile_backend": "eager"}, {}, "LlamaForCausalLM under torch_compile or FSDP"),
        ({"label_names": ["start_positions"]}, {}, "looks for `labels`, and a LlamaForCausalLM takes none"),
        ({}, {"compute_loss_func": own_loss}, "compute_loss_func replaces the loss"),
        ({}, {"model": "mixtral"}, "leaves the auxiliary loss of the routers of a MixtralForCausalLM out"),
        ({}, {"model": "qwen2_vl"}, "labels of a Qwen2VLForConditionalGeneration to the next"),
    ],
)
def test_label_smoothing_that_would_be_wrong_is_refused(options, given, fault, anchors, tmp_path):
    config = CraftConfig(str(tmp_path), **BASE | TERMS | {"label_smoothing_factor": 0.1} | options)
    if "model" in given:
        made_here = tiny_mixtral() if given["model"] == "mixtral" else vlm_and_processor(given["model"])[0]
        given, config.teacher_mismatch = {"model": made_here}, "allow"
    with pytest.raises(ValueError, match=rf"label_smoothing_factor is 0.1: .*{fault}.*=SmoothedLoss\(0.1\)"):
        made(CraftTrainer, config, given, anchors=anchors)


class WithoutTrainers(CraftTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(**inputs).loss


class AboveTrainers(CraftTrainer):
    def compute_loss(self, *args, **kwargs):
        return 2 * super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize("kind", [WithoutTrainers, AboveTrainers])
def test_smoothing_beside_a_loss_that_does_not_reach_trainers_is_warned_of(kind, anchors, tmp_path, caplog):
    """It may read the setting itself. Seen to fail: nothing was smoothed, and nothing was said."""
    config = CraftConfig(str(tmp_path), **BASE | TERMS | {"label_smoothing_factor": 0.1})
    made(kind, config, anchors=anchors)
    said = f"label_smoothing_factor 0.1 smooths nothing unless {__name__}.WithoutTrainers.compute_loss reads it"
    assert (said in caplog.text) == (kind is WithoutTrainers)


@pytest.mark.parametrize("smoothing", [-0.5, 1.0])
def test_a_smoothing_out_of_range_is_refused(smoothing):
    """Seen to fail: a negative one was trained with."""
    with pytest.raises(ValueError, match=rf"label_smoothing_factor is {smoothing:g}: it must lie in \[0, 1\)"):
        SmoothedLoss(smoothing)


@pytest.mark.parametrize("replaced", [{"label_smoothing_factor": 0.1}, {"compute_loss_func": own_loss}])
@pytest.mark.parametrize("method", ["replay", "agem", "ewc"])
def test_replay_of_another_loss_than_that_of_the_task_is_refused(method, replaced, anchors, tmp_path):
    """And a Fisher information of another. Seen to fail with ewc, whose was that of the model's own loss."""
    given = {name: value for name, value in replaced.items() if name == "compute_loss_func"}
    options = {name: value for name, value in replaced.items() if name not in given}
    config = CraftConfig(str(tmp_path), method=method, **BASE | options)
    with pytest.raises(ValueError, match=f"method {method} takes the model's own loss on the anchors"):
        made(CraftTrainer, config, given, anchors=anchors)


class OwnLoss(CraftTrainer):
    def compute_loss(self, *args, **kwargs):
        return 1000 * super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize("method", ["replay", "ewc"])
def test_replay_beside_a_trainer_with_a_loss_of_its_own_is_refused(method, anchors, tmp_path):
    """Seen to fail: the task had the loss of the trainer, the anchors that of the model."""
    config = CraftConfig(str(tmp_path), method=method, **BASE)
    with pytest.raises(ValueError, match=rf"method {method} takes .*OwnLoss\.compute_loss replaces on the task"):
        made(OwnLoss, config, {}, anchors=anchors)


def test_smoothed_loss_is_trainers_where_that_is_right(anchors, tmp_path):
    """Whole sequences of labels, one micro-batch of one sample: no first label, no other count of labels."""
    batch = collate([TokenTask(1)[0]])
    batch["labels"][:, 0] = -100
    model = tiny_llama()
    outputs = model(**{key: value for key, value in batch.items() if key != "labels"})
    theirs = LabelSmoother(0.3)(outputs, batch["labels"], shift_labels=True)
    assert SmoothedLoss(0.3)(outputs, batch["labels"]).item() == pytest.approx(theirs.item(), rel=1e-6)
    assert SmoothedLoss(0.0)(outputs, batch["labels"]).item() == pytest.approx(model(**batch).loss.item(), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"torch_compile": True, "torch_compile_backend": "eager"}])
def test_smoothed_loss_counts_labels_over_all_micro_batches(options, anchors, tmp_path):
    """Four of four are one of sixteen. SGD: Adam would magnify rounding."""
    given = {"compute_loss_func": SmoothedLoss(0.3)}
    options |= {"optim": "sgd", "learning_rate": 0.5, "max_steps": 1}
    large = crafted(tmp_path / "large", anchors, options | {"per_device_train_batch_size": 16}, HEAVY, given)
    small = crafted(tmp_path / "small", anchors, options | {"gradient_accumulation_steps": 4}, HEAVY, given)
    start = tiny_llama().state_dict()
    for name, value in large.model.state_dict().items():
        assert torch.allclose(small.model.state_dict()[name], value, rtol=1e-4, atol=1e-6), name
        assert not torch.equal(value, start[name]), name


class Terminated(TrainerCallback):
    """Sends SIGTERM in step 3, and waits until a checkpoint is asked for."""

    def __init__(self, manager):
        self.manager = manager

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.manager.kill_wait = 0
            signal.raise_signal(signal.SIGTERM)

    def on_substep_end(self, args, state, control, **kwargs):
        while state.global_step == 2 and not self.manager.is_checkpoint_requested:
            time.sleep(0.01)


def test_a_checkpoint_before_the_optimizers_step_holds_the_multiplier_before_it(anchors, tmp_path):
    """Of enable_jit_checkpoint."""
    options = {"gradient_accumulation_steps": 2, "max_steps": 4, "enable_jit_checkpoint": True, "multiplier_lr": 5.0}
    whole = crafted(tmp_path / "whole", anchors, options, {})
    cut = made(CraftTrainer, CraftConfig(str(tmp_path / "cut"), **BASE | TERMS | options), anchors=anchors)
    manager = next(one.jit_manager for one in cut.callback_handler.callbacks if hasattr(one, "jit_manager"))
    cut.add_callback(Terminated(manager))
    cut.train()
    config = CraftConfig(str(tmp_path / "cut"), **BASE | TERMS | options)
    resumed = made(CraftTrainer, config, anchors=anchors)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert resumed.dual.multiplier == whole.dual.multiplier
    assert outcome(resumed)["weights"] == outcome(whole)["weights"]
    assert history(tmp_path / "cut") == history(tmp_path / "whole")


def test_resumed_without_its_data(anchors, tmp_path):
    """ignore_data_skip: the data begin anew, the anchors and λ go on. λ = 0 gives what Trainer's resumed run gives."""
    saved = {"save_strategy": "steps", "save_steps": 2, "save_only_model": True, "ignore_data_skip": True}
    runs = []
    for kind, config, more in (
        (Trainer, TrainingArguments, {}),
        (CraftTrainer, CraftConfig, {"anchors": anchors}),
    ):
        settings = TERMS | WITHOUT_WEIGHT if more else {}
        folder = str(tmp_path / kind.__name__)
        trained(kind, config(folder, **BASE | settings | saved | {"max_steps": 2}), **more)
        trainer = made(kind, config(folder, **BASE | settings | saved | {"max_steps": 4}), **more)
        trainer.train(resume_from_checkpoint=True)
        runs.append(outcome(trainer)["weights"])
    assert runs[0] == runs[1]


@pytest.fixture
def deterministic(monkeypatch):
    for name in ("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "ASCEND_LAUNCH_BLOCKING", "HCCL_DETERMINISTIC"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("FLASH_ATTENTION_DETERMINISTIC", "")
    yield
    torch.use_deterministic_algorithms(mode=False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.usefixtures("deterministic")
def test_deterministic_kernels(anchors, tmp_path):
    options = {"full_determinism": True}
    theirs = outcome(plain(tmp_path / "plain", options))
    assert outcome(crafted(tmp_path / "craft", anchors, options)) == theirs


class Small(LlamaForCausalLM):
    """Has memory for two samples."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        if self.training and len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(input_ids, attention_mask, labels=labels, **kwargs)


def test_a_batch_size_that_is_found(anchors, tmp_path):
    """auto_find_batch_size begins the run anew, with λ and the history."""
    torch.manual_seed(0)
    weights = tiny_llama().state_dict()
    runs = []
    for kind, config, more in (
        (Trainer, TrainingArguments(str(tmp_path / "a"), **BASE, auto_find_batch_size=True), {}),
        (
            CraftTrainer,
            CraftConfig(str(tmp_path / "b"), **BASE | TERMS | WITHOUT_WEIGHT, auto_find_batch_size=True),
            {"anchors": anchors, "callbacks": []},
        ),
    ):
        model = Small(tiny_llama().config)
        model.load_state_dict(weights)
        trainer = trained(kind, config, {"model": model}, **more)
        assert trainer.state.train_batch_size == 2
        runs.append(outcome(trainer))
    assert runs[0] == runs[1]
    assert [row["step"] for row in history(tmp_path / "b")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("given", "expected"), [(None, 2), (3, 3)])
def test_without_a_size_of_its_own_a_retention_pass_shrinks_with_the_batch(anchors, tmp_path, given, expected):
    """Seen to fail: the task had 2 samples in its memory, and retention went on with 4 anchors."""
    model = Small(tiny_llama().config)
    model.load_state_dict(tiny_llama().state_dict())
    options = BASE | TERMS | {"retention_batch_size": given, "auto_find_batch_size": True, "teacher_mismatch": "allow"}
    trainer = trained(CraftTrainer, CraftConfig(str(tmp_path), **options), {"model": model}, anchors=anchors)
    assert (trainer.state.train_batch_size, trainer.retention.batch_size) == (2, expected)


def test_the_batch_size_that_was_found_is_told(anchors, tmp_path, capsys, caplog):
    """Seen to fail: run.json, the card and the cost said what was given; λ that cannot follow was told at every try."""
    model = Small(tiny_llama().config)
    options = BASE | TERMS | {"auto_find_batch_size": True, "teacher_mismatch": "allow", "multiplier_lr": 1e-3}
    trainer = trained(CraftTrainer, CraftConfig(str(tmp_path), **options), {"model": model}, anchors=anchors)
    assert recorded(tmp_path / "run.json", "settings", "per_device_train_batch_size") == 2
    assert trainer.run_facts().training["per_device_train_batch_size"] == "2"
    assert "of a task pass (2 samples)" in capsys.readouterr().out
    assert caplog.text.count("λ can hardly follow") == 1


def test_a_training_after_an_evaluation_in_bfloat16_is_not_that_of_the_anchors_teacher(anchors, tmp_path):
    """bf16_full_eval casts the model when it is evaluated by hand, and a training after that goes on with it."""
    config = CraftConfig(str(tmp_path), **BASE | TERMS, bf16_full_eval=True)
    trainer = made(CraftTrainer, config, anchors=anchors)
    trainer.evaluate()
    with pytest.raises(ValueError, match="teacher"):
        trainer.train()


def test_a_low_rank_optimizer(anchors, tmp_path):
    """optim_target_modules and optim_args; layer by layer it is refused."""
    pytest.importorskip("apollo_torch", reason="pip install apollo-torch")
    options = {"optim": "apollo_adamw", "optim_target_modules": ["q_proj"], "optim_args": "rank=2"}
    theirs = outcome(plain(tmp_path / "plain", options))
    assert outcome(crafted(tmp_path / "craft", anchors, options)) == theirs
