"""What one process trains and two do: 8 samples and 8 anchors per micro-batch, whatever the number of processes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedDataParallelKwargs
from peft import LoraConfig, get_peft_model
from runs import BASE, OwnStep
from tiny_lm import CHECKPOINTING, TokenTask, collate, lm_anchors, old_rows, tiny_llama
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from toy import HIDDEN, OUTPUTS, ToyModel, ToyTask, toy_anchors
from transformers import TrainerCallback

from craft_trainer import CraftConfig, CraftTrainer, retaining
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.models.families import as_anchored_model

BATCH_SIZE = 8
GROUPS = ["drawer"] * 4 + ["door"] * 8 + ["window"] * 12
CLOCK = {"train_runtime", "train_samples_per_second", "train_steps_per_second"}
OF_ONE_BATCH = {"retention/task_kl"}  # of the main process's first, which is smaller where there are more processes


def chosen(x: torch.Tensor) -> torch.Tensor:
    """Which samples take the routed part."""
    return x[:, 0, 0] > 0.9


class RoutedModel(ToyModel):
    """A toy with a part that few samples take: some batches leave it untouched, and the task always does."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.seldom = nn.Linear(HIDDEN, OUTPUTS)

    def predict(self, batch):
        hidden = torch.tanh(self.encoder(batch["x"]))
        prediction, routed = self.head(hidden), chosen(batch["x"])
        return prediction + routed[:, None, None] * self.seldom(hidden) if routed.any() else prediction


def adapted_llama():
    """A language model whose adapter has an effect from the start: its teacher is the base."""
    adapter = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    return get_peft_model(tiny_llama(), adapter)


class WatchedCache(AnchorCache):
    """An anchor cache that remembers which rows were asked of it."""

    def __init__(self, folder):
        super().__init__(folder)
        self.asked = []

    def batch(self, rows, **kwargs):
        self.asked.append(list(rows))
        return super().batch(rows, **kwargs)


@dataclass(frozen=True)
class Case:
    """One training run."""

    options: dict[str, Any] = field(default_factory=dict)
    model: Callable[[], nn.Module] = ToyModel
    anchors: str = "toy"  # name of a cache, or "adapter"
    ddp: dict[str, Any] | None = None  # settings of DistributedDataParallel that Trainer does not hand through
    fsdp: str = ""  # how FSDP shards the model where there are several processes; by default it does not
    sharded: dict[str, Any] = field(default_factory=lambda: {"fsdp_config": {"fsdp_version": 2}})  # options of it
    loaded_once: bool = False  # the main process alone has the weights before they are sharded
    kind: type[Any] = CraftTrainer


LM = {"retention_terms": ["hidden", "token_kl"], "optim": "sgd", "learning_rate": 0.1}
ADAPTED = LM | {"teacher_mismatch": "allow"}  # the adapter has an effect from the start
PER_GROUP = {"constraints": "per_group", "epsilon_per_group": {"door": 0.01}}
NONE = {"surgery": "none", "update_angle_every": 10}
JOINT = NONE | {"backward": "joint"}
JOINT_OPTIONS: dict[str, dict[str, Any]] = {
    "accumulation": {"gradient_accumulation_steps": 2},
    "every_second_step": {"retention_every": 2},
    "known_use": {"ddp_find_unused_parameters": False},
    "l2": {"method": "l2", "surgery": "one_sided"},
}
TINY_BUCKETS = {"gradient_as_bucket_view": True, "bucket_cap_mb": 1e-5}
RECOMPUTING = {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}}
WHOLE, PER_LAYER = "full_shard", "full_shard auto_wrap"

DDP_CASES = {
    "one_sided": Case(),
    "none": Case({"surgery": "none"}),
    "symmetric": Case({"surgery": "symmetric"}),
    "barrier": Case({"surgery": "barrier", "multiplier_lr": 0.1}),
    "pi": Case({"multiplier": "pi"}),
    "unclipped_sgd": Case({"max_grad_norm": 0.0, "optim": "sgd"}),
    "per_group": Case(PER_GROUP),
    "accumulation": Case({"gradient_accumulation_steps": 2}),
    "every_second_step": Case({"retention_every": 2}),
    "probe": Case({"epsilon_probe_steps": 2, "epsilon": 0.1}),
    "layer": Case({"granularity": "layer"}),
    "hidden_only": Case({"retention_terms": ["hidden"]}),
    "replay": Case({"method": "replay"}),
    "l2": Case({"method": "l2"}),
    "ewc": Case({"method": "ewc"}),
    "routed": Case(model=RoutedModel, anchors="routed"),
    "bucket_view": Case({"ddp_find_unused_parameters": False}, ddp=TINY_BUCKETS),
    "bucket_view_accumulation": Case({"gradient_accumulation_steps": 2, "granularity": "layer"}, ddp=TINY_BUCKETS),
    "bucket_view_routed": Case(
        model=RoutedModel, anchors="routed", ddp=TINY_BUCKETS | {"find_unused_parameters": True}
    ),
    "static_graph": Case(ddp={"static_graph": True}),
    "lm": Case(LM, tiny_llama, "lm"),
    "lm_accumulation": Case(LM | {"gradient_accumulation_steps": 2}, tiny_llama, "lm"),
    "lm_checkpointing": Case(LM | RECOMPUTING, tiny_llama, "lm"),
    "lm_replay": Case(LM | {"method": "replay"}, tiny_llama, "lm"),
    "lm_adapter": Case(ADAPTED, adapted_llama, "adapter"),
    **{f"none_{name}": Case(NONE | JOINT_OPTIONS[name]) for name in ("accumulation", "every_second_step")},
    "none_lm_accumulation": Case(LM | NONE | {"gradient_accumulation_steps": 2}, tiny_llama, "lm"),
    **{f"joint_{name}": Case(JOINT | options) for name, options in JOINT_OPTIONS.items()},
    "joint_lm_accumulation": Case(LM | JOINT | {"gradient_accumulation_steps": 2}, tiny_llama, "lm"),
    "own_step": Case(NONE | {"gradient_accumulation_steps": 2}, kind=retaining(OwnStep)),
    "lm_count_per_process": Case(LM | {"average_tokens_across_devices": False}, tiny_llama, "lm"),
}
FSDP_CASES = {
    f"fsdp_{name}": replace(DDP_CASES[name], fsdp=sharding)
    for sharding, names in {
        WHOLE: "one_sided accumulation per_group hidden_only lm_adapter joint_accumulation joint_every_second_step",
        PER_LAYER: "lm lm_accumulation joint_lm_accumulation",
    }.items()
    for name in names.split()
} | {
    "fsdp_lm_adapter_per_layer": Case(ADAPTED, adapted_llama, "adapter", fsdp=PER_LAYER),
    "fsdp_lm_loaded_once": Case(LM, tiny_llama, "lm", fsdp=PER_LAYER, loaded_once=True),
    "fsdp_lm_adapter_loaded_once": Case(ADAPTED, adapted_llama, "adapter", fsdp=PER_LAYER, loaded_once=True),
}
OF_VERSION_1 = {"fsdp_version": 1, "sync_module_states": False, "use_orig_params": True}
FLAT = OF_VERSION_1 | {"use_orig_params": False}
FSDP_1 = {"backward": "separate", "fsdp_config": OF_VERSION_1}  # it becomes joint
FSDP_1_CASES = {
    "fsdp1_accumulation": replace(DDP_CASES["joint_accumulation"], fsdp=WHOLE, sharded=FSDP_1),
    "fsdp1_every_second_step": replace(DDP_CASES["joint_every_second_step"], fsdp=WHOLE, sharded=FSDP_1),
    "fsdp1_hidden_only": Case(JOINT | {"retention_terms": ["hidden"]}, fsdp=WHOLE, sharded=FSDP_1),
    "fsdp1_flat": Case(JOINT, fsdp=WHOLE, sharded=FSDP_1 | {"fsdp_config": FLAT}),
    "fsdp1_lm": replace(DDP_CASES["joint_lm_accumulation"], fsdp=PER_LAYER, sharded=FSDP_1),
    "fsdp1_lm_adapter": Case(ADAPTED | JOINT, adapted_llama, "adapter", fsdp=PER_LAYER, sharded=FSDP_1),
}
CASES = DDP_CASES | FSDP_CASES | FSDP_1_CASES
RESUMED = Case(PER_GROUP | {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "retention_every": 2})


def build_anchors(folder: Path) -> None:
    """The caches that the cases name."""
    toy_anchors(folder / "toy", groups=GROUPS)
    toy_anchors(folder / "routed", model=RoutedModel())
    lm_anchors(folder / "lm")


def train(
    case: Case, anchors: Path, output_dir: Path, *, rank: int = 0, num_processes: int = 1, resume=None, callbacks=()
) -> dict[str, Any]:
    """Train as process ``rank`` of ``num_processes``; what came of it, in plain values and whole tensors."""
    model = case.model()
    is_toy = isinstance(model, ToyModel)
    source: Any = _live_anchors(model) if case.anchors == "adapter" else WatchedCache(anchors / case.anchors)
    one_process = {"per_device_train_batch_size": BATCH_SIZE, "retention_batch_size": BATCH_SIZE}
    options = {name: size // num_processes for name, size in one_process.items()} | case.options
    if case.fsdp and num_processes > 1:
        loading = {"cpu_ram_efficient_loading": case.loaded_once}
        options |= case.sharded | {"fsdp": case.fsdp, "fsdp_config": case.sharded["fsdp_config"] | loading}
    if case.loaded_once and rank > 0:
        forget(model)
    trainer = case.kind(
        model,
        CraftConfig(output_dir=str(output_dir), **BASE | {"max_steps": 4} | options),
        anchors=source,
        train_dataset=ToyTask() if is_toy else TokenTask(),
        data_collator=None if is_toy else collate,
        callbacks=list(callbacks),
    )
    if case.ddp is not None:
        trainer.accelerator.ddp_handler = DistributedDataParallelKwargs(**case.ddp)
    trainer.train(resume_from_checkpoint=resume)
    return {
        "weights": weights_of(trainer.model),
        "multipliers": {group: constraint.multiplier for group, constraint in trainer.dual.constraints.items()},
        "asked": getattr(source, "asked", []),
        "logs": [{k: v for k, v in log.items() if k not in CLOCK | OF_ONE_BATCH} for log in trainer.state.log_history],
    }


@torch.no_grad()
def forget(model: nn.Module) -> None:
    """What transformers leaves where it loads weights in the main process alone: uninitialised memory."""
    for parameter in model.parameters():
        parameter.fill_(torch.nan)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the parameters, whole, whatever part of them this process holds."""
    with FullyShardedDataParallel.summon_full_params(model, writeback=False):  # nothing if no version 1 shards it
        named = model.named_parameters()
        return {name.replace("_fsdp_wrapped_module.", ""): whole(value) for name, value in named}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of all of a tensor, whatever part of it this process holds."""
    if hasattr(tensor, "ds_id"):  # a part of DeepSpeed ZeRO 3
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    detached = tensor.detach()
    return (detached.full_tensor() if isinstance(detached, DTensor) else detached).clone()


class Stop(TrainerCallback):
    """Ends a run as an interruption would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def _live_anchors(model: nn.Module) -> AdapterAnchors:
    view = as_anchored_model(model)
    specs = [FeatureSpec(view.module_path(-2), "mean_masked")]
    return AdapterAnchors(view, old_rows, ["old"] * 24, specs)
