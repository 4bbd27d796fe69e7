"""One build at a time where files cannot be locked: what a build does that could not say that it is there."""

import time

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from craft_trainer.anchors import lease

FILE = "/leased/lock"


@pytest.fixture
def files(monkeypatch):
    for name, seconds in (("SETTLE_S", 0.02), ("BEAT_S", 0.02), ("SILENCE_S", 0.2)):
        monkeypatch.setattr(lease, name, seconds)
    file_system = MemoryFileSystem()
    yield file_system
    if file_system.exists(FILE):
        file_system.rm_file(FILE)


def test_a_build_whose_folder_another_took_is_refused_and_leaves_the_others_lease(files):
    """Seen to fail when the lease was looked at in the beginning alone: both builds ended well."""

    def build():
        with lease.leased(files, FILE, "another is at work"):
            files.pipe_file(FILE, b"other 0")
            time.sleep(0.2)

    with pytest.raises(RuntimeError, match="at work"):
        build()
    assert files.cat_file(FILE) == b"other 0"


def test_a_write_that_fails_once_is_tried_again(files, monkeypatch, caplog):
    """Seen to fail when the first error ended the thread that says so again."""
    write, numbers = files.pipe_file, []

    def failing(path, value, **options):
        numbers.append(int(value.split()[1]))
        if numbers[-1] == 1:
            raise OSError("no connection")
        write(path, value, **options)

    monkeypatch.setattr(files, "pipe_file", failing)
    with lease.leased(files, FILE, "another is at work"):
        deadline = time.monotonic() + 30
        while max(numbers) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert max(numbers) >= 3
    assert "could not write /leased/lock" in caplog.text
    assert not files.exists(FILE)
