"""The folder in which an anchor cache grows: finished shards count, however often the work is interrupted."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor

from craft_trainer.anchors.cache import STATISTICS_FILE, feature_columns
from craft_trainer.anchors.card import CARD_FILE, card
from craft_trainer.anchors.columns import open_columns
from craft_trainer.anchors.provenance import Provenance, file_digest
from craft_trainer.anchors.statistics import ConstantFeatureError, cache_statistics

PLAN_FILE = "plan.json"
LOCK_FILE = "lock"


class Shards:
    """A folder of finished shards; what is in it counts, however often the work was interrupted."""

    def __init__(self, folder: Path, num_rows: int, size: int) -> None:
        self.folder, self.size, self._num_rows = folder, size, num_rows

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other builds of the same cache away; of the processes of one build the main one takes the lock.

        The lock ends with the process, however it ends, and goes with the folder.

        Raises:
            RuntimeError: another build is at work.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / LOCK_FILE)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise RuntimeError(
                f"another process is building {self.folder}: wait until it is done, or choose another folder"
            ) from error
        try:
            yield
        finally:
            if self.folder.exists() and not self._contents():
                shutil.rmtree(self.folder)
            lock.release()

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
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def begin(self, provenance: Provenance, groups: Sequence[str], first_samples: Mapping[str, Any]) -> None:
        """Make the folder, or make sure that what is in it belongs to the same cache, of the same samples."""
        more = {"shard_size": self.size, "versions": provenance.versions}
        more |= {"group_of_each": _digest({"groups": list(groups)}), "first_samples": _digest(first_samples)}
        plan = json.loads(json.dumps(provenance.plan() | more))
        file = self.folder / PLAN_FILE
        if file.is_file() and self.done():
            for key, value in json.loads(file.read_text()).items():
                if value != plan.get(key):
                    raise ValueError(
                        f"{self.folder} holds part of a cache with {key} {json.dumps(value)}, but this one has "
                        f"{json.dumps(plan.get(key))}: delete that folder, or go on with what it was begun with"
                    )
            return
        for path in self._contents():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        file.write_text(json.dumps(plan))

    def done(self) -> int:
        """The number of rows in finished shards."""
        finished = [number for number in range(self._number()) if self._path(number).exists()]
        return sum(min(self.size, self._num_rows - number * self.size) for number in finished)

    def missing(self, rank: int, world: int) -> list[int]:
        """The shards that this process still has to make."""
        return [number for number in range(rank, self._number(), world) if not self._path(number).exists()]

    def write(self, number: int, shard: datasets.Dataset) -> None:
        """Add a shard; it is there wholly or not at all."""
        partial = self._path(number).with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shard.save_to_disk(str(partial))
        partial.rename(self._path(number))

    def finish(self, output_dir: Path, provenance: Provenance) -> None:
        """Join the shards, measure and describe them, and move the whole to ``output_dir``."""
        joined = self.folder / "joined"
        shutil.rmtree(joined, ignore_errors=True)
        parts = [datasets.load_from_disk(str(self._path(number))) for number in range(self._number())]
        anchors = datasets.concatenate_datasets(parts)
        try:
            write_cache(anchors, joined, provenance)
        except ConstantFeatureError:
            shutil.rmtree(self.folder)
            raise
        joined.rename(output_dir)
        shutil.rmtree(self.folder)

    def _contents(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.name != LOCK_FILE]

    def _number(self) -> int:
        return -(-self._num_rows // self.size)

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}"


def write_cache(anchors: datasets.Dataset, folder: Path, provenance: Provenance) -> None:
    """Write ``anchors`` to ``folder`` as a whole cache: measured, with checksums, its provenance and its card.

    Raises:
        ConstantFeatureError: a feature is the same for all anchors.
    """
    statistics = cache_statistics(open_columns(anchors), len(anchors), feature_columns(anchors))
    anchors.save_to_disk(str(folder))
    save_file(statistics, folder / STATISTICS_FILE)
    provenance.files.update({file.name: file_digest(file) for file in sorted(folder.iterdir())})
    provenance.sizes.update({name: anchors.data.table.column(name).nbytes for name in anchors.column_names})
    provenance.write(folder)
    (folder / CARD_FILE).write_text(card(provenance, statistics))


def _digest(samples: Mapping[str, Any]) -> str:
    """SHA-256 of a batch."""
    digest = hashlib.sha256()
    for key, value in sorted(samples.items()):
        digest.update(key.encode())
        digest.update(value.cpu().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()
