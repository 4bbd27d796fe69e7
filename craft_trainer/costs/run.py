"""Measure what retention costs a whole run, start-up included, and what it keeps: plain beside a CRaFT frontier."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml

from craft_trainer.costs.toy import make_toy
from craft_trainer.files import write_atomically, write_json
from craft_trainer.options import option, split_list
from craft_trainer.progress import progress

EXAMPLE = (
    "craft-trainer bench run --model outputs/teacher --dataset my/new_task --anchors outputs/anchors "
    "--training configs/train/metaworld_craft.yaml --tasks push-v3,door-open-v3"
)
PLAIN = "plain"
ANY = 1e9  # ε of `merge` that lets it go all the way to the trained weights
OF_L_RETAIN = ("retention_terms", "retention_weights", "hidden_distance")
RETENTION, TASK, SUCCESS = "L_retain", "task loss", "success"


class Command(NamedTuple):
    """One call of ``craft-trainer``, and where its output goes."""

    words: tuple[str, ...]
    log: Path


class Times(NamedTuple):
    """Seconds of a process from its start to its end."""

    processor: float
    wall: float


@dataclass(frozen=True)
class Arm:
    """One way to train: plain, or held by ``anchors``, of which a pass every ``every`` steps takes ``size``."""

    name: str
    anchors: str | None = None
    every: int = 1
    size: int = 0

    def options(self) -> dict[str, Any]:
        """The options of ``train`` that make this arm."""
        if self.anchors is None:
            return {"method": "plain"}
        return {"anchors": self.anchors, "retention_every": self.every, "retention_batch_size": self.size}


@dataclass
class Row:
    """The cost of an arm, and the success that it kept."""

    arm: Arm
    times: list[Times]
    kept: dict[str, float]

    def cost(self, plain: "Row") -> tuple[float, float]:
        """Processor time and wall clock over those of ``plain``: the median run of each."""
        mine, theirs = ([median(column) for column in zip(*row.times, strict=True)] for row in (self, plain))
        return mine[0] / theirs[0], mine[1] / theirs[1]


@dataclass
class RunBenchArguments:
    """Choose the runs to train, the frequencies of retention passes, and the tasks to evaluate."""

    model: str | None = option("checkpoint to start from, as in `train`; without it a toy language model", None)
    dataset: str | None = option("what is learned, as in `train`", None)
    anchors: list[str] = option("anchor caches of the model, each with a frontier of its own", [])
    training: str | None = option("YAML file with the settings of every run, as `train --config` takes it", None)
    steps: int | None = option("optimizer steps of every run; by default what training says", None)
    every: list[str] = option("values of retention_every", ["1", "5"])
    sizes: list[str] = option("values of retention_batch_size", ["4", "16"])
    held_out: str | None = option(
        "anchor cache of the same model on which L_retain is measured after every run; no run should have seen its "
        "anchors, so build it with another seed",
        None,
    )
    tasks: list[str] = option("Meta-World tasks of which success is measured instead", [])
    episodes: int = option("rollouts of each task", 20)
    repeats: int = option("runs of every arm, all arms in turn; ≥ 1", 1)
    seed: int = option("of every run, and of the rollouts", 0)
    output_dir: str | None = option("folder that keeps the runs; without it they are deleted", None)
    json: str | None = option("file of all figures; no file without it", None)

    def __post_init__(self) -> None:
        own = {"dataset": self.dataset, "anchors": self.anchors}
        if self.model is None and (given := [name for name, value in own.items() if value]):
            raise ValueError(f"{given[0]} is given and model is not: give the checkpoint that the runs start from")
        if self.model is not None and (missing := [name for name, value in own.items() if not value]):
            raise ValueError(f"model needs {missing[0]} as well: `craft-trainer bench run --help` has an example")
        if self.model is not None and (self.held_out is None) == (not split_list(self.tasks)):
            raise ValueError("give either tasks (success is measured) or held_out (L_retain is measured)")
        asked = [str(self.repeats), *split_list(self.every), *split_list(self.sizes)]
        if not all(number.isdecimal() and int(number) >= 1 for number in asked):
            raise ValueError(f"repeats, every and sizes are {', '.join(asked)}: each must be a whole number ≥ 1")

    def arms(self) -> list[Arm]:
        """Plain training, and every combination of anchors, retention_every and retention_batch_size."""
        grid = product(split_list(self.anchors), map(int, split_list(self.every)), map(int, split_list(self.sizes)))
        return [
            Arm(PLAIN),
            *(Arm(f"{Path(cache).name}, every {every}, {size}", cache, every, size) for cache, every, size in grid),
        ]


def run(arguments: RunBenchArguments) -> None:
    """Train every arm in a process of its own, look at what it has kept, print the frontier."""
    if arguments.json is not None:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)  # before minutes of training
    with _folder(arguments.output_dir) as folder:
        if arguments.model is None:
            toy = make_toy(folder / "toy")
            for number, words in enumerate(toy.commands):
                execute(Command(words, folder / f"toy-{number}.log"))
            arguments.model, arguments.dataset, arguments.anchors = toy.model, toy.dataset, toy.anchors
            arguments.training, arguments.held_out = toy.training, toy.held_out
        if arguments.training is not None:
            arguments.training = str(without_anchors(Path(arguments.training), folder / "training.yaml"))
        rows = measure(arguments, folder)
    print(table(rows))
    if arguments.json is not None:
        write_json(Path(arguments.json), [asdict(row) | {"cost": row.cost(rows[0])} for row in rows])
        print(f"all figures: {arguments.json}")


def measure(arguments: RunBenchArguments, folder: Path) -> list[Row]:
    """Run all arms, one after the other."""
    rows = [Row(arm, [], {}) for arm in arguments.arms()]
    runs = [(row, repeat) for repeat in range(arguments.repeats) for row in rows]
    for number, (row, repeat) in enumerate(progress(runs, desc="bench", unit="run")):
        output = folder / f"run-{number}"
        row.times.append(execute(Command(train_words(arguments, row.arm, output), folder / f"run-{number}.log")))
        if repeat == 0:
            row.kept = kept(arguments, output, folder)
    return rows


def without_anchors(training: Path, copy: Path) -> Path:
    """Write the settings of ``training`` into ``copy``, except for the anchors, which are an arm's own or nobody's."""
    settings = yaml.safe_load(training.read_text()) or {}
    write_atomically(copy, yaml.safe_dump({name: value for name, value in settings.items() if name != "anchors"}))
    return copy


def train_words(arguments: RunBenchArguments, arm: Arm, output: Path) -> tuple[str, ...]:
    """The command of one run."""
    options = {"model": arguments.model, "dataset": arguments.dataset, "seed": arguments.seed, "output_dir": output}
    options |= {"max_steps": arguments.steps} if arguments.steps is not None else {}
    config = ("--config", arguments.training) if arguments.training is not None else ()
    return "train", *config, *_flags(options | arm.options())


def kept(arguments: RunBenchArguments, output: Path, folder: Path) -> dict[str, float]:
    """The success of the checkpoint ``output`` on every task, or its L_retain and task loss."""
    if tasks := split_list(arguments.tasks):
        file = folder / f"{output.name}.json"
        options = {"policy": output, "tasks": ",".join(tasks), "episodes": arguments.episodes, "seed": arguments.seed}
        execute(Command(("rollout", *_flags(options | {"output": file})), folder / f"{output.name}-rollout.log"))
        rows = json.loads(file.read_text())["rows"]
        each = {row["task"]: row["successes"] / row["episodes"] for row in rows}
        return {SUCCESS: sum(each.values()) / len(each), **each}
    merged = folder / f"{output.name}-measured"
    options = {"teacher": arguments.model, "tuned": output, "anchors": arguments.held_out, "output_dir": merged}
    options |= {"dataset": arguments.dataset, "points": 2, "epsilon": ANY} | _held(arguments.training)
    execute(Command(("merge", *_flags(options)), folder / f"{output.name}-merge.log"))
    end = json.loads((merged / "merge.json").read_text())["curve"][-1]  # α = 1: the trained weights
    return {RETENTION: end["retention_loss"], TASK: end["task_loss"]}


def _held(training: str | None) -> dict[str, Any]:
    """What the settings of ``training`` hold, as options of `merge`."""
    settings = {} if training is None else yaml.safe_load(Path(training).read_text()) or {}
    return {name: settings[name] for name in OF_L_RETAIN if settings.get(name) is not None}


def execute(command: Command) -> Times:
    """Run ``craft-trainer`` in a process of its own; its processor time is that of all processes it has waited for.

    Raises:
        RuntimeError: it failed; the message has the end of its log.
    """
    if not hasattr(os, "wait4"):
        raise OSError("bench run asks the system what a process used: that is there on Linux and macOS")
    begun = time.perf_counter()
    with command.log.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "craft_trainer", *command.words], stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        end = "\n".join(command.log.read_text(errors="replace").splitlines()[-5:])
        raise RuntimeError(f"craft-trainer {' '.join(command.words)} failed ({process.returncode}):\n{end}")
    return Times(used.ru_utime + used.ru_stime, time.perf_counter() - begun)


def table(rows: Sequence[Row]) -> str:
    """A line per arm: seconds, how many times those of plain training, and what it kept."""
    names = list(rows[0].kept)
    width = max(len(row.arm.name) for row in rows)
    head = f"{'':<{width}}{'processor':>16}{'wall clock':>16}" + "".join(f"  {name:>10}" for name in names)
    lines = []
    for row in rows:
        seconds = (median(column) for column in zip(*row.times, strict=True))
        costs = "".join(f"{time:8.1f} s {cost:4.2f} ×" for time, cost in zip(seconds, row.cost(rows[0]), strict=True))
        lines.append(f"{row.arm.name:<{width}}{costs}" + "".join(f"  {row.kept[name]:>10.3g}" for name in names))
    return "\n".join([head, *lines])


@contextmanager
def _folder(given: str | None) -> Iterator[Path]:
    if given is None:
        with TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        Path(given).mkdir(parents=True)  # a new one: no run goes on in it
        yield Path(given)


def _flags(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        yield from (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
