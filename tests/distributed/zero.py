"""One of two processes that share a model by DeepSpeed: every stage of ZeRO, whole runs and one that is cut.

Only ``test_deepspeed.py`` starts it, where DeepSpeed is installed.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from cases import ADAPTED, JOINT, LM, RESUMED, Case, adapted_llama, train
from tiny_lm import tiny_llama
from two_processes import Work, cut_and_resume, outcome

COLLECTIVE_TIMEOUT = timedelta(seconds=120)
STAGES = {
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero3": {"stage": 3},  # so small a model stays whole
    "zero3_split": {"stage": 3, "stage3_param_persistence_threshold": 0},
}
ZERO_CASES = {
    "toy": Case(JOINT),
    "accumulation": Case(JOINT | {"gradient_accumulation_steps": 2}),
    "lm": Case(LM | JOINT, tiny_llama, "lm"),
    "lm_adapter": Case(ADAPTED | JOINT, adapted_llama, "adapter"),
}
HALF = Case(JOINT | {"bf16": True})
CUT = Case(RESUMED.options | JOINT)
SIZES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
OWN_OPTIMIZER = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}


def under(stage: dict[str, Any], case: Case) -> Case:
    """``case`` under a stage of ZeRO, by which ``backward`` becomes joint; optimizer and sizes are Trainer's."""
    deepspeed = {"zero_optimization": stage, "bf16": {"enabled": "auto"}} | OWN_OPTIMIZER | dict.fromkeys(SIZES, "auto")
    return replace(case, options=case.options | {"backward": "separate", "deepspeed": deepspeed})


def all_work(folder: Path, place: dict[str, int]) -> Iterator[tuple[str, Work]]:
    """Every result by name."""
    rank, anchors = place["rank"], folder / "anchors"
    for stage, settings in STAGES.items():
        for name, case in (ZERO_CASES | {"bf16": HALF}).items():
            run = f"{stage}_{name}"
            yield run, partial(train, under(settings, case), anchors, folder / run / str(rank), **place)
        whole, resumed = f"{stage}_resumed_not", f"{stage}_resumed"
        yield whole, partial(train, under(settings, CUT), anchors, folder / whole, **place)
        yield resumed, partial(cut_and_resume, under(settings, CUT), anchors, folder / resumed, place)


def main(folder: Path) -> None:
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # its sums need a compiler, gloo's do not
    rank, num_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    method = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=num_processes, timeout=COLLECTIVE_TIMEOUT)
    for name, work in all_work(folder, {"rank": rank, "num_processes": num_processes}):
        torch.save(outcome(work), folder / f"{name}.{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
