"""What is left of a save when its files are written, done beside the training: checksums, the disk, the move."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from craft_trainer.hub.manifest import make_durable
from craft_trainer.hub.run_folder import checkpoints

MILLISECOND_NS = 1_000_000
_begun: dict[Path, Future[None]] = {}  # of this process: the run's folder → what is being finished in it


def finish_beside(folder: Path, work: Callable[[], None]) -> None:
    """Begin ``work`` on the checkpoints in ``folder``, when the work before has ended well."""
    wait_for(folder)
    thread = ThreadPoolExecutor(1)
    _begun[folder.absolute()] = thread.submit(work)
    thread.shutdown(wait=False)


def wait_for(folder: Path) -> None:
    """Wait for what was begun in ``folder``, and raise its error, once."""
    settle(folder)
    work = _begun.pop(folder.absolute(), None)
    if work is not None:
        work.result()


def settle(folder: Path) -> None:
    """Wait for what was begun in ``folder``; its error is kept."""
    wait([work for place, work in _begun.items() if place == folder.absolute()])


def move_sealed(draft: Path, checkpoint: Path) -> None:
    """Move a sealed checkpoint to its place; one that is there already, of a run that went back, makes room."""
    if checkpoint.exists():
        checkpoint.rename(draft.with_name(f"earlier-{checkpoint.name}"))
    latest = max((one.stat().st_mtime_ns for one in checkpoints(checkpoint.parent)), default=0)
    if draft.stat().st_mtime_ns <= latest:  # the clock was set back, and by its time the oldest are deleted
        os.utime(draft, ns=(latest + MILLISECOND_NS, latest + MILLISECOND_NS))
    draft.rename(checkpoint)
    make_durable(checkpoint.parent)
    shutil.rmtree(draft.parent)


with suppress(AttributeError):  # Windows has no fork
    os.register_at_fork(before=lambda: wait(_begun.values()))  # a child has its locks, and nobody to release them
