"""The processes that share the build of a cache: they wait for each other, and none waits for one that has ended."""

import itertools
import pickle
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Self

import torch
from accelerate import PartialState
from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

BEAT_S = 1.0
SILENCE_S = 60.0  # after which a process that does not beat counts as gone
GO_ON = "The shards that are finished are kept: start all processes again by the same command"


class Processes:
    """The processes of ``accelerate launch`` or ``torchrun``, on one machine or several.

    They meet at the key-value store by which torch started them, not in collectives: shares may be uneven by hours, and
    a collective says neither who is missing nor when. Inside ``with``, every process beats once a second. One that
    fails tells the others why. One that is silent for ``SILENCE_S`` seconds counts as killed. The others raise a
    RuntimeError at their next shard, or at once if they wait.

    Args:
        state: that of accelerate; this process is alone without one.
    """

    _numbers = itertools.count()  # of the builds of a process, which are the same in all

    def __init__(self, state: PartialState | None = None) -> None:
        self.process_index: int = state.process_index if state else 0
        self.num_processes: int = state.num_processes if state else 1
        self.device: torch.device = state.device if state else torch.device("cpu")
        self._heard: dict[int, tuple[int, float]] = {}
        self._num_meetings = 0
        self._ended = threading.Event()
        self._store = None if self.num_processes == 1 else _store(f"craft_trainer/{next(self._numbers)}")

    @property
    def is_main_process(self) -> bool:
        """True if this is the one that speaks, chooses and finishes."""
        return self.process_index == 0

    def print(self, *words: object) -> None:
        """Print in the main process."""
        if self.is_main_process:
            print(*words, flush=True)

    def __enter__(self) -> Self:
        if self._store is not None:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._store is None:
            return
        try:
            if error is None:
                self.wait_for_everyone()  # the first one has the store
            elif not isinstance(error, LostProcessError):
                self._tell_of(error)
        finally:
            self._ended.set()

    def wait_for_everyone(self) -> None:
        """Wait until all processes have come here.

        Raises:
            LostProcessError: one of them has ended.
        """
        if self._store is None:
            return
        self._num_meetings += 1
        key = f"meeting/{self._num_meetings}"
        self._ask(lambda store: store.add(key, 1))
        while self._ask(lambda store: store.add(key, 0)) < self.num_processes:
            self.check()
            time.sleep(BEAT_S / 10)

    def check(self) -> None:
        """Make sure that all processes are at work; a LostProcessError otherwise."""
        if self._store is None:
            return
        if self._ask(lambda store: store.check(["failed"])):
            raise LostProcessError(f"{self._ask(lambda store: store.get('failed').decode())}. {GO_ON}")
        now = time.monotonic()
        for rank in range(self.num_processes):
            beats = self._ask(partial(_beats, rank=rank))
            heard, when = self._heard.get(rank, (-1, now))
            self._heard[rank] = (beats, now if beats != heard else when)
            if now - self._heard[rank][1] > SILENCE_S:
                raise LostProcessError(
                    f"{self._called(rank)} has not been heard of for {SILENCE_S:g} s: it was killed, or its machine is "
                    f"gone. {GO_ON}"
                )

    @contextmanager
    def main_process_first(self) -> Iterator[bool]:
        """Yield whether this is the main process, which leaves the block before the others enter it."""
        if not self.is_main_process:
            self.wait_for_everyone()
        yield self.is_main_process
        if self.is_main_process:
            self.wait_for_everyone()

    def once[Made](self, make: Callable[[], Made]) -> Made:
        """Run ``make`` in the main process and give its result to every process."""
        if self._store is None:
            return make()
        key = f"made/{self._num_meetings}"
        with self.main_process_first() as is_main:
            if is_main:
                made = make()
                content = b64encode(pickle.dumps(made)).decode()
                self._ask(lambda store: store.set(key, content))
                return made
        given: Made = pickle.loads(b64decode(self._ask(lambda store: store.get(key))))
        return given

    def _ask[Answer](self, question: Callable[[Store], Answer]) -> Answer:
        assert self._store is not None
        try:
            return question(self._store)
        except DistError as error:
            raise LostProcessError(
                f"the main process, or the launcher where the others meet, is gone. {GO_ON}"
            ) from error

    def _tell_of(self, error: BaseException) -> None:
        assert self._store is not None
        with suppress(DistError):
            self._store.set(
                "failed", f"{self._called(self.process_index)} failed: {str(error) or type(error).__name__}"
            )

    def _beat(self) -> None:
        assert self._store is not None
        while not self._ended.wait(BEAT_S):
            try:
                self._store.add(f"beat/{self.process_index}", 1)
            except DistError:
                return  # which this process finds out when it asks

    def _called(self, rank: int) -> str:
        return f"process {rank} of {self.num_processes} (counted from 0)"


def _beats(store: Store, rank: int) -> int:
    return int(store.add(f"beat/{rank}", 0))


def _store(prefix: str) -> Store:
    return PrefixStore(prefix, _get_default_store())


class LostProcessError(RuntimeError):
    """Another process of the same build has ended, so this one cannot come to its end."""
