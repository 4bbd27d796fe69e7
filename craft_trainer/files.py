"""Files and folders that appear whole or not at all."""

import hashlib
import json
import os
import platform
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

CHECKSUM = "sha256"  # the key of a JSON object under which the digest of all others stands
DRAFT_SUFFIX = ".tmp"
BLOCK, BLOCKS = 65_536, 16  # what counts of a large file in a folder, in bytes and times
FORGOTTEN_S = 86_400  # a draft of another machine that is older than this has no writer any more


@contextmanager
def appears_when_complete(folder: Path) -> Iterator[Path]:
    """Yield the path to work at, not yet made; it becomes ``folder`` at the end, or vanishes if anything is raised.

    Raises:
        FileExistsError: ``folder`` is there already.
        RuntimeError: another process is writing it.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists: delete it, or choose another folder")
    partial = folder.with_name(folder.name + ".draft.partial")  # unlike the shards of a cache that is being built
    partial.parent.mkdir(parents=True, exist_ok=True)
    mark = folder.with_name(f"{folder.name}.draft.lock")
    with locked(mark, f"another process is writing {folder}: wait until it is done, or choose another folder"):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            yield partial
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            mark.unlink(missing_ok=True)  # while it is held


@contextmanager
def locked(file: Path | str, refusal: str, *, is_singleton: bool = False) -> Iterator[FileLock]:
    """Hold the lock that ``file`` stands for; it ends with the process, however that ends.

    With ``is_singleton`` the process that has it already passes, and ``lock_counter`` says how often.

    Raises:
        RuntimeError: another process has it; with the text ``refusal``.
    """
    lock = FileLock(file, is_singleton=is_singleton)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RuntimeError(refusal) from error
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def temporary(folder: Path, name: str) -> Iterator[Path]:
    """Yield a new folder beside ``folder``, which is removed at the end; what a killed process left goes first."""
    place = folder.with_name(f"{folder.name}.{name}.partial")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON to ``path``, in one step; what JSON does not have as its text."""
    write_atomically(path, as_json(content))


def require_result_of(file: Path, asked: Mapping[str, Any]) -> None:
    """Refuse to write over a result that says otherwise than ``asked`` under one of its keys; of a part, its model.

    Raises:
        ValueError: ``file`` is there, and is such a result, or none.
    """
    if not file.is_file():
        return
    way_out = "name another file with --output, or delete this one"
    try:
        there = json.loads(file.read_text("utf-8"))
        found = {name: there.get(name) for name in asked}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is there already and is no result: {way_out}") from error
    for name, value in json.loads(as_json(asked)).items():
        part = found[name]
        of_it = part["model"] if isinstance(part, dict) and "model" in part else part
        if of_it != value:
            raise ValueError(f"{file} is a result with {name} {of_it}, and this one has {name} {value}: {way_out}")


def checked(content: Mapping[str, Any]) -> dict[str, Any]:
    """The object ``content`` as JSON has it, with its checksum under the key ``CHECKSUM``."""
    plain: dict[str, Any] = json.loads(as_json(content))
    return plain | {CHECKSUM: checksum(plain)}


def as_json(content: Any) -> str:
    """``content`` as indented JSON; what JSON does not have as its text."""
    return json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of an object as JSON, its keys in order, without the one under which a checksum stands."""
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; of a folder that of the names, sizes and contents of the files in it.

    Of a file in a folder that is larger than 1 MiB, blocks count that are spread over it: weights that were trained
    again differ everywhere.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        told = [(one.relative_to(path).as_posix(), one.stat().st_size, _digest_of_blocks(one)) for one in files]
        return hashlib.sha256(repr(told).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_blocks(file: Path) -> str:
    """SHA-256 of sixteen blocks of 64 KiB from the start of ``file`` to its end; of all of it if there is no more."""
    found, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb") as opened:
        for i in range(BLOCKS):
            opened.seek(max(i * BLOCK, (size - BLOCK) * i // (BLOCKS - 1)))
            found.update(opened.read(BLOCK))
    return found.hexdigest()


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write ``data`` (text as UTF-8) beside ``path``, whose folder is made if need be, and move it there in one step.

    The disk holds the data before the move. Drafts of ``path`` that killed processes have left are removed. On any
    error ``path`` is as it was; an OSError, of a full disk for instance, names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_drafts(path)
    draft = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}{DRAFT_SUFFIX}")
    try:
        with draft.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)  # os.replace: atomic within a file system
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        draft.unlink(missing_ok=True)


def _remove_drafts(path: Path) -> None:
    """Remove the drafts of ``path`` whose writers have ended: processes of this machine, or any of yesterday."""
    prefix = f".{path.name}."
    for draft in path.parent.iterdir():
        if not (draft.name.startswith(prefix) and draft.name.endswith(DRAFT_SUFFIX)):
            continue
        machine, _, process = draft.name.removeprefix(prefix).removesuffix(DRAFT_SUFFIX).partition("-")
        with suppress(OSError):  # another writer was as fast
            ended = machine == _machine() and process.isdigit() and not _is_running(int(process))
            if ended or time.time() - draft.stat().st_mtime > FORGOTTEN_S:
                draft.unlink()


def _machine() -> str:
    """A short name of this machine, in the names of drafts."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_running(process: int) -> bool:
    if os.name != "posix":  # elsewhere the signal 0 ends a process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
