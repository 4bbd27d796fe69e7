"""A folder for one build at a time, where files cannot be locked: the build that has it says so again and again."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from fsspec import AbstractFileSystem

BEAT_S = 5.0
SILENCE_S = 30.0  # after which a build that does not say so again counts as ended
SETTLE_S = 1.0  # two that begin at the same moment then both see the later one


logger = logging.getLogger(__name__)


@contextmanager
def leased(file_system: AbstractFileSystem, file: str, refusal: str) -> Iterator[None]:
    """Have the folder of ``file`` alone.

    Raises:
        RuntimeError: another build has it, or took it while this one could not say that it has; the ``refusal``.
    """
    mine, ended = uuid4().hex, threading.Event()

    def held() -> str:
        file_system.invalidate_cache()
        return str(file_system.cat_file(file).decode()) if file_system.exists(file) else ""

    def is_mine() -> bool:
        return held().split()[:1] == [mine]

    def say(number: int) -> None:
        file_system.pipe_file(file, f"{mine} {number}".encode())

    def say_again() -> None:
        number = 0
        while not ended.wait(BEAT_S):
            number += 1
            try:
                if not is_mine():
                    return
                say(number)
            except OSError as error:  # perhaps for a moment only
                logger.warning("could not write %s, which keeps other builds away: %s", file, error)

    before, deadline = held(), time.monotonic() + SILENCE_S
    while before and time.monotonic() < deadline:
        time.sleep(SETTLE_S)
        if held() not in (before, ""):
            raise RuntimeError(refusal)
    say(0)
    time.sleep(SETTLE_S)
    if not is_mine():
        raise RuntimeError(refusal)
    thread = threading.Thread(target=say_again, daemon=True)
    thread.start()
    try:
        yield
        if not is_mine() and held():  # it is gone with the folder of a finished build
            raise RuntimeError(refusal)
    finally:
        ended.set()
        thread.join()
        if is_mine():
            file_system.rm_file(file)
