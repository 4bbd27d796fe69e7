"""What is left of a save when its files are written, done beside the training: checksums, the disk, the move."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

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


with suppress(AttributeError):  # Windows has no fork
    os.register_at_fork(before=lambda: wait(_begun.values()))  # a child has its locks, and nobody to release them
