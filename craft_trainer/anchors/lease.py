"""A folder for one build at a time, where files cannot be locked: the build that has it says so again and again."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from fsspec import AbstractFileSystem

BEAT_S = 5.0
SILENCE_S = 30.0  # after which a build that does not say so again counts as ended
SETTLE_S = 1.0  # two that begin at the same moment then both see the later one


@contextmanager
def leased(file_system: AbstractFileSystem, file: str, refusal: str) -> Iterator[None]:
    """Have the folder of ``file`` alone.

    Raises:
        RuntimeError: another build has it; the ``refusal``.
    """
    mine, ended = uuid4().hex, threading.Event()

    def held() -> str:
        file_system.invalidate_cache()
        return str(file_system.cat_file(file).decode()) if file_system.exists(file) else ""

    def say(number: int) -> None:
        file_system.pipe_file(file, f"{mine} {number}".encode())

    def say_again() -> None:
        number = 0
        while not ended.wait(BEAT_S):
            number += 1
            say(number)

    before, deadline = held(), time.monotonic() + SILENCE_S
    while before and time.monotonic() < deadline:
        time.sleep(SETTLE_S)
        if held() not in (before, ""):
            raise RuntimeError(refusal)
    say(0)
    time.sleep(SETTLE_S)
    if held().split()[:1] != [mine]:
        raise RuntimeError(refusal)
    thread = threading.Thread(target=say_again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if file_system.exists(file):
            file_system.rm_file(file)
