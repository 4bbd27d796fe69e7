"""Places that fsspec knows beside the local file system: ``s3://bucket/folder``, ``gs://…``, ``hf://…``."""

import hashlib
from pathlib import Path

from filelock import FileLock
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from craft_trainer.files import appears_when_complete


def place_of(place: str | Path) -> Path | str:
    """The local path that ``place`` is, also as ``file://…``; a URL of any other kind as it is, without its last slash.

    Raises:
        ValueError: fsspec does not know such places.
        ImportError: the package that reads them is not installed; it says which.
    """
    if "://" not in str(place):
        return Path(place)
    file_system, path = url_to_fs(str(place))
    return Path(path) if isinstance(file_system, LocalFileSystem) else str(place).rstrip("/")


def local_folder(place: str | Path, command: str) -> Path:
    """The local path that ``place`` is; a ValueError if it is elsewhere, where ``command`` writes nothing."""
    found = place_of(place)
    if isinstance(found, str):
        raise ValueError(f"{command} writes to folders of this machine, and {place} is none: give a local folder")
    return found


def exists(place: Path | str) -> bool:
    """True if there is anything at ``place``, looked up anew."""
    if isinstance(place, Path):
        return place.exists()
    file_system, path = url_to_fs(place)
    file_system.invalidate_cache()
    return bool(file_system.exists(path))


def copy_here(file_system: AbstractFileSystem, source: str, folder: Path) -> None:
    """Copy all files below ``source`` into ``folder``."""
    for file in file_system.find(source):
        target = folder / file.removeprefix(source).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        file_system.get_file(file, str(target))


def downloaded(url: str) -> Path:
    """The folder at ``url`` on this machine, in the cache folder of ``datasets``; it is copied when a file is new.

    Raises:
        FileNotFoundError: there is nothing at ``url``.
    """
    from datasets import config

    file_system, source = url_to_fs(url.rstrip("/"))
    file_system.invalidate_cache()
    files = file_system.find(source)
    if not files:
        raise FileNotFoundError(f"there is nothing at {url}")
    digest = hashlib.sha256(repr([(file, file_system.ukey(file)) for file in files]).encode()).hexdigest()
    folder = Path(config.HF_DATASETS_CACHE) / "craft_trainer" / digest[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            with appears_when_complete(folder) as partial:
                copy_here(file_system, source, partial)
    return folder
