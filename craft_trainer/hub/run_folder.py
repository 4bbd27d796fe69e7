"""A run's folder: which of its files belong to the model, which to a checkpoint's states."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from craft_trainer.files import locked

CHECKPOINT_PREFIX = "checkpoint-"
LAST_CHECKPOINT = "last-checkpoint"  # what hub_strategy checkpoint calls the newest
HISTORIES = ("lambda_history.csv", "lambda_history_groups.csv")
STATE_FILE = "trainer_state.json"
MANIFEST = "manifest.json"  # of a checkpoint: what its files are
DRAFT = ".saving"  # beside the checkpoints: the one that is being written
STATES = ("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "global_step*", "pytorch_model_fsdp*")
RUN_FILE = "run.json"
PRIVATE = (RUN_FILE, "report.html", "rollout*.json")  # the paths and the machine of whoever trained
IN_PROGRESS = ("_*", ".*", "*.partial")
LOCK = ".in-use"  # beginning with a dot: in no push
STAGE = "_push-{step}"  # beginning with _, which Trainer and this package leave out of every push
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*", "policy_*processor*.json")
MODEL = ("model.safetensors*", "model-*.safetensors", "adapter_model*", "pytorch_model.bin*", "pytorch_model-*.bin")


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep other processes from working in ``folder``; inside it again, the process that has it already passes.

    The lock ends with the process, however it ends: a run that was killed leaves a file and no lock.

    Raises:
        RuntimeError: another process is at work there.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.resolve() / LOCK
    holder = file.read_text("utf-8") if file.is_file() else ""
    refusal = (
        f"{folder} is in use by another run ({holder or 'which has just begun'}): wait until it has ended, "
        "end it, or give another output folder"
    )
    with ExitStack() as left:
        if is_new:
            left.callback(_remove_if_empty, folder)
        lock = left.enter_context(locked(file, refusal, is_singleton=True))
        if lock.lock_counter == 1:  # not inside it again
            left.callback(file.unlink, missing_ok=True)  # while it is held: who waits for it notices
            now = datetime.now(UTC).isoformat(timespec="seconds")
            file.write_text(f"process {os.getpid()} on {platform.node()} since {now}", "utf-8")
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it stays if something was written into it
        folder.rmdir()


def remove_earlier_results(folder: Path, others: tuple[str, ...] = ()) -> None:
    """Remove what an earlier run in ``folder`` left of λ and of its end, which would be taken for the new one's.

    ``others`` are files of it that the new one does not write.
    """
    for name in (*HISTORIES, STATE_FILE, *others):
        (folder / name).unlink(missing_ok=True)


def run_files(folder: Path) -> dict[str, Path]:
    """Name in the repository → file, of everything in ``folder`` but checkpoints and the states to resume from."""
    left_out = (*STATES, *PRIVATE, *IN_PROGRESS, f"{CHECKPOINT_PREFIX}*")
    return {name: file for name, file in all_files(folder).items() if not _any_part(name, left_out)}


def model_files(checkpoint: Path) -> dict[str, Path]:
    """The same of a checkpoint folder, without the state of the Trainer."""
    return {name: file for name, file in run_files(checkpoint).items() if name not in (STATE_FILE, MANIFEST)}


def all_files(folder: Path, prefix: str = "") -> dict[str, Path]:
    """``prefix`` + path inside ``folder`` → file."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {prefix + file.relative_to(folder).as_posix(): file for file in files}


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders of a run, by their step."""
    steps = {path: path.name.removeprefix(CHECKPOINT_PREFIX) for path in folder.glob(f"{CHECKPOINT_PREFIX}*")}
    return sorted((path for path, step in steps.items() if step.isdigit()), key=lambda path: int(steps[path]))


def step_of_weights(args: Any, state: Any) -> int:
    """The step whose weights a training leaves: its last, or that of the best checkpoint, if that is loaded at the end.

    ``args`` and ``state`` are those of a Trainer whose training has ended.
    """
    best = state.best_model_checkpoint if args.load_best_model_at_end else None
    return int(Path(best).name.removeprefix(CHECKPOINT_PREFIX) if best else state.global_step)


def begun(folder: Path) -> bool:
    """True if a run has begun to train in ``folder``, or to save its first checkpoint."""
    return (folder / RUN_FILE).is_file() or (folder / DRAFT).is_dir()


def model_of_run(folder: Path) -> list[Path]:
    """The model in ``folder`` itself, by the names that Trainer, PEFT and LeRobot save it under."""
    return sorted({path for pattern in MODEL for path in folder.glob(pattern)})


def staged(checkpoint: Path, step: int) -> Path:
    """``checkpoint`` a second time, beside it and without taking room: it may be deleted while this is uploaded.

    Files are hard links; where the file system has none, copies.
    """
    stage = checkpoint.parent / STAGE.format(step=step)
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(checkpoint, stage, copy_function=_link)
    return stage


def clear_stages(folder: Path) -> None:
    """Remove what pushes of a run that was killed have left."""
    for stage in folder.glob(STAGE.format(step="*")):
        shutil.rmtree(stage, ignore_errors=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _any_part(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(part, pattern) for part in name.split("/") for pattern in patterns)
