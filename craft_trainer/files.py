"""Files and folders that appear whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKSUM = "sha256"  # the key of a JSON object under which the digest of all others stands


@contextmanager
def appears_when_complete(folder: Path) -> Iterator[Path]:
    """Yield the path to work at, not yet made; it becomes ``folder`` at the end, or vanishes if anything is raised.

    Raises:
        FileExistsError: ``folder`` is there already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists: delete it, or choose another folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON to ``path``, in one step; what JSON does not have as its text."""
    write_atomically(path, as_json(content))


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


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write ``data`` (text as UTF-8) beside ``path``, whose folder is made if need be, and move it there in one step.

    On any error ``path`` is as it was; an OSError, of a full disk for instance, names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(data.encode() if isinstance(data, str) else data)
        draft.replace(path)  # os.replace: atomic within a file system
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        draft.unlink(missing_ok=True)
