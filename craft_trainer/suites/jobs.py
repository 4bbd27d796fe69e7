"""A graph of commands, each run in a process of its own as soon as what it needs is there."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from accelerate.utils import patch_environment

from craft_trainer.files import write_json
from craft_trainer.progress import progress
from craft_trainer.suites.preloading import VARIABLE as PRELOAD_VARIABLE

Execute = Callable[[Sequence[str]], int]
LOG_TAIL_LINES = 12
SECONDS_FILE = "seconds.json"
PRELOADING = "craft_trainer.suites.preloading"
TOTAL = "total"  # from the first start to the last end, pauses between interrupted calls left out


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: unique, and the name of its log file.
        argv: what is run.
        result: a path that exists once the job is done; a job whose result exists is not run again.
        after: names of the jobs it needs.
        folder: what it fills bit by bit, ``result`` last: what an interruption has left of it is deleted.
    """

    name: str
    argv: tuple[str, ...]
    result: Path
    after: tuple[str, ...] = ()
    folder: Path | None = None


def command_line(*words: str | Mapping[str, Any]) -> tuple[str, ...]:
    """Write a command line: ``--key value`` for every setting; lists become several words, mappings JSON."""
    found: list[str] = []
    for word in words:
        if isinstance(word, str):
            found.append(word)
            continue
        for key, value in word.items():
            values = value if isinstance(value, list) else [value]
            found += [f"--{key}", *(json.dumps(one) if isinstance(one, dict) else str(one) for one in values)]
    return tuple(found)


def clear_unfinished(jobs: Sequence[Job]) -> None:
    """Delete the folders that interrupted jobs have left unfinished: their commands would refuse them."""
    for job in jobs:
        if job.folder is not None and job.folder.is_dir() and not job.result.exists():
            shutil.rmtree(job.folder)


def run_jobs(
    jobs: Sequence[Job],
    execute: Execute,
    *,
    log_dir: Path,
    num_workers: int,
    num_threads: int = 1,
    preload: Sequence[str] = (),
    keeps_going: bool = False,
    on_done: Callable[[Collection[str], Mapping[str, float]], object] = lambda *_: None,
) -> dict[str, float]:
    """Run every job after those it needs, earlier listed ones first; returns the seconds each took, and in ``total``
    what all took together.

    ``on_done`` is called with the names of all jobs that are done and the seconds known of them, first before any is
    run, then after each. With ``keeps_going`` the others run on when a job has failed, but for those that need it.

    ``num_workers`` processes run at once, each with ``num_threads`` for tensors, so that they need not slow each other
    down.
    They end with this process, however it ends. Where processes can be forked from a server, it imports the modules in
    ``preload`` once for all of them; a module that fails is left to the jobs that need it. The seconds of jobs finished
    by an earlier, interrupted call are kept in ``log_dir``.

    Raises:
        ValueError: a job needs one that is not there, or itself.
        RuntimeError: a job failed; the message holds the end of its log. Without ``keeps_going`` the other jobs are
            ended.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    file = log_dir / SECONDS_FILE
    seconds: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
    began = time.perf_counter() - seconds.get(TOTAL, 0.0)
    done = {job.name for job in jobs if job.result.exists()}
    waiting = [job for job in jobs if job.name not in done]
    running: dict[str, tuple[Job, BaseProcess, float]] = {}
    failures: list[str] = []
    on_done(done, seconds)
    start = _starter(execute, log_dir, num_threads)
    with (
        patch_environment(OMP_NUM_THREADS=num_threads, **{PRELOAD_VARIABLE: " ".join(preload)}),  # of those processes
        progress(total=len(jobs), initial=len(done), unit="job", desc="jobs") as bar,
    ):
        try:
            while waiting or running:
                for job in [job for job in waiting if done.issuperset(job.after)][: num_workers - len(running)]:
                    waiting.remove(job)
                    running[job.name] = job, start(job), time.perf_counter()
                if not running and not failures:
                    raise ValueError(f"{[job.name for job in waiting]} wait for jobs that will never be done")
                if not running:
                    break
                bar.set_postfix_str(" + ".join(running))
                wait([process.sentinel for _, process, _ in running.values()], timeout=1.0)
                for job, ended, since in [entry for entry in running.values() if not entry[1].is_alive()]:
                    del running[job.name]
                    if ended.exitcode != 0:
                        failures.append(_failure(job, ended.exitcode, log_dir / f"{job.name}.log"))
                        bar.write(failures[-1])
                        continue
                    seconds |= {job.name: time.perf_counter() - since, TOTAL: time.perf_counter() - began}
                    write_json(file, seconds)
                    done.add(job.name)
                    bar.update()
                    bar.write(f"{len(done):>3}/{len(jobs)}  {job.name:<24} {seconds[job.name]:6.0f} s")
                    on_done(done, seconds)
                if failures and not keeps_going:
                    break
        finally:
            for _, process, _ in running.values():
                process.terminate()
    if failures:
        raise RuntimeError("\n\n".join(failures))
    return seconds


def _starter(execute: Execute, log_dir: Path, num_threads: int) -> Callable[[Job], BaseProcess]:
    context: ForkServerContext | SpawnContext = ForkServerContext() if sys.platform == "linux" else SpawnContext()
    context.set_forkserver_preload([__name__, PRELOADING])  # with what this module imports itself: torch

    def start(job: Job) -> BaseProcess:
        arguments = (execute, job.argv, log_dir / f"{job.name}.log", num_threads)
        process: BaseProcess = context.Process(target=_run_logged, args=arguments)
        process.start()
        return process

    return start


def _run_logged(execute: Execute, argv: Sequence[str], log: Path, num_threads: int) -> None:
    """Run one command with everything it prints in a file, and end the process with its status.

    A server that was started before, for jobs of other threads, has loaded torch with their number.
    """
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    torch.set_num_threads(num_threads)
    Thread(target=_end_with_parent, daemon=True).start()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    print("craft-trainer", *argv, flush=True)
    sys.exit(execute(argv))


def _end_with_parent() -> None:
    """End this process when the one that started it has ended: killed, it could not say so."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _failure(job: Job, status: int | None, log: Path) -> str:
    tail = "\n".join(log.read_text().splitlines()[-LOG_TAIL_LINES:]) if log.is_file() else "(nothing)"
    return f"{job.name} ended with status {status}; its log is {log}, and ends:\n{tail}"
