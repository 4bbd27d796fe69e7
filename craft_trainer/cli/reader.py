"""Whoever reads what a command prints, as ``head`` does, may have enough of it: that is no error."""

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress

UNREAD = 141  # what a shell reports for SIGPIPE


def while_it_is_read(command: Callable[[], int]) -> int:
    """Run ``command`` and give its status; ``UNREAD``, and no word more, once the reader of what it prints has gone."""
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not is_unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python prints at its end
        return UNREAD


def is_unread() -> bool:
    """True if standard output is a pipe that nobody reads any more."""
    with suppress(OSError, ValueError, AttributeError):  # no file, closed, or a system without poll
        waiting = select.poll()
        waiting.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in waiting.poll(0))
    return False
