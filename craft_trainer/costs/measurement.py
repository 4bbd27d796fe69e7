"""Time and memory of steps: seconds in pairs, the exact peak of what a step allocates, and the table of it all."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from craft_trainer.files import write_json
from craft_trainer.options import option
from craft_trainer.progress import progress

Step = Callable[[], object]
Measure = Callable[[Path, torch.device, int], tuple[str, dict[str, list[float]]]]  # where, on what, how often: figures
OTHERS = {"torchjd": "TorchJD: pip install torchjd", "lmeval": "lm-evaluation-harness: pip install lm-eval"}
MemoryEvent = tuple[int, int]  # an address, and the bytes that were allocated there (released, if negative)


class Quantity(NamedTuple):
    """A measured quantity, and the most that it should be."""

    name: str
    goal: float | None
    meaning: str


class Figure(NamedTuple):
    """A quantity with all its measurements: none if it could not be taken."""

    quantity: Quantity
    values: list[float]

    @property
    def median(self) -> float | None:
        """The figure that counts."""
        return median(self.values) if self.values else None

    def __str__(self) -> str:
        """Its line of the table: name, min, median, max, goal, whether it is met, meaning."""
        name, goal, meaning = self.quantity
        asked = "" if goal is None else f"≤ {goal:.2f}"
        if self.median is None:
            return f"{name:<28}{'not measured':>24}{asked:>8}  {'':<9}{meaning}"
        verdict = "" if goal is None else "met" if self.median <= goal else "not met"
        numbers = "".join(f"{value:8.3f}" for value in (min(self.values), self.median, max(self.values)))
        return f"{name:<28}{numbers}{asked:>8}  {verdict:<9}{meaning}"


@dataclass
class BenchArguments:
    """The options of ``bench``."""

    json: str | None = option("file of the medians; no file without it", None)
    repeats: int = option("timings of every pair of steps; ≥ 1", 7)
    threads: int = option("threads of torch's operations; ≥ 1", 1)
    quick: bool = option("a tiny model and two repeats: shows that it works, its figures mean nothing", False)

    def __post_init__(self) -> None:
        if min(self.repeats, self.threads) < 1:
            raise ValueError(f"repeats {self.repeats} and threads {self.threads} must both be at least 1")
        self.repeats = min(2, self.repeats) if self.quick else self.repeats

    def bench(self, quantities: Sequence[Quantity], measure: Measure) -> None:
        """Print what ``measure`` finds, a line per quantity, and write the medians of those that have a goal."""
        file = None if self.json is None else Path(self.json)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)  # before minutes of measuring
        torch.manual_seed(0)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with using_threads(self.threads), TemporaryDirectory() as folder:
            setting, values = measure(Path(folder), device, self.repeats)
        figures = [Figure(quantity, values.get(quantity.name, [])) for quantity in quantities]
        where = f"{device.type}, torch {torch.__version__} with {self.threads} thread(s), {self.repeats} repeats"
        print(f"{setting}, {where}\n\n{'':<28}{'min':>8}{'median':>8}{'max':>8}{'goal':>8}")
        print("\n".join(map(str, figures)))
        medians = {figure.quantity.name: figure.median for figure in figures if figure.quantity.goal is not None}
        for name in (name for name, value in medians.items() if value is None):
            print(f"\n{name} needs {OTHERS[name.rpartition('_')[2]]}")
        if file is not None:
            write_json(file, medians)
            print(f"\nmedians: {file}")


def paired_ratios(
    pairs: Mapping[str, tuple[Step, Step]], repeats: int, device: torch.device, *, often: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Seconds of the first step of every pair over those of the second, ``repeats`` times, after one warm-up.

    The two are timed one right after the other, in alternating order, and so are the pairs; those named in ``often``
    are timed twice in every repeat.
    """
    ratios: dict[str, list[float]] = {name: [] for name in pairs}
    for pair in pairs.values():
        for step in pair:
            step()
    for repeat in progress(range(repeats), desc="bench", unit="repeat"):
        for name in [*pairs, *often][:: -1 if repeat % 2 else 1]:
            direction = -1 if len(ratios[name]) % 2 else 1
            first, second = [seconds(step, device) for step in pairs[name][::direction]][::direction]
            ratios[name].append(first / second)
    return ratios


def seconds(step: Step, device: torch.device) -> float:
    """Time of one call, with all it leaves to the device.

    On the CPU with one thread it is the time of this process (``process_time``): what the wall clock would show if
    other processes left it alone. Otherwise that of the wall clock.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    _wait_for(device)
    start = clock()
    step()
    _wait_for(device)
    return clock() - start


def peak_bytes(step: Step, device: torch.device) -> int:
    """The most bytes that one call holds at once of what it allocates itself.

    On CUDA: ``max_memory_allocated`` in the call above ``memory_allocated`` before it. On the CPU: the highest running
    sum over every allocation and release of torch's allocator, as ``torch.profiler`` records them. What was allocated
    before the call counts neither while it is there nor when it is released; memory that is not torch's (NumPy's) does
    not count at all.
    """
    if device.type != "cuda":
        return highest_sum(memory_events(step))
    _wait_for(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    _wait_for(device)
    return torch.cuda.max_memory_allocated(device) - before


def memory_events(step: Step) -> list[MemoryEvent]:
    """Record the events of torch's CPU allocator during one call, in their order."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler calls a machine without GPU an error
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        step()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    memory = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    return [(event["args"]["Addr"], event["args"]["Bytes"]) for event in memory]


def highest_sum(events: list[MemoryEvent]) -> int:
    """The highest running sum of allocations and their releases; a release of anything else is left out.

    >>> highest_sum([(1, 10), (7, -99), (1, -10), (2, 4)])
    10
    """
    held: dict[int, int] = {}
    total = highest = 0
    for address, num_bytes in events:
        if num_bytes > 0:
            assert address not in held
            held[address] = num_bytes
            total += num_bytes
        else:
            total -= held.pop(address, 0)
        highest = max(highest, total)
    return highest


@contextmanager
def using_threads(num_threads: int) -> Iterator[None]:
    """``num_threads`` threads for torch's operations inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
