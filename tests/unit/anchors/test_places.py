"""Caches at places that fsspec knows: built there, by several processes as well, and read from there."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from seer import NUM_ROWS, Seer, build, contents, samples
from together import build_together

from craft_trainer.anchors import lease
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.hub.resolve_path import resolve_path
from craft_trainer.hub.storage import local_folder


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A URL in memory; what is read from it is copied to a folder of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "copies"))
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "SILENCE_S", 1.0)
    yield "memory://bucket/caches/cache"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def there() -> dict[str, bytes]:
    return {path.rpartition("/")[2]: file.getvalue() for path, file in MemoryFileSystem.store.items()}


def test_a_cache_elsewhere_has_the_bytes_of_a_local_one(whole: AnchorCache, memory: str) -> None:
    """And nothing is left beside it. Seen to fail when the URL was taken for a folder called ``memory:``."""
    cache = build(memory)
    assert there() == contents(whole.folder)
    stored = {path.rpartition("/")[0] for path in MemoryFileSystem.store}  # of the whole process
    assert {path for path in stored if path.startswith("/bucket/")} == {"/bucket/caches/cache"}
    assert len(cache) == NUM_ROWS
    with pytest.raises(FileExistsError, match=f"{memory} exists: delete it"):
        build(memory)


def test_it_is_read_from_there(whole: AnchorCache, memory: str) -> None:
    """Copied once; again when it is another."""
    build(memory)
    first = resolve_path(memory, "dataset")
    assert contents(first) == contents(whole.folder)
    assert resolve_path(memory, "dataset") == first
    fsspec.filesystem("memory").rm("/bucket/caches/cache", recursive=True)
    with pytest.raises(FileNotFoundError, match=f"there is nothing at {memory}"):
        resolve_path(memory, "dataset")
    build(memory, dtype="float16")
    assert AnchorCache(resolve_path(memory, "dataset")).provenance.storage["dtype"] == "float16"


def test_a_build_that_was_interrupted_there_goes_on(whole: AnchorCache, memory: str) -> None:
    def failing(rows: list[int]) -> dict[str, Any]:
        if rows[0] > 60:
            raise RuntimeError("out of memory")
        return samples(rows)

    with pytest.raises(RuntimeError, match="out of memory") as error:
        build(memory, load=failing)
    assert error.value.__notes__ == [f"32 of 100 anchors are kept in {memory}.partial: the same call goes on"]
    teacher = Seer()
    build(memory, teacher)
    assert teacher.passes == 50 - 16
    assert there() == contents(whole.folder)


def test_half_a_copy_is_no_cache(whole: AnchorCache, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it is copied: the provenance is last, and the same call goes on."""
    copied: list[str] = []
    put = MemoryFileSystem.put_file

    def killed(self: MemoryFileSystem, source: str, target: str, **options: Any) -> None:
        copied.append(target)
        if len(copied) > 3:
            raise KeyboardInterrupt
        put(self, source, target, **options)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryFileSystem, "put_file", killed)
        with pytest.raises(KeyboardInterrupt):
            build(memory)
    with pytest.raises(FileNotFoundError, match="not a finished anchor cache"):
        AnchorCache(resolve_path(memory, "dataset"))
    teacher = Seer()
    build(memory, teacher)
    assert teacher.passes == 0
    assert there() == contents(whole.folder)


def test_two_builds_there_do_not_meet(whole: AnchorCache, memory: str) -> None:
    """Seen to fail without a lease: both wrote into one folder."""
    refused: list[str] = []

    def load(rows: list[int]) -> dict[str, Any]:
        if not refused:
            with pytest.raises(RuntimeError) as error:
                build(memory)
            refused.append(str(error.value))
        return samples(rows)

    build(memory, load=load)
    assert refused == [f"another process is building {memory}.partial: wait until it is done, or choose another folder"]
    assert there() == contents(whole.folder)


def test_the_lease_of_a_build_that_was_killed_runs_out(whole: AnchorCache, memory: str) -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/caches/cache.partial/lock", b"of a process that was killed 7")
    begun = time.monotonic()
    build(memory)
    assert time.monotonic() - begun > 1.0
    assert there() == contents(whole.folder)


def test_three_processes_without_a_common_disk(whole: AnchorCache, tmp_path: Path) -> None:
    """One of them is killed, and all together go on."""
    place, folder = f"elsewhere://{tmp_path}/cache", tmp_path / "cache"
    told = build_together(place, tmp_path / "told", end="kill", silence=3.0)
    assert "process 1 of 3 (counted from 0) has not been heard of" in told[0]["message"]
    assert not folder.exists()
    again = build_together(place, tmp_path / "again", silence=3.0)
    assert [one["message"] for one in again] == [""] * 3
    assert again[1]["passes"] == 8
    assert contents(folder) == contents(whole.folder)


def test_a_file_url_is_a_local_folder(whole: AnchorCache, tmp_path: Path) -> None:
    build(f"file://{tmp_path}/cache")
    assert contents(tmp_path / "cache") == contents(whole.folder)
    assert resolve_path(f"file://{tmp_path}/cache", "dataset") == tmp_path / "cache"
    assert local_folder(f"file://{tmp_path}/cache", "cache pull") == tmp_path / "cache"


def test_what_writes_to_local_folders_only_says_so() -> None:
    with pytest.raises(ValueError, match="cache pull writes to folders of this machine, and memory://cache is none"):
        local_folder("memory://cache", "cache pull")
