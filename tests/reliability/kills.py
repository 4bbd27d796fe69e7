"""Kill training at random moments inside of saving, and go on each time: a script of its own, because it forks.

    python tests/reliability/kills.py FOLDER [--kills 20] [--seed 0] [--by script command] [--processes 2]

Each child trains with a checkpoint after every step. After the beginning of one of its saves it gets SIGKILL, at a
random moment of the time until that checkpoint is whole: while its files are written, or while it is finished beside
the next step. Of several processes one is killed, by chance, and the others have to end by themselves. Afterwards every
checkpoint that is there must be whole, and the run that goes on must end with the weights of a run that was never
killed, bit for bit.
"""

import argparse
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import wait
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
ALONE_S = 120  # a process that waits for one that has died is to end within
GLOO = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_TORCH_DEVICE": "cpu"}
EVERY_STEP = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 1}
Train = Callable[[Path, bool], None]


def by_script(folder: Path) -> Train:
    """Training as a script does it, with ``resume_from_checkpoint=True``."""
    status, _ = child(lambda _: toy_anchors(folder / "anchors"), folder / "anchors")
    assert status == 0, text_of(folder / "anchors")

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


def child(work: Callable[[int], Any], log: Path, processes: int = 1) -> tuple[int, float]:
    """The exit status of ``work(rank)`` in processes of its own, negative for a signal, of several the least; and the
    seconds from the end of the first of them to that of the last.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def logged(rank: int) -> None:
        with log.with_suffix(f".{rank}.log").open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            if processes > 1:
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
                os.environ |= {name: str(value) for name, value in (place | {"MASTER_PORT": port}).items()} | GLOO
            work(rank)

    begun = [multiprocessing.get_context("fork").Process(target=logged, args=(rank,)) for rank in range(processes)]
    for process in begun:
        process.start()
    wait([process.sentinel for process in begun])
    first = time.monotonic()
    for process in begun:
        process.join(max(0.0, first + ALONE_S - time.monotonic()))
        assert process.exitcode is not None, f"{log}: a process was still there {ALONE_S} s after another had ended"
    return min(process.exitcode for process in begun), time.monotonic() - first


def text_of(log: Path) -> str:
    """What the processes of a child have said."""
    return "\n".join(file.read_text()[-3000:] for file in sorted(log.parent.glob(f"{log.stem}.*.log")))


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


def time_saves(train: Train, folder: Path, _rank: int) -> None:
    """Train undisturbed, and leave the mean time until a checkpoint is whole in a file beside the run."""
    original, seconds = CheckpointMixin._save_checkpoint, []

    def timed(self: Any, *args: Any) -> None:
        begin = time.perf_counter()
        original(self, *args)
        self.finish_saving()
        seconds.append(time.perf_counter() - begin)

    CheckpointMixin._save_checkpoint = timed  # type: ignore[method-assign]  # of a child only
    train(folder, False)
    folder.with_suffix(".seconds").write_text(str(sum(seconds) / len(seconds)))


def weights(folder: Path) -> dict[str, list[float]]:
    return {name: value.tolist() for name, value in load_file(folder / "model.safetensors").items()}


def try_kills(train: Train, folder: Path, kills: int, seed: int, processes: int = 1) -> tuple[int, int, float]:
    """How many saves were cut, of how many tries, and the most seconds that a process outlived another.

    An AssertionError tells what was lost.
    """
    draw = random.Random(seed)
    log = folder / "whole"
    status, _ = child(partial(time_saves, train, folder / "whole"), log, processes)
    assert status == 0, text_of(log)
    duration = float((folder / "whole.seconds").read_text())
    expected, cut, tries, longest = weights(folder / "whole"), 0, 0, 0.0
    while cut < kills and tries < 5 * kills:
        output, tries = folder / f"run{tries}", tries + 1
        save, after_s, victim = draw.randint(1, STEPS), draw.uniform(0, duration), draw.randrange(processes)

        def work(
            rank: int, output: Path = output, save: int = save, after_s: float = after_s, victim: int = victim
        ) -> None:
            if rank == victim:
                killed_inside(save, after_s)
            train(output, False)

        status, alone_s = child(work, output, processes)
        assert status in (0, -signal.SIGKILL), text_of(output)
        if status == 0:
            continue  # the save was shorter than that
        longest = max(longest, alone_s)
        left = [path.name for path in checkpoints(output)]
        whole = [f"checkpoint-{step}" for step in range(1, save - 1)]  # the save waits for the one before it
        assert left[: len(whole)] == whole, (left, save)
        for checkpoint in checkpoints(output):
            require_whole(checkpoint)
        cut += (output / DRAFT).is_dir() or len(left) < save
        goes_on = (output / DRAFT).is_dir() or bool(left)
        status, _ = child(lambda _, output=output, goes_on=goes_on: train(output, goes_on), output, processes)
        assert status == 0 or "its run has ended" in text_of(output), text_of(output)  # killed when all was there
        assert weights(output) == expected, f"{output}: another result"
        assert not (output / DRAFT).exists()
    return cut, tries, longest


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="that train together, over gloo")
    parser.add_argument("--by", nargs="+", choices=("script", "command"), default=("script", "command"))
    given = parser.parse_args()
    for way in given.by:
        place = given.folder / way
        place.mkdir(parents=True)
        train = {"script": by_script, "command": by_command}[way](place)
        cut, tries, longest = try_kills(train, place, given.kills, given.seed, given.processes)
        print(f"by {way}: {cut} saves cut in {tries} runs, seed {given.seed}; nothing lost")
        if given.processes > 1:
            print(f"the process that was left ended within {longest:.1f} s")
