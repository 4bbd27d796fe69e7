"""Processes that were started together train together, or not at all."""

from types import SimpleNamespace

import pytest
from accelerate import ParallelismConfig
from accelerate.utils import DistributedType

from craft_trainer.training.distribution import require_joined_processes, require_visible_gradients


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    """Seen to fail when the two numbers are not compared."""
    args = SimpleNamespace(world_size=1, output_dir="outputs/craft")
    require_joined_processes(args)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"2 processes were started but 1 would .* in outputs/craft"):
        require_joined_processes(args)


def accelerator(mode=DistributedType.NO, fsdp_version=None, parallelism=None):
    plugin = None if fsdp_version is None else SimpleNamespace(fsdp_version=fsdp_version)
    return SimpleNamespace(
        distributed_type=mode, state=SimpleNamespace(fsdp_plugin=plugin), parallelism_config=parallelism
    )


@pytest.mark.parametrize(
    ("seen", "gpus", "fault"),
    [
        ({"mode": DistributedType.DEEPSPEED}, 1, "cannot see gradients under DEEPSPEED"),
        ({"mode": DistributedType.MEGATRON_LM}, 1, "cannot see gradients under MEGATRON_LM"),
        ({"mode": DistributedType.XLA}, 1, "cannot see gradients under XLA"),
        ({"mode": DistributedType.FSDP, "fsdp_version": 1}, 1, "cannot see gradients under FSDP"),
        ({}, 2, "sees 2 GPUs in one process"),
        ({"parallelism": ParallelismConfig(tp_size=2)}, 1, "tensor, context or sequence parallelism"),
        ({"parallelism": ParallelismConfig(cp_size=2)}, 1, "tensor, context or sequence parallelism"),
        ({"parallelism": ParallelismConfig(sp_size=2)}, 1, "tensor, context or sequence parallelism"),
    ],
)
def test_what_hides_gradients_is_refused(seen, gpus, fault):
    with pytest.raises(ValueError, match=fault):
        require_visible_gradients(accelerator(**seen), SimpleNamespace(n_gpu=gpus))


@pytest.mark.parametrize("seen", [{}, {"mode": DistributedType.FSDP, "fsdp_version": 2}])
def test_what_shows_gradients_is_not(seen):
    require_visible_gradients(accelerator(**seen), SimpleNamespace(n_gpu=1))
