"""SIGTERM interrupts a command as SIGINT does, so that it says what it has kept and how it goes on."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived. What handles an interruption handles it too."""


class _Terminate:
    """Raises `Terminated` in the process of the command. A worker that was forked from it ends at once."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def __call__(self, number: int, _frame: Any) -> None:
        if os.getpid() != self._process:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        raise Terminated


def is_unhandled(number: int) -> bool:
    """Whether SIGINT or SIGTERM does what it does in a script or command that does not look at it."""
    handler = signal.getsignal(number)
    return handler in (signal.default_int_handler, signal.SIG_DFL) or isinstance(handler, _Terminate)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise `Terminated` inside when SIGTERM arrives, in the main thread, unless somebody else handles it.

    One of several processes ends at once instead: it may wait for another one, where Python handles no signal.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    is_alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if not in_main_thread or not is_alone or not is_unhandled(signal.SIGTERM):
        yield
        return
    before = signal.signal(signal.SIGTERM, _Terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
