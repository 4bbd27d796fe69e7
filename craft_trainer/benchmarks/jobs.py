"""A graph of commands run by a few worker processes: each starts when what it needs is there."""

import contextlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

Execute = Callable[[Sequence[str]], int]
LOG_TAIL_LINES = 12


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


def run_jobs(jobs: Sequence[Job], execute: Execute, *, log_dir: Path, num_workers: int) -> dict[str, float]:
    """Run every job after those it needs, earlier listed ones first; returns the seconds each took.

    Each worker process uses one thread for tensors, so that workers do not slow each other down.

    Raises:
        RuntimeError: a job failed; the message holds the end of its log.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    done = {job.name for job in jobs if job.result.exists()}
    waiting = [job for job in jobs if job.name not in done]
    running: dict[Future[tuple[int, float]], Job] = {}
    context = multiprocessing.get_context("spawn")
    with (
        _one_thread_each(),
        tqdm(total=len(jobs), initial=len(done), unit="job", desc="demo", disable=None) as progress,
        ProcessPoolExecutor(num_workers, mp_context=context) as workers,
    ):
        while waiting or running:
            for job in [job for job in waiting if done.issuperset(job.after)][: num_workers - len(running)]:
                waiting.remove(job)
                running[workers.submit(_logged, execute, job.argv, log_dir / f"{job.name}.log")] = job
            progress.set_postfix_str(" + ".join(job.name for job in running.values()))
            finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                status, seconds[job.name] = future.result()
                if status != 0:
                    workers.shutdown(wait=False, cancel_futures=True)
                    raise RuntimeError(_failure(job, log_dir / f"{job.name}.log"))
                done.add(job.name)
                progress.update()
                progress.write(f"{len(done):>3}/{len(jobs)}  {job.name:<24} {seconds[job.name]:6.0f} s")
    return seconds


def _logged(execute: Execute, argv: Sequence[str], log: Path) -> tuple[int, float]:
    """Run one command with its output in a file; its status and seconds."""
    start = time.perf_counter()
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        print("craft-trainer", *argv)
        try:
            status = execute(argv)
        except BaseException as error:
            traceback.print_exc()
            error.add_note(f"the log of this job is {log}")
            raise
    return status, time.perf_counter() - start


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    previous = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if previous is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = previous


def _failure(job: Job, log: Path) -> str:
    tail = "\n".join(log.read_text().splitlines()[-LOG_TAIL_LINES:])
    return f"{job.name} failed; its log is {log}, and ends:\n{tail}"
