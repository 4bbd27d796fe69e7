"""Find the distributed modes that show CraftTrainer its gradients, and sum over processes."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    broadcast_object_list,
    gather_object,
    parse_flag_from_env,
    recursively_apply,
)
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    StateDictType,
    register_fsdp_forward_method,
)
from transformers import TrainingArguments

WHOLE = {DistributedType(name) for name in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU")}  # or DDP
OF_ONE_PROCESS = (  # beginnings of the names of settings in which processes may differ
    *("local_rank", "output_dir", "log", "run_name", "report_to", "disable_tqdm", "project", "trackio"),
    *("hub_", "push_to_hub", "dataloader_"),
)
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
DEEPSPEED, FSDP_1 = "DeepSpeed", "FSDP version 1"


def require_deepspeed(args: TrainingArguments) -> None:
    """Refuse, by an ImportError, DeepSpeed where it is not installed; transformers would name no package."""
    if (args.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")) and find_spec("deepspeed") is None:
        raise ImportError(
            "DeepSpeed is asked for (by `deepspeed`, or by the accelerate configuration) and is not installed: "
            "pip install deepspeed"
        )


def require_device_of_engine(args: TrainingArguments) -> None:
    """Refuse, by a ValueError, FSDP version 1 on a machine without an accelerator, which neither it nor DDP can use."""
    if engine_that_hides(args) == FSDP_1 and not torch.accelerator.is_available():
        raise ValueError(
            "FSDP version 1 is asked for (by `fsdp`, or by the accelerate configuration) and needs an accelerator, "
            "which this machine lacks: use configs/accelerate/ddp.yaml or cpu.yaml"
        )


def engine_that_hides(args: TrainingArguments) -> str | None:
    """The engine that ``args`` or accelerate's environment ask for, if it hides gradients; before it has started."""
    if args.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return DEEPSPEED
    by_arguments = bool(args.fsdp) and int((args.fsdp_config or {}).get("version", 1)) == 1
    by_launcher = (
        not args.fsdp and parse_flag_from_env("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") == "1"
    )
    return FSDP_1 if by_arguments or by_launcher else None


def hidden_by(accelerator: Accelerator) -> str | None:
    """The engine that hides gradients from ``.grad``; None where they are there."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return DEEPSPEED
    is_fsdp = accelerator.distributed_type == DistributedType.FSDP
    return FSDP_1 if is_fsdp and not is_sharded(accelerator) else None


def splits_parameters(accelerator: Accelerator) -> bool:
    """True if a process has only a part of each parameter between passes: FSDP and DeepSpeed ZeRO 3."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return bool(accelerator.state.deepspeed_plugin.zero_stage == 3)
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def as_weights_are(inputs: Any, network: torch.nn.Module, accelerator: Accelerator) -> Any:
    """``inputs`` with their floats in the type of the weights under DeepSpeed, as Trainer gives them for the task.

    DeepSpeed turns the weights into bf16 or fp16, and has no autocast that would do it in between.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return inputs
    dtype = next(weight.dtype for weight in network.parameters() if weight.is_floating_point())
    return recursively_apply(lambda tensor: tensor.to(dtype), inputs, test_type=_is_float)


def is_partitioned(network: torch.nn.Module) -> bool:
    """True if ``deepspeed.zero.Init`` has split the parameters already, when the model was loaded."""
    return any(hasattr(parameter, "ds_id") for parameter in network.parameters())


def require_whole(network: torch.nn.Module, cannot: str, way_out: str) -> None:
    """Refuse, by a ValueError, a model that is partitioned, which ``cannot`` do what it says; name a ``way_out``."""
    if is_partitioned(network):
        raise ValueError(
            f"DeepSpeed ZeRO 3 has split the model when it was loaded, so {cannot}: load it before the arguments are "
            f"made, or {way_out}"
        )


def require_supported_mode(accelerator: Accelerator, args: TrainingArguments) -> None:
    """Refuse, by a ValueError, what can train with neither backward: DataParallel, XLA, Megatron-LM, split samples."""
    mode = accelerator.distributed_type
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and mode != DistributedType.FSDP:
        raise ValueError(
            "the accelerate configuration asks for FSDP, which accelerate has on GPUs only and would replace by "
            f"{mode.value} here: use configs/accelerate/ddp.yaml or cpu.yaml"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"CraftTrainer with anchors sees {args.n_gpu} GPUs in one process, which Trainer would drive by "
            "DataParallel: start it with `accelerate launch`, one process per GPU, or set CUDA_VISIBLE_DEVICES=0"
        )
    if mode not in WHOLE and not splits_parameters(accelerator) and mode != DistributedType.DEEPSPEED:
        raise ValueError(
            f"CraftTrainer with anchors cannot see gradients under {mode.value}: use DDP (`accelerate launch "
            "--multi_gpu`) or FSDP version 2 (`fsdp_version: 2` in the accelerate configuration)"
        )
    parallel = getattr(accelerator, "parallelism_config", None)
    if parallel is not None and (parallel.tp_enabled or parallel.cp_enabled or parallel.sp_enabled):
        raise ValueError(
            "CraftTrainer with anchors does not support tensor, context or sequence parallelism (parallelism_config): "
            "use DDP or FSDP2"
        )


def require_joined_processes(args: TrainingArguments) -> None:
    """Refuse, by a RuntimeError, processes of one launcher that would each train alone, in the same folder."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if args.world_size != started:
        raise RuntimeError(
            f"{started} processes were started but {args.world_size} would train together, each in {args.output_dir}: "
            "make the CraftConfig before any Accelerator or PartialState of another kind, or start one process"
        )


def require_agreement(args: TrainingArguments, **more: Any) -> None:
    """Refuse, by a ValueError, processes of one training that were told different settings, or ``more`` of theirs.

    They would hang where one waits for another, or train by the settings of all of them at once.
    """
    if args.world_size == 1:
        return
    told = {name: value for name, value in args.to_dict().items() if not name.startswith(OF_ONE_PROCESS)} | more
    everyone = gather_object([{name: ADDRESS.sub("", str(value)) for name, value in told.items()}])
    for name in told:
        values = [one.get(name) for one in everyone]
        if len(set(values)) > 1:
            raise ValueError(
                f"the processes of this training disagree on {name}: {', '.join(map(str, values))}, by their number: "
                "give all of them the same"
            )


def has_whole_shapes(accelerator: Accelerator) -> bool:
    """True if parameters say their whole shapes; under FSDP version 1 and DeepSpeed ZeRO 3 they are flat parts."""
    return is_sharded(accelerator) or not splits_parameters(accelerator)


def is_sharded(accelerator: Accelerator) -> bool:
    """True if FSDP version 2 shards the parameters; it averages their gradients by itself."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    return accelerator.distributed_type == DistributedType.FSDP and plugin is not None and plugin.fsdp_version == 2


@contextmanager
def whole_weights(accelerator: Accelerator) -> Iterator[None]:
    """Let Trainer's ``save_model`` write whole weights inside; it writes none where FSDP keeps its states in shards."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        yield
        return
    of_states, plugin.state_dict_type = plugin.state_dict_type, StateDictType.FULL_STATE_DICT
    try:
        yield
    finally:
        plugin.state_dict_type = of_states


def gather_for_predict(network: torch.nn.Module) -> None:
    """Let FSDP2 gather the shards for ``network.predict`` as it does for ``forward``; nothing for other modules."""
    if isinstance(network, FSDPModule) and hasattr(network, "predict"):
        register_fsdp_forward_method(network, "predict")


def through_root[Value](root: torch.nn.Module, compute: Callable[[], Value]) -> Value:
    """What ``compute`` gives; made inside the forward pass of ``root`` if FSDP version 1 shards it.

    Only there are the parameters gathered, and for the backward pass of the tensors that come out of it.
    """
    if not isinstance(root, FullyShardedDataParallel):
        return compute()
    inner = root.module
    forward = inner.forward

    def once(*_: Any, **__: Any) -> Value:
        inner.forward = forward
        return compute()

    inner.forward = once
    try:
        value: Value = root()
    finally:
        inner.forward = forward
    return value


def of_main_process[Value](make: Callable[[], Value], accelerator: Accelerator) -> Value:
    """Return what ``make`` gives; of the main process where FSDP2 will hand the weights out."""
    if not is_sharded(accelerator):
        return make()
    made = [make() if accelerator.is_main_process else None]
    broadcast_object_list(made)
    assert made[0] is not None
    return made[0]


def sums_over_processes[Key](values: Mapping[Key, torch.Tensor], num_processes: int) -> dict[Key, float]:
    """Every value summed over all processes: one all-reduce and one transfer."""
    stacked = torch.stack([value.detach().double() for value in values.values()])
    if num_processes > 1:
        dist.all_reduce(stacked)
    return dict(zip(values, stacked.tolist(), strict=True))


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
