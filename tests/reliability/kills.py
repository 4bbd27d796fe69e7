"""Kill training at random moments inside of saving, and go on each time: a script of its own, because it forks.

    python tests/reliability/kills.py FOLDER [--kills 20] [--seed 0] [--by script command]

Each child trains with a checkpoint after every step. Inside one of its saves it gets SIGKILL after a random fraction of
the time that a save takes. Afterwards every checkpoint that is there must be whole, and the run that goes on must end
with the weights of a run that was never killed, bit for bit.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "integration"))
sys.path.append(str(Path(__file__).parents[1] / "twins"))

from command_words import flags
from lm_folders import save_lines, save_tiny_lm
from runs import run
from safetensors.torch import load_file
from toy import toy_anchors

from craft_trainer import CraftTrainer
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.cli.main import main
from craft_trainer.hub.manifest import require_whole
from craft_trainer.hub.run_folder import DRAFT, checkpoints
from craft_trainer.training.checkpoints import CheckpointMixin

STEPS = 4
EVERY_STEP = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 1}
Train = Callable[[Path, bool], None]


def by_script(folder: Path) -> Train:
    """Training as a script does it, with ``resume_from_checkpoint=True``."""
    toy_anchors(folder / "anchors")

    def train(output: Path, resumes: bool) -> None:
        trainer: CraftTrainer = run(output, AnchorCache(folder / "anchors"), resume=resumes or None, **EVERY_STEP)
        trainer.save_model()

    return train


def by_command(folder: Path) -> Train:
    """Training by ``craft-trainer train``, with ``--resume_from_checkpoint last``."""
    save_tiny_lm(folder / "model")
    save_lines(folder / "new.jsonl", [{"text": f"the answer is {n} yes"} for n in range(16)])
    given = EVERY_STEP | {"model": folder / "model", "dataset": folder / "new.jsonl", "use_cpu": True}
    given |= {"report_to": "none", "logging_strategy": "no"}

    def train(output: Path, resumes: bool) -> None:
        more = {"resume_from_checkpoint": "last"} if resumes else {}
        if main(["train", *flags(**given | more, output_dir=output)]) != 0:
            raise RuntimeError("the command failed")

    return train


def child(work: Callable[[], Any], log: Path) -> int:
    """The exit status of ``work`` in a process of its own; negative for a signal."""

    def logged() -> None:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            work()

    process = multiprocessing.get_context("fork").Process(target=logged)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def killed_inside(save: int, after_s: float) -> None:
    """From now on, this process dies ``after_s`` after the beginning of its ``save``-th save."""
    original, saves = CheckpointMixin._save_checkpoint, 0

    def saving(self: Any, *args: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == save:
            threading.Thread(target=lambda: (time.sleep(after_s), os.kill(os.getpid(), signal.SIGKILL))).start()
        original(self, *args)

    CheckpointMixin._save_checkpoint = saving  # type: ignore[method-assign]  # of a child only


def seconds_of_a_save(train: Train, folder: Path) -> float:
    """The mean over a run that is not killed."""
    original, seconds = CheckpointMixin._save_checkpoint, []

    def timed(self: Any, *args: Any) -> None:
        begin = time.perf_counter()
        original(self, *args)
        seconds.append(time.perf_counter() - begin)

    CheckpointMixin._save_checkpoint = timed  # type: ignore[method-assign]
    try:
        train(folder, False)
    finally:
        CheckpointMixin._save_checkpoint = original  # type: ignore[method-assign]
    return sum(seconds) / len(seconds)


def weights(folder: Path) -> dict[str, list[float]]:
    return {name: value.tolist() for name, value in load_file(folder / "model.safetensors").items()}


def try_kills(train: Train, folder: Path, kills: int, seed: int) -> tuple[int, int]:
    """How many saves were cut, of how many tries; an AssertionError tells what was lost."""
    draw = random.Random(seed)
    duration = seconds_of_a_save(train, folder / "whole")
    expected, cut, tries = weights(folder / "whole"), 0, 0
    while cut < kills and tries < 5 * kills:
        output, tries = folder / f"run{tries}", tries + 1
        save, after_s = draw.randint(1, STEPS), draw.uniform(0, duration)

        def work(output: Path = output, save: int = save, after_s: float = after_s) -> None:
            killed_inside(save, after_s)
            train(output, False)

        log = folder / f"{output.name}.log"
        status = child(work, log)
        assert status in (0, -signal.SIGKILL), log.read_text()
        if status == 0:
            continue  # the save was shorter than that
        left = [path.name for path in checkpoints(output)]
        assert left[: save - 1] == [f"checkpoint-{step}" for step in range(1, save)], (left, save)
        for checkpoint in checkpoints(output):
            require_whole(checkpoint)
        cut += (output / DRAFT).is_dir() or len(left) < save
        began = (output / DRAFT).is_dir() or bool(left)
        status = child(lambda output=output, began=began: train(output, began), log)  # type: ignore[misc]
        assert status == 0, log.read_text()
        assert weights(output) == expected, f"{output}: another result"
        assert not (output / DRAFT).exists()
    return cut, tries


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by", nargs="+", choices=("script", "command"), default=("script", "command"))
    given = parser.parse_args()
    for way in given.by:
        place = given.folder / way
        place.mkdir(parents=True)
        cut, tries = try_kills({"script": by_script, "command": by_command}[way](place), place, given.kills, given.seed)
        print(f"by {way}: {cut} saves cut in {tries} runs, seed {given.seed}; nothing lost")
