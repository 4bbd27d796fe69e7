"""One of two processes: runs every case and leaves ``<name>.<rank>.pt`` in the folder named on the command line."""

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from averaging import average_of_ranks
from cases import CASES, RESUMED, WHOLE, Case, Stop, train
from evaluated_texts import eval_loss
from sharded_core import CORE_CASES, reached_by_a_pass_that_ends_early, run_core, what_unregistered_predict_says
from sharded_on_cpu import cpu_may_be_sharded

from craft_trainer.losses import distillation

COLLECTIVE_TIMEOUT = timedelta(seconds=60)
Work = Callable[[], Any]
LAST = ["poisoned", "fsdp_poisoned", *(name for name, case in CASES.items() if case.loaded_once)]  # may leave one alone


def main(folder: Path) -> None:
    rank, num_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    method = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=num_processes, timeout=COLLECTIVE_TIMEOUT)
    with cpu_may_be_sharded():
        for name, work in all_work(folder, {"rank": rank, "num_processes": num_processes}).items():
            torch.save(outcome(work), folder / f"{name}.{rank}.pt")
            dist.barrier()
    dist.destroy_process_group()


def all_work(folder: Path, place: dict[str, int]) -> dict[str, Work]:
    """Every result by name."""
    rank, anchors = place["rank"], folder / "anchors"
    work: dict[str, Work] = {
        "average": partial(average_of_ranks, rank),
        "unregistered": what_unregistered_predict_says,
        "ends_early": partial(reached_by_a_pass_that_ends_early, anchors / "core_toy"),
    }
    for num_texts in (5, 7, 12):
        work[f"texts_{num_texts}"] = partial(eval_loss, folder / "texts", num_texts)
    for name, core in CORE_CASES.items():
        work[name] = partial(run_core, *core, anchors, **place)
    for prefix, sharding in (("", ""), ("fsdp_", WHOLE)):
        case = replace(RESUMED, fsdp=sharding)
        resumed, whole = f"{prefix}resumed", f"{prefix}resumed_not"
        work[whole] = partial(train, case, anchors, folder / whole, **place)
        work[resumed] = partial(cut_and_resume, case, anchors, folder / resumed, place)
    for prefix, sharding in (("", ""), ("fsdp_", WHOLE)):
        case = replace(CASES["one_sided"], fsdp=sharding)
        work[f"{prefix}poisoned"] = partial(train_poisoned, case, anchors, folder / f"{prefix}poisoned", place)
    for name, case in CASES.items():
        work[name] = partial(train, case, anchors, folder / name / str(rank), **place)
    return dict(sorted(work.items(), key=lambda item: item[0] in LAST))


def cut_and_resume(case: Case, anchors: Path, output_dir: Path, place: dict[str, int]) -> Any:
    """Train to step 5, then go on from the checkpoint of step 3."""
    try:
        train(case, anchors, output_dir, **place, callbacks=[Stop(5)])
    except KeyboardInterrupt:
        return train(case, anchors, output_dir, **place, resume=str(output_dir / "checkpoint-3"))
    raise AssertionError("the run was not interrupted")


def train_poisoned(case: Case, anchors: Path, output_dir: Path, place: dict[str, int]) -> Any:
    """Train with a retention loss that is infinite in the second process."""
    honest, factor = distillation.retention_loss, float("inf") if place["rank"] == 1 else 1.0
    with mock.patch.object(distillation, "retention_loss", lambda *args, **options: honest(*args, **options) * factor):
        return train(case, anchors, output_dir, **place)


def outcome(work: Work) -> Any:
    """What ``work`` returns, or the text of what it raised."""
    for setting in [name for name in os.environ if name.startswith(("ACCELERATE_USE_FSDP", "FSDP_"))]:
        del os.environ[setting]  # left by the last run with FSDP
    try:
        return work()
    except BaseException:  # noqa: BLE001 it is told to the test that asks for this result (torch's checkpoints raise one)
        return traceback.format_exc()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
