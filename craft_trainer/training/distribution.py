"""Which distributed modes show CraftTrainer its gradients, and sums over processes."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from torch.distributed.fsdp import FSDPModule, StateDictType, register_fsdp_forward_method
from transformers import TrainingArguments

WHOLE = {DistributedType(name) for name in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU")}  # or DDP


def require_visible_gradients(accelerator: Accelerator, args: TrainingArguments) -> None:
    """Refuse, by a ValueError, DeepSpeed, FSDP version 1 and all modes in which ``.grad`` is not what is applied."""
    mode = accelerator.distributed_type
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and mode != DistributedType.FSDP:
        raise ValueError(
            "the accelerate configuration asks for FSDP, which accelerate has on GPUs only and would replace by "
            f"{mode.value} here: use configs/accelerate/ddp.yaml or cpu.yaml"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"CraftTrainer with anchors sees {args.n_gpu} GPUs in one process, which Trainer would drive by "
            "DataParallel: start it with `accelerate launch`, one process per GPU, or set CUDA_VISIBLE_DEVICES=0"
        )
    if not has_whole_shapes(accelerator):
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


def has_whole_shapes(accelerator: Accelerator) -> bool:
    """Whether parameters say their whole shapes; under FSDP version 1 and DeepSpeed they are flat parts."""
    return accelerator.distributed_type in WHOLE or is_sharded(accelerator)


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether FSDP version 2 shards the parameters; it averages their gradients by itself."""
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


def of_main_process[Value](make: Callable[[], Value], accelerator: Accelerator) -> Value:
    """What ``make`` gives; of the main process where FSDP2 will hand the weights out, which it alone may have."""
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
