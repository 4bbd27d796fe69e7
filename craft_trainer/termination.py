"""SIGTERM interrupts a command as SIGINT does, so that it says what it has kept and how it goes on."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived. What handles an interruption handles it too."""


INTERRUPTS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


class _Interrupt:
    """Raises in the process of the command. In a worker that was forked from it the signal does what it did before."""

    def __init__(self, before: Any) -> None:
        self.received = False
        self._before, self._process = before, os.getpid()

    def __call__(self, number: int, _frame: Any) -> None:
        if os.getpid() != self._process:
            signal.signal(number, self._before)
            signal.raise_signal(number)
            return
        self.received = True
        raise INTERRUPTS[signal.Signals(number)]


def is_unhandled(number: int) -> bool:
    """Whether SIGINT or SIGTERM does what it does in a script or command that does not look at it."""
    handler = signal.getsignal(number)
    return handler in (signal.default_int_handler, signal.SIG_DFL) or isinstance(handler, _Interrupt)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `INTERRUPTS` inside, in the main thread, when a signal arrives that nobody else handles.

    An error that is raised afterwards becomes an interruption too, with its text and notes: a signal that arrives while
    C++ calls Python, as Arrow does for the columns of ``datasets``, is lost there, and the call fails for no reason.

    One of several processes ends by SIGTERM at once: it may wait for another one, where Python handles no signal.
    """
    is_alone = os.environ.get("WORLD_SIZE", "1") == "1"
    before: dict[int, Any] = {}
    for number in INTERRUPTS if is_alone and threading.current_thread() is threading.main_thread() else ():
        if is_unhandled(number):
            before[number] = signal.signal(number, _Interrupt(signal.getsignal(number)))
    try:
        yield
    except Exception as error:
        if interruption := _received():
            for note in (f"then: {type(error).__name__}: {error}", *getattr(error, "__notes__", [])):
                interruption.add_note(note)
            raise interruption from error
        raise
    finally:
        while before:
            signal.signal(*before.popitem())


def raise_if_interrupted() -> None:
    """Raise again what a library has swallowed; long work asks this at every bit of it.

    A bare ``except:`` around the work, as ``datasets`` has where it hashes what it is given, swallows an interruption.
    """
    if interruption := _received():
        raise interruption


def _received() -> KeyboardInterrupt | None:
    """The interruption that has arrived in this thread, if one has."""
    if threading.current_thread() is threading.main_thread():
        for number, interruption in INTERRUPTS.items():
            handler = signal.getsignal(number)
            if isinstance(handler, _Interrupt) and handler.received:
                return interruption()
    return None
