"""Builds of the seer's cache in real processes, which meet through a file and not at a port."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import fsspec
import torch
from accelerate import PartialState
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from seer import Seer, build, samples

from craft_trainer.anchors import lease
from craft_trainer.anchors import processes as shared
from craft_trainer.anchors.processes import Processes

FRESH = multiprocessing.get_context("forkserver")  # children of a process without threads
FRESH.set_forkserver_preload(["craft_trainer.anchors.building", "pytest"])


class Elsewhere(DirFileSystem):
    """A place of many machines: the local file system under a protocol of its own, ``elsewhere:///path``."""

    protocol = "elsewhere"

    def __init__(self, **_options: Any) -> None:
        super().__init__(path="/", fs=LocalFileSystem(auto_mkdir=True))


fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)


def share(rank: int, world: int, place: str, told: Path, end: str, silence: float) -> None:
    """Build one process's share; process 1 ends after ten loads by ``end``: "", "raise" or "kill"."""
    shared.SILENCE_S = lease.SILENCE_S = silence
    lease.BEAT_S, lease.SETTLE_S = 0.5, 0.1
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{told}/store", rank=rank, world_size=world)
    loads = [0]

    def load(rows: list[int]) -> dict[str, Any]:
        loads[0] += 1
        if rank == 1 and loads[0] > 10:
            match end:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "raise":
                    raise RuntimeError("out of memory")
        return samples(rows)

    teacher, begun, message = Seer(), time.monotonic(), ""
    try:
        with Processes(PartialState(cpu=True)) as processes:
            build(place, teacher, load, processes=processes)
    except RuntimeError as error:
        message = str(error)
    found = {"passes": teacher.passes, "message": message, "seconds": time.monotonic() - begun}
    (told / f"{rank}.json").write_text(json.dumps(found))


def build_together(
    place: Path | str, told: Path, *, world: int = 3, end: str = "", silence: float = 60.0
) -> list[dict[str, Any]]:
    """What each of ``world`` processes says of its share; {} of one that was killed."""
    told.mkdir()
    children = [
        FRESH.Process(target=share, args=(rank, world, str(place), told, end, silence)) for rank in range(world)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=120)
        if child.is_alive():
            child.kill()
    files = [told / f"{rank}.json" for rank in range(world)]
    return [json.loads(file.read_text()) if file.exists() else {} for file in files]
