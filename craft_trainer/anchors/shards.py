"""The folder in which an anchor cache grows: finished shards count, however often the work is interrupted."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import datasets
from fsspec.core import url_to_fs
from safetensors.torch import save as as_bytes
from torch import Tensor

from craft_trainer.anchors.cache import STATISTICS_FILE, feature_columns
from craft_trainer.anchors.card import card
from craft_trainer.anchors.columns import open_columns
from craft_trainer.anchors.lease import leased
from craft_trainer.anchors.provenance import PROVENANCE_FILE, Provenance, file_digest
from craft_trainer.anchors.statistics import BYTES_AT_ONCE, ConstantFeatureError, cache_statistics
from craft_trainer.files import locked
from craft_trainer.hub.readme import README
from craft_trainer.hub.saved_datasets import open_saved
from craft_trainer.hub.storage import copy_here

PLAN_FILE = "plan.json"
LOCK_FILE = "lock"
SAME_CALL = "delete that folder: the same call makes it again"
DONE = ".done"
logger = logging.getLogger(__name__)


class Shards:
    """A folder of finished shards; what is in it counts, however often the work was interrupted.

    It is beside the cache, at any place that fsspec knows. A shard is a folder, and finished when there is a file of
    its name that ends in ``.done``, with the checksums of its files: such places cannot rename a folder in one step.
    """

    def __init__(self, output: Path | str, num_rows: int, size: int) -> None:
        self.folder, self.size, self._num_rows = f"{output}.partial", size, num_rows
        self._output, self._is_local = output, isinstance(output, Path)
        self._files, self._root = url_to_fs(self.folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other builds of the same cache away; of the processes of one build the main one takes the lock.

        The lock ends with the process, however it ends, and goes with the folder. At a place that is not local it ends
        ``lease.SILENCE_S`` seconds later.

        Raises:
            RuntimeError: another build is at work.
        """
        refusal = f"another process is building {self.folder}: wait until it is done, or choose another folder"
        self._files.makedirs(self._root, exist_ok=True)
        file = self._path(LOCK_FILE)
        with locked(file, refusal) if self._is_local else leased(self._files, file, refusal):
            try:
                yield
            finally:
                if not self._contents():
                    self._remove()

    @contextmanager
    def kept_once_begun(self, *, alone: bool) -> Iterator[None]:
        """Leave the folder where it is when the work is interrupted inside, unless it cannot be gone on with."""
        try:
            yield
        except BaseException as error:
            if self.done() and not isinstance(error, ConstantFeatureError):
                error.add_note(
                    f"{self.done()} of {self._num_rows} anchors are kept in {self.folder}: the same call goes on"
                )
            elif alone:  # other processes may still write
                self._remove()
            raise

    def begin(self, provenance: Provenance, groups: Sequence[str], first_samples: Mapping[str, Any]) -> None:
        """Make the folder, or make sure that what is in it belongs to the same cache, of the same samples.

        A shard that is no longer as it was written is removed, and a warning names it.
        """
        more = {"shard_size": self.size, "versions": provenance.versions}
        more |= {"group_of_each": _digest({"groups": list(groups)}), "first_samples": _digest(first_samples)}
        plan = json.loads(json.dumps(provenance.plan() | more))
        if self.done() and self._files.exists(self._path(PLAN_FILE)):
            for key, value in self._plan().items():
                if value != plan.get(key):
                    raise ValueError(
                        f"{self.folder} holds part of a cache with {key} {json.dumps(value)}, but this one has "
                        f"{json.dumps(plan.get(key))}: delete that folder, or go on with what it was begun with"
                    )
            for number in sorted(self._finished()):
                if not self._is_whole(number):
                    logger.warning("%s is damaged: it is made again", self._path(_name(number)))
                    self._remove(_name(number) + DONE)
            return
        for name in self._contents():
            self._remove(name)
        self._files.pipe_file(self._path(PLAN_FILE), json.dumps(plan).encode())

    def require_begun(self) -> None:
        """Make sure, in another process than the main one, that both see the same folder; a RuntimeError otherwise."""
        if PLAN_FILE not in self._contents():
            raise RuntimeError(
                f"{self.folder}, which the main process made, is not to be seen here: give an output_dir on a file "
                "system that all machines share, or a place like s3://bucket/folder"
            )

    def done(self) -> int:
        """The number of rows in finished shards."""
        return sum(min(self.size, self._num_rows - number * self.size) for number in self._finished())

    def missing(self, rank: int, world: int) -> list[int]:
        """The shards that this process still has to make."""
        finished = self._finished()
        return [number for number in range(rank, self._number(), world) if number not in finished]

    def write(self, number: int, shard: datasets.Dataset) -> None:
        """Add a shard; it is there wholly or not at all."""
        self._remove(_name(number))
        shard.save_to_disk(f"{self.folder}/{_name(number)}")
        self._files.pipe_file(self._path(_name(number) + DONE), json.dumps(self._digests(number)).encode())

    def finish(self, provenance: Provenance) -> None:
        """Join the shards, measure and describe them, and move the whole to where the cache is to be.

        Of a place that is not local this happens in a temporary folder of this machine.

        Raises:
            ValueError: a shard cannot be read; the same call makes it again.
        """
        with TemporaryDirectory() if not self._is_local else nullcontext(self._root) as here:
            if not self._is_local:
                copy_here(self._files, self._root, Path(here))
            joined = Path(here) / "joined"
            shutil.rmtree(joined, ignore_errors=True)
            parts = [open_saved(Path(here) / _name(number), SAME_CALL) for number in range(self._number())]
            try:
                write_cache(datasets.concatenate_datasets(parts), joined, provenance)
            except ConstantFeatureError:
                self._remove()
                raise
            except OSError:
                shutil.rmtree(joined, ignore_errors=True)  # it may be what fills the disk
                raise
            if isinstance(self._output, Path):
                joined.rename(self._output)
            else:
                _upload(joined, self._output)
        self._remove()

    def _contents(self) -> list[str]:
        self._files.invalidate_cache()
        if not self._files.exists(self._root):
            return []
        names = [PurePosixPath(path).name for path in self._files.ls(self._root, detail=False)]
        return [name for name in names if name != LOCK_FILE]

    def _remove(self, name: str = "") -> None:
        """Remove what is called ``name``, if it is there; the whole folder without a name."""
        if self._files.exists(path := self._path(name).rstrip("/")):
            self._files.rm(path, recursive=True)

    def _plan(self) -> dict[str, Any]:
        place = self._path(PLAN_FILE)
        try:
            return dict(json.loads(self._files.cat_file(place)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{place} is damaged ({error}): delete that folder, and build the cache anew") from error

    def _is_whole(self, number: int) -> bool:
        try:
            noted = json.loads(self._files.cat_file(self._path(_name(number) + DONE)) or "null")
        except ValueError:
            return False
        return noted is None or noted == self._digests(number)  # earlier versions noted nothing

    def _digests(self, number: int) -> dict[str, str]:
        """SHA-256 of every file of a shard."""
        found = {}
        for place in self._files.find(self._path(_name(number))):
            with self._files.open(place, "rb") as file:
                found[PurePosixPath(place).name] = hashlib.file_digest(file, "sha256").hexdigest()
        return found

    def _finished(self) -> set[int]:
        names = set(self._contents())
        return {number for number in range(self._number()) if _name(number) + DONE in names}

    def _number(self) -> int:
        return -(-self._num_rows // self.size)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _name(number: int) -> str:
    return f"shard-{number:05d}"


def _upload(folder: Path, output: str) -> None:
    """Copy the cache in ``folder`` to ``output``, the provenance last: what has one is whole."""
    file_system, root = url_to_fs(output)
    file_system.makedirs(root, exist_ok=True)
    for file in sorted(folder.iterdir(), key=lambda file: (file.name == PROVENANCE_FILE, file.name)):
        file_system.put_file(str(file), f"{root}/{file.name}")


def write_cache(anchors: datasets.Dataset, folder: Path, provenance: Provenance) -> None:
    """Write ``anchors`` to ``folder`` as a whole cache: measured, with checksums, its provenance and its card.

    Raises:
        ConstantFeatureError: a feature is the same for all anchors.
    """
    statistics = cache_statistics(open_columns(anchors), len(anchors), feature_columns(anchors))
    save(anchors, folder)
    (folder / STATISTICS_FILE).write_bytes(as_bytes(statistics))  # save_file keeps others from reading it
    provenance.files.update({file.name: file_digest(file) for file in sorted(folder.iterdir())})
    provenance.sizes.update({name: anchors.data.table.column(name).nbytes for name in anchors.column_names})
    provenance.write(folder)
    (folder / README).write_text(card(provenance, statistics))


def save(anchors: datasets.Dataset, folder: Path | str) -> None:
    """Write ``anchors`` to ``folder`` in pieces of ``BYTES_AT_ONCE``; datasets would copy 1,000 rows into memory."""
    usual = datasets.config.DEFAULT_MAX_BATCH_SIZE
    bytes_per_row = anchors.data.nbytes // max(1, len(anchors)) + 1
    datasets.config.DEFAULT_MAX_BATCH_SIZE = min(usual, max(1, BYTES_AT_ONCE // bytes_per_row))
    try:
        anchors.save_to_disk(str(folder))
    finally:
        datasets.config.DEFAULT_MAX_BATCH_SIZE = usual


def _digest(samples: Mapping[str, Any]) -> str:
    """SHA-256 of a batch."""
    digest = hashlib.sha256()
    for key, value in sorted(samples.items()):
        digest.update(key.encode())
        digest.update(value.cpu().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()
