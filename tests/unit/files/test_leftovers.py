"""What a process that was killed while it wrote has left: the next one removes it, and nobody takes it for a result."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from craft_trainer import files
from craft_trainer.files import FORGOTTEN_S, appears_when_complete, temporary, write_atomically
from craft_trainer.hub import storage
from craft_trainer.hub.run_folder import run_files


def killed(work, *arguments):
    """Run ``work`` in a process that kills itself in it."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_die(path):
    os.fsync = die  # the draft is there, the file is not
    write_atomically(path, "half")


def names(folder: Path):
    return sorted(path.name for path in folder.iterdir())


def test_a_draft_of_a_killed_process_goes_with_the_next_write(tmp_path):
    """Seen to fail: drafts stayed for ever."""
    path = tmp_path / "results.json"
    for _ in range(3):
        killed(write_and_die, path)
    assert len(names(tmp_path)) == 1  # each removes that of the one before
    assert not path.exists()
    assert run_files(tmp_path) == {}  # and no push takes it
    write_atomically(path, "whole")
    assert names(tmp_path) == ["results.json"]
    assert path.read_text() == "whole"


def test_the_shards_of_an_unfinished_cache_are_no_draft_of_another_command(tmp_path):
    """Seen to fail: `cache join` and a failed `cache pull` into the same folder removed them."""
    shard = tmp_path / "cache.partial" / "shard-00000"
    shard.mkdir(parents=True)
    with pytest.raises(KeyError), appears_when_complete(tmp_path / "cache"):
        raise KeyError
    assert shard.is_dir()
    with appears_when_complete(tmp_path / "cache") as folder:
        folder.mkdir()
    assert names(tmp_path) == ["cache", "cache.partial"]


@pytest.mark.parametrize("name", ["results.json", "a.b", "[x]*?.json", "results.json.1-1"])
def test_drafts_of_living_processes_of_other_machines_and_of_other_files_stay(tmp_path, name):
    mine = f"{files._machine()}-{os.getppid()}"
    kept = [f".{name}.{mine}.tmp", f".{name}.0000beef-1.tmp", f".other.{name}.{mine}.tmp", f".{name}.of a user.tmp"]
    for one in kept:
        (tmp_path / one).touch()
    write_atomically(tmp_path / name, "whole")
    assert names(tmp_path) == sorted([*kept, name])


def test_a_draft_of_another_machine_goes_when_it_is_a_day_old(tmp_path):
    draft = tmp_path / ".results.json.0000beef-1.tmp"
    draft.touch()
    before = time.time() - FORGOTTEN_S - 1
    os.utime(draft, (before, before))
    write_atomically(tmp_path / "results.json", "whole")
    assert names(tmp_path) == ["results.json"]


def fill_and_die(enter, folder):
    with enter(folder) as place:
        place.mkdir(exist_ok=True)
        (place / "half").touch()
        die()


@pytest.mark.parametrize("enter", [appears_when_complete, lambda folder: temporary(folder, "copies")])
def test_a_folder_of_a_killed_process_goes_with_the_next(tmp_path, enter):
    """Copies of joined caches lay in folders of random names, which stayed for ever."""
    killed(fill_and_die, enter, tmp_path / "made")
    assert [name for name in names(tmp_path) if name.endswith(".partial")]
    with enter(tmp_path / "made") as place:
        place.mkdir(exist_ok=True)
        assert names(place) == []
    assert names(tmp_path) in ([], ["made"])


def test_what_a_killed_download_has_left_goes_with_the_next(tmp_path, monkeypatch):
    """Seen to fail: it stayed under a random name, as large as it was."""
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket/model.safetensors").write_text("weights")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/bucket"

    def download_and_die():
        LocalFileSystem.get_file = lambda self, source, target: (Path(target).write_text("we"), die())
        storage.downloaded(url)

    killed(download_and_die)
    found = storage.downloaded(url)
    assert (found / "model.safetensors").read_text() == "weights"
    assert [name for name in names(found.parent) if not name.endswith(".lock")] == [found.name]


def test_two_processes_do_not_write_one_folder(tmp_path):
    """Seen to fail: the second removed what the first had written, and the result was half of each."""
    with appears_when_complete(tmp_path / "data") as first:
        first.mkdir()
        (first / "episode").write_text("mine")
        with (
            pytest.raises(RuntimeError, match=r"another process is writing .*data: wait until it is done"),
            appears_when_complete(tmp_path / "data"),
        ):
            pytest.fail("both write")
    assert (tmp_path / "data/episode").read_text() == "mine"
    assert names(tmp_path) == ["data"]
