"""CRaFT on HuggingFace causal language models: the same exactness where Trainer does more than add up losses."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from runs import BASE, assert_same_weights, history
from tiny_lm import CHECKPOINTING, TokenTask, collate, lm_anchors, tiny_llama
from transformers import AutoModelForCausalLM

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.features import extract
from craft_trainer.losses.distillation import retention_loss
from craft_trainer.losses.terms import TERMS
from craft_trainer.models.families import as_anchored_model
from craft_trainer.training.callbacks import TASK_KL

LM = BASE | {"retention_terms": ["hidden", "token_kl"], "learning_rate": 0.01, "max_steps": 4}


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    return lm_anchors(tmp_path_factory.mktemp("lm") / "cache")


def train(folder, anchors, *, model=None, resume=None, **changes):
    trainer = CraftTrainer(
        model or tiny_llama(),
        CraftConfig(output_dir=str(folder), **LM | changes),
        anchors=anchors,
        train_dataset=TokenTask(),
        data_collator=collate,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def parameters(trainer):
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_close(left, right, *, atol=1e-6):
    left, right = parameters(left), parameters(right)
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], atol=atol, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_same_history(left, right, **tolerance):
    rows = list(zip(history(left), history(right), strict=True))
    assert rows
    for a, b in rows:
        assert a == pytest.approx(b, **tolerance)


@pytest.mark.parametrize("average_tokens", [True, False])
def test_accumulation_counts_tokens_as_one_large_batch_does(tmp_path, anchors, average_tokens):
    """Samples have different numbers of labels, so means of micro-batch means would differ: with labels that all
    count once (num_items_in_batch) 4×4 is 1×16. SGD: Adam would magnify rounding. Seen to fail with the task loss
    of the last micro-batch alone."""
    options = {"optim": "sgd", "learning_rate": 0.1, "average_tokens_across_devices": average_tokens}
    large = train(tmp_path / "large", anchors, per_device_train_batch_size=16, **options)
    small = train(tmp_path / "small", anchors, per_device_train_batch_size=4, gradient_accumulation_steps=4, **options)
    assert_close(large, small)
    assert_same_history(tmp_path / "large", tmp_path / "small", rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("granularity", ["model", "layer"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(tmp_path, anchors, reentrant, granularity):
    """Seen to fail with the retention pass in training mode: reentrant checkpointing cuts the graph of a captured
    hidden state."""
    plain = train(tmp_path / "plain", anchors, granularity=granularity)
    checkpointed = train(
        tmp_path / "checkpointed",
        anchors,
        granularity=granularity,
        **{CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": reentrant}},
    )
    assert_close(plain, checkpointed)


@pytest.mark.parametrize("granularity", ["model", "layer"])
def test_frozen_parameters_stay_and_the_others_do_not_notice(tmp_path, anchors, granularity):
    """Seen to fail with every parameter, frozen ones included, given to the merge."""
    model = tiny_llama()
    model.model.embed_tokens.requires_grad_(False)
    frozen = model.model.embed_tokens.weight.detach().clone()
    trainer = train(tmp_path, anchors, model=model, granularity=granularity)
    assert torch.equal(trainer.model.model.embed_tokens.weight, frozen)
    start = dict(tiny_llama().named_parameters())
    moved = [name for name, value in parameters(trainer).items() if not torch.equal(value, start[name])]
    assert "model.embed_tokens.weight" not in moved
    assert len(moved) == len(start) - 1
    assert history(tmp_path)[-1]["retention_grad_norm"] > 0


def test_what_only_the_task_reaches_still_learns(tmp_path, anchors):
    """The LM head is beyond the anchored layer; its gradient must survive the merge. Seen to fail with gradients of
    parameters that retention leaves alone dropped."""
    trainer = train(tmp_path, anchors, retention_terms=["hidden"], max_steps=2)
    start = dict(tiny_llama().named_parameters())
    for name in ("lm_head.weight", "model.norm.weight", "model.layers.2.mlp.up_proj.weight"):
        assert not torch.equal(parameters(trainer)[name], start[name]), name


def lora(seed=0):
    model = tiny_llama(seed)
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM"))


def test_surgery_over_adapters_leaves_the_base_alone(tmp_path, anchors):
    """A cache of the base model is the teacher of a fresh adapter. Seen to fail with a digest that counts
    an adapter which does nothing yet."""
    trainer = train(tmp_path, anchors, model=lora())
    base = {name: value for name, value in parameters(trainer).items() if "lora_" not in name}
    untouched = {name: value for name, value in lora().named_parameters() if "lora_" not in name}
    assert_same_weights(base, untouched)
    assert history(tmp_path)[0]["retention_loss"] == pytest.approx(0, abs=1e-6)
    assert history(tmp_path)[-1]["retention_loss"] > 1e-6


def test_an_adapter_that_was_moved_is_another_teacher(tmp_path, anchors):
    model = lora()
    with torch.no_grad():
        model.base_model.model.model.layers[0].self_attn.q_proj.lora_B.default.weight.fill_(0.1)
    with pytest.raises(ValueError, match="teacher_mismatch=allow"):
        train(tmp_path, anchors, model=model)


def test_bf16_autocast_follows_float32(tmp_path, anchors):
    """bfloat16 has 8 bits: the same course within a few percent, with weights that stay float32."""
    full = train(tmp_path / "full", anchors, optim="sgd", learning_rate=0.1)
    half = train(tmp_path / "half", anchors, optim="sgd", learning_rate=0.1, bf16=True)
    start = torch.cat([value.flatten() for value in tiny_llama().parameters()])
    moves = [torch.cat([value.flatten() for value in parameters(run).values()]) - start for run in (full, half)]
    assert {value.dtype for value in parameters(half).values()} == {torch.float32}
    assert torch.cosine_similarity(*moves, dim=0) > 0.98
    for a, b in zip(history(tmp_path / "full"), history(tmp_path / "half"), strict=True):
        assert b["task_loss"] == pytest.approx(a["task_loss"], rel=0.02)
        assert b["task_grad_norm"] == pytest.approx(a["task_grad_norm"], rel=0.05)


class ScaledTrainer(CraftTrainer):
    """fp16's gradient scaler on the CPU, where accelerate offers none."""

    scale = 1.0

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        scaler = torch.amp.GradScaler("cpu", init_scale=self.scale, growth_interval=10**6)
        self.accelerator.scaler = scaler
        self.accelerator.unscale_gradients = lambda optimizer=None: scaler.unscale_(self.optimizer.optimizer)


def scaled(folder, anchors, *, scale, **changes):
    trainer = type("Scaled", (ScaledTrainer,), {"scale": scale})(
        tiny_llama(),
        CraftConfig(output_dir=str(folder), **LM | {"optim": "sgd", "max_grad_norm": 0.5} | changes),
        anchors=anchors,
        train_dataset=TokenTask(),
        data_collator=collate,
    )
    trainer.train()
    return trainer


def test_a_scaled_run_is_the_run_without_a_scaler(tmp_path, anchors):
    """The scale is a power of two, so it rounds nothing away. Seen to fail with the norms logged unscaled."""
    reference = train(tmp_path / "plain", anchors, optim="sgd", max_grad_norm=0.5)
    assert_close(reference, scaled(tmp_path / "scaled", anchors, scale=2.0**10))
    assert_same_history(tmp_path / "plain", tmp_path / "scaled", rel=1e-3, abs=1e-6)


def test_an_overflow_skips_surgery_dual_step_and_weights_and_the_scaler_backs_off(tmp_path, anchors):
    """At 2¹²⁷ the loss itself overflows float32, down to about 2⁶⁴ the squared norm of a gradient; then it holds.

    Seen to fail with the dual step taken whatever the gradients.
    """
    trainer = scaled(tmp_path, anchors, scale=2.0**127, max_steps=72)
    rows = history(tmp_path)
    num_overflows = sum(math.isnan(row["cosine"]) for row in rows)
    assert 60 < num_overflows < 70
    assert all(math.isnan(row["cosine"]) for row in rows[:num_overflows])
    assert trainer.accelerator.scaler.get_scale() == 2.0 ** (127 - num_overflows)
    assert {row["multiplier"] for row in rows[: num_overflows + 1]} == {1.0}  # the first good step has λ_0
    assert rows[num_overflows + 1]["multiplier"] != 1.0
    assert rows[num_overflows]["retention_loss"] == pytest.approx(0, abs=1e-6)  # no weight had moved
    assert rows[-1]["retention_loss"] > 1e-6
    assert all(torch.isfinite(value).all() for value in parameters(trainer).values())


def test_resumed_in_the_middle_of_an_accumulation_window_is_never_killed(tmp_path, anchors):
    """Killed after two of three micro-batches of step 4; the checkpoint is that of step 2. Seen to fail with λ not
    restored."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        seen = 0

        def on_substep_end(self, args, state, control, **kwargs):
            self.seen += state.global_step == 3
            if self.seen == 2:
                raise KeyboardInterrupt

    options = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 3,
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "epsilon_schedule": "exponential",
        "epsilon_final": 1e-4,
        "multiplier": "pi",
    }
    whole = train(tmp_path / "whole", anchors, **options)
    trainer = CraftTrainer(
        tiny_llama(),
        CraftConfig(output_dir=str(tmp_path / "cut"), **LM | options),
        anchors=anchors,
        train_dataset=TokenTask(),
        data_collator=collate,
        callbacks=[Stop()],
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed = train(tmp_path / "cut", anchors, resume=str(tmp_path / "cut" / "checkpoint-2"), **options)
    assert_same_weights(parameters(whole), parameters(resumed))
    assert whole.dual.constraints == resumed.dual.constraints
    assert whole.dual.rounding == resumed.dual.rounding
    files = [(tmp_path / run / "lambda_history.csv").read_bytes() for run in ("whole", "cut")]
    assert files[0] == files[1]


def test_drift_on_the_task_is_logged_without_old_data(tmp_path, anchors):
    """KL(teacher‖student) starts near 0 and grows; task_kl_samples = 0 logs none."""
    trainer = train(tmp_path / "with", anchors, max_steps=6)
    kl = [log[TASK_KL] for log in trainer.state.log_history if TASK_KL in log]
    assert len(kl) == 6
    assert 0 < kl[0] < kl[-1]
    silent = train(tmp_path / "without", anchors, max_steps=6, task_kl_samples=0)
    assert not any(TASK_KL in log for log in silent.state.log_history)
    assert_same_weights(parameters(trainer), parameters(silent))


@pytest.mark.parametrize("terms", [["token_ce"], ["token_kl"], ["hidden", "token_kl"]])
def test_token_modes_hold_the_teachers_tokens(tmp_path, anchors, terms):
    """A large λ keeps what it holds far below what plain fine-tuning leaves of it."""

    def retained(trainer):
        batch = anchors.batch(range(24))
        with torch.no_grad():
            student = extract(as_anchored_model(trainer.model), batch.inputs, anchors.specs, output=True)
        held = {TERMS[name](): 1.0 for name in terms}
        loss = retention_loss(student, batch.teacher, anchors.scales(), held)
        return loss.mean().item()

    options = {"max_steps": 30, "logging_steps": 30}
    plain = train(tmp_path / "plain", anchors, method="plain", **options)
    held = train(
        tmp_path / "held", anchors, method="weighted_sum", multiplier_init=30.0, retention_terms=terms, **options
    )
    assert retained(held) < 0.5 * retained(plain)


def test_the_result_is_an_ordinary_checkpoint(tmp_path, anchors):
    trainer = train(tmp_path, anchors)
    trainer.save_model()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_same_weights(dict(trainer.model.state_dict()), dict(loaded.state_dict()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
def test_a_compiled_model_is_trained_alike(tmp_path, anchors):
    """The task pass is compiled, the retention pass runs the original module on the same parameters."""
    eager = train(tmp_path / "eager", anchors, max_steps=3, optim="sgd")
    compiled = train(tmp_path / "compiled", anchors, max_steps=3, optim="sgd", torch_compile_backend="aot_eager")
    assert type(compiled.model_wrapped).__name__ == "OptimizedModule"
    assert_close(eager, compiled, atol=1e-5)
    assert history(tmp_path / "compiled")[-1]["retention_grad_norm"] > 0
