"""Progress of long work: a bar in a terminal, and where there is none a plain line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Self

from tqdm.auto import tqdm

from craft_trainer.termination import raise_if_interrupted

PERIOD = 30.0  # seconds before the first line, and between two at least
GROWTH = 1.1  # a line comes when this much more time has gone than at the last: hours leave no thousand lines


class Lines:
    """A bar that writes lines to stderr, for logs and pipes: none for work that ends within ``PERIOD`` seconds.

    Attributes:
        n: how much is done, in units.
    """

    def __init__(
        self, iterable: Iterable[Any] | None = None, *, desc: str, unit: str, total: int | None = None, initial: int = 0
    ) -> None:
        self._iterable, self._desc = iterable or (), desc
        self._units = f"{unit}es" if unit.endswith("ch") else f"{unit}s"
        self._total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self._initial = self.n = initial
        self._doing, self._began, self._next = "", time.monotonic(), PERIOD

    def update(self, count: int = 1) -> None:
        """Note that ``count`` more are done, and write a line if it is time."""
        raise_if_interrupted()
        self.n += count
        self._write_in_time()

    def set_postfix_str(self, doing: str) -> None:
        """Note what is being done, and write a line if it is time."""
        self._doing = doing
        self._write_in_time()

    def write(self, line: str) -> None:
        """Print a line of the work itself."""
        print(line, flush=True)

    def line(self, elapsed: float) -> str:
        """``anchors: 128 of 512 anchors in 03:04, about 09:12 left``"""
        fresh = self.n - self._initial
        of = f" of {self._total:,}" if self._total else ""
        line = f"{self._desc}: {self.n:,}{of} {self._units} in {tqdm.format_interval(elapsed)}"
        if self._total and fresh:
            line += f", about {tqdm.format_interval(elapsed / fresh * (self._total - self.n))} left"
        return f"{line} ({self._doing})" if self._doing else line

    def _write_in_time(self) -> None:
        elapsed = time.monotonic() - self._began
        if elapsed >= self._next:
            self._next = max(elapsed + PERIOD, GROWTH * elapsed)
            print(self.line(elapsed), file=sys.stderr, flush=True)

    def __iter__(self) -> Iterator[Any]:
        for one in self._iterable:
            yield one
            self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Bar(tqdm):  # type: ignore[type-arg]  # tqdm.auto's takes none
    """A bar in a terminal."""

    def update(self, count: float | None = 1) -> bool | None:
        """Note that ``count`` more are done."""
        raise_if_interrupted()
        shown: bool | None = super().update(count)
        return shown

    def __iter__(self) -> Iterator[Any]:
        for one in super().__iter__():
            yield one
            raise_if_interrupted()


def progress(iterable: Iterable[Any] | None = None, *, leave: bool = True, **options: Any) -> Any:
    """Make a `Bar` where stderr is a terminal, else :class:`Lines`.

    ``options`` are those that both have: ``desc``, ``unit`` (of one thing: an s is put behind it), ``total`` and
    ``initial``. An interruption that some library has swallowed is raised at the next thing that is done.
    """
    if not sys.stderr.isatty():
        return Lines(iterable, **options)
    return Bar(iterable, leave=leave, **options)
