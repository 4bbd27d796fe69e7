"""Starts two processes that find each other through a file, and ends them when one fails or time is up."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

NUM_PROCESSES = 2
GRACE_S = 90  # longer than a collective waits, so that the process left alone can say where it was


class InProcessError(Exception):
    """What was raised in one of the two processes."""


def run_two_processes(script: Path, folder: Path, *, timeout_s: float, warnings: Sequence[str] = ()) -> str:
    """Run ``python script folder`` twice; returns nothing, or the end of what they said if they did not end well."""
    outputs = [folder / f"process{rank}.txt" for rank in range(NUM_PROCESSES)]
    processes = [_start(script, folder, rank, output, warnings) for rank, output in enumerate(outputs)]
    deadline = time.monotonic() + timeout_s
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            if any(process.poll() for process in processes):
                deadline = min(deadline, time.monotonic() + GRACE_S)
            time.sleep(0.1)
    finally:
        killed = [process for process in processes if process.poll() is None]
        for process in killed:
            process.kill()
            process.wait()
    if all(process.returncode == 0 for process in processes):
        return ""
    return "\n".join([f"{len(killed)} had to be killed", *(output.read_text()[-4000:] for output in outputs)])


def _start(script: Path, folder: Path, rank: int, output: Path, warnings: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(NUM_PROCESSES),
        "LOCAL_WORLD_SIZE": str(NUM_PROCESSES),
        "PYTHONPATH": os.pathsep.join(sys.path),  # the packages that the tests see
        "GLOO_SOCKET_IFNAME": "lo",
        "ACCELERATE_TORCH_DEVICE": "cpu",  # not cpu:1, to which torch.load cannot map a checkpoint
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    filters = [
        "error",
        "ignore:TypedStorage is deprecated:UserWarning",  # torch's own distributed checkpoint
        *warnings,
    ]
    command = [sys.executable, *(word for one in filters for word in ("-W", one)), str(script), str(folder)]
    with output.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
