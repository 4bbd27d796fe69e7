"""manifest.json of a checkpoint: size and SHA-256 of its files, by which damage is seen before it is resumed."""

import hashlib
import json
import logging
import math
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from craft_trainer.hub.readme import README
from craft_trainer.hub.run_folder import (
    CHECKPOINT_PREFIX,
    MANIFEST,
    MODEL,
    STATE_FILE,
    STATES,
    all_files,
    checkpoints,
)

SCHEMA = 1
OPTIMIZER = ("optimizer*", "global_step*")  # Trainer's, FSDP's and DeepSpeed's
SCHEDULER = ("scheduler.pt", "global_step*")
WITH_MODEL_ONLY = "it may be of a run with save_only_model"
logger = logging.getLogger(__name__)


class DamagedCheckpointError(ValueError):
    """A checkpoint is not as it was saved, or holds what no run saves."""


def seal(folder: Path) -> None:
    """Write the manifest of a complete checkpoint; afterwards the disk holds it and every file."""
    names = [name for name in all_files(folder) if name not in (README, MANIFEST)]  # a card may be changed by hand
    with ThreadPoolExecutor() as pool:  # hashing and waiting for the disk both let the others run
        on_disk = [pool.submit(make_durable, folder / name) for name in names]
        digests = pool.map(lambda name: _digest(folder / name), names)
        sizes = [(folder / name).stat().st_size for name in names]
        entries = {
            name: {"size": size, "sha256": digest} for name, size, digest in zip(names, sizes, digests, strict=True)
        }
    for done in on_disk:
        done.result()
    (folder / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "files": entries}, indent=2) + "\n", "utf-8")
    for place in (folder / MANIFEST, *(path for path in folder.rglob("*") if path.is_dir()), folder):
        make_durable(place)


def make_durable(place: Path) -> None:
    """Wait until the disk holds the file, or the names in the folder."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_whole(folder: Path, *, model_only: bool = False) -> Path | None:
    """The whole checkpoint of a run with the most steps; a warning says which it passed over, and why."""
    for checkpoint in reversed(checkpoints(folder)):
        try:
            require_whole(checkpoint, model_only=model_only)
        except DamagedCheckpointError as error:
            logger.warning("passed over: %s", error)
        else:
            return checkpoint
    return None


def require_whole(checkpoint: Path, *, model_only: bool = False) -> None:
    """Refuse a checkpoint that is not as it was saved.

    One without a manifest, of another Trainer, is let through if its files open, its states are there and its counters
    are possible. Weights that were changed are not noticed there.

    Args:
        checkpoint: its folder.
        model_only: whether it may be without the states of optimizer and scheduler (``save_only_model``).

    Raises:
        DamagedCheckpointError: it is damaged; the error names the file.
    """
    try:
        _check_state(checkpoint)
        names = list(all_files(checkpoint))
        if (checkpoint / MANIFEST).is_file():
            _check_manifest(checkpoint, names)
        else:
            _check_structure(checkpoint, names)
            logger.warning("%s has no %s, so changed weights would not be noticed", checkpoint, MANIFEST)
        for what, patterns in (("optimizer.pt", OPTIMIZER), ("scheduler.pt", SCHEDULER)):
            if not model_only and not any(fnmatch(name, one) for name in names for one in patterns):
                raise ValueError(f"{what} is missing; {WITH_MODEL_ONLY}")
    except (ValueError, OSError) as error:
        raise DamagedCheckpointError(
            f"{checkpoint} is not whole: {error}. Name an earlier one, or give `last` for the newest that is whole; if "
            f"you changed its files yourself, remove {MANIFEST}"
        ) from error


def _check_state(checkpoint: Path) -> None:
    """``trainer_state.json`` is there, and says a step that its folder may be named after."""
    if not (checkpoint / STATE_FILE).is_file():
        raise ValueError(f"{STATE_FILE} is missing")
    state = _read(checkpoint / STATE_FILE)
    step, epoch, named = state.get("global_step"), state.get("epoch"), checkpoint.name.removeprefix(CHECKPOINT_PREFIX)
    if type(step) is not int or step < 0 or (named.isdigit() and int(named) != step):
        raise ValueError(f"{STATE_FILE} has global_step {step!r}")
    if epoch is not None and not (isinstance(epoch, int | float) and math.isfinite(epoch) and epoch >= 0):
        raise ValueError(f"{STATE_FILE} has epoch {epoch!r}")


def _check_manifest(checkpoint: Path, names: list[str]) -> None:
    """Every file is as the manifest says, and it says something of every file that is loaded."""
    listed = _read(checkpoint / MANIFEST).get("files")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{MANIFEST} lists no files")
    for name, entry in listed.items():
        if name not in names:
            raise ValueError(f"{name} is missing")
        size = (checkpoint / name).stat().st_size
        if not isinstance(entry, dict) or entry.get("size") != size:
            raise ValueError(f"{name} has {size:,} bytes, which is not what {MANIFEST} says")
    for name in names:
        if name not in listed and any(fnmatch(name, one) for one in (*MODEL, *STATES, STATE_FILE)):
            raise ValueError(f"{name} is not in {MANIFEST}")
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: _digest(checkpoint / name), listed)
    for name, digest in zip(listed, found, strict=True):
        if digest != listed[name].get("sha256"):
            raise ValueError(f"{name} was changed after it was saved (its SHA-256 is not that of {MANIFEST})")


def _check_structure(checkpoint: Path, names: list[str]) -> None:
    """Check what can be known without a manifest: torch's files carry checksums, safetensors know their lengths."""
    for name in names:
        file = checkpoint / name
        if file.suffix in (".pt", ".pth", ".bin") and not _is_intact_archive(file):
            raise ValueError(f"{name} is no file that torch has saved, or is damaged")
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt"):
                    pass
            except SafetensorError as error:
                raise ValueError(f"{name} cannot be read ({error})") from error


def _is_intact_archive(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file.name} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} holds a {type(found).__name__}, expected an object")
    return found
