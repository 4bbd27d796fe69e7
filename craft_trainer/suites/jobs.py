"""A graph of commands, each run in a process of its own as soon as what it needs is there."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from accelerate.utils import patch_environment
from tqdm.auto import tqdm

Execute = Callable[[Sequence[str]], int]
LOG_TAIL_LINES = 12
SECONDS_FILE = "seconds.json"
TOTAL = "total"  # from the first start to the last end, pauses between interrupted calls left out


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: unique, and the name of its log file.
        argv: what is run.
        result: a path that exists once the job is done; a job whose result exists is not run again.
        after: names of the jobs it needs.
    """

    name: str
    argv: tuple[str, ...]
    result: Path
    after: tuple[str, ...] = ()


def run_jobs(
    jobs: Sequence[Job], execute: Execute, *, log_dir: Path, num_workers: int, preload: Sequence[str] = ()
) -> dict[str, float]:
    """Run every job after those it needs, earlier listed ones first; returns the seconds each took, and in ``total``
    what all took together.

    ``num_workers`` processes run at once, each with one thread for tensors, so that they do not slow each other down.
    Where processes can be forked from a server, it imports the modules in ``preload`` once for all of them. The seconds
    of jobs finished by an earlier, interrupted call are kept in ``log_dir``.

    Raises:
        ValueError: a job needs one that is not there, or itself.
        RuntimeError: a job failed; the message holds the end of its log, and the other jobs are ended.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    file = log_dir / SECONDS_FILE
    seconds: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
    began = time.perf_counter() - seconds.get(TOTAL, 0.0)
    done = {job.name for job in jobs if job.result.exists()}
    waiting = [job for job in jobs if job.name not in done]
    running: dict[str, tuple[Job, BaseProcess, float]] = {}
    context: ForkServerContext | SpawnContext = ForkServerContext() if sys.platform == "linux" else SpawnContext()
    context.set_forkserver_preload(list(preload))
    with (
        patch_environment(OMP_NUM_THREADS=1),  # of the processes started inside
        tqdm(total=len(jobs), initial=len(done), unit="job", desc="demo", disable=None) as progress,
    ):
        try:
            while waiting or running:
                for job in [job for job in waiting if done.issuperset(job.after)][: num_workers - len(running)]:
                    waiting.remove(job)
                    arguments = (execute, job.argv, log_dir / f"{job.name}.log")
                    process: BaseProcess = context.Process(target=_run_logged, args=arguments)
                    process.start()
                    running[job.name] = job, process, time.perf_counter()
                if not running:
                    raise ValueError(f"{[job.name for job in waiting]} wait for jobs that will never be done")
                progress.set_postfix_str(" + ".join(running))
                wait([process.sentinel for _, process, _ in running.values()], timeout=1.0)
                for job, ended, start in [entry for entry in running.values() if not entry[1].is_alive()]:
                    del running[job.name]
                    if ended.exitcode != 0:
                        raise RuntimeError(_failure(job, ended.exitcode, log_dir / f"{job.name}.log"))
                    seconds[job.name] = time.perf_counter() - start
                    seconds[TOTAL] = time.perf_counter() - began
                    file.write_text(json.dumps(seconds))
                    done.add(job.name)
                    progress.update()
                    progress.write(f"{len(done):>3}/{len(jobs)}  {job.name:<24} {seconds[job.name]:6.0f} s")
        finally:
            for _, process, _ in running.values():
                process.terminate()
    return seconds


def _run_logged(execute: Execute, argv: Sequence[str], log: Path) -> None:
    """Run one command with everything it prints in a file, and end the process with its status."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    print("craft-trainer", *argv, flush=True)
    sys.exit(execute(argv))


def _failure(job: Job, status: int | None, log: Path) -> str:
    tail = "\n".join(log.read_text().splitlines()[-LOG_TAIL_LINES:]) if log.is_file() else "(nothing)"
    return f"{job.name} ended with status {status}; its log is {log}, and ends:\n{tail}"
