"""One run at a time in a folder: another process is refused from the first moment, and a killed one leaves no lock."""

import os
import signal
import subprocess
import sys

import pytest

from craft_trainer.hub.run_folder import LOCK, in_use

HOLDER = """
import os, sys, time
from pathlib import Path
from craft_trainer.hub.run_folder import in_use
with in_use(Path(sys.argv[1])):
    if "fork" not in sys.argv:
        print("held", flush=True)
    elif os.fork() == 0:
        print("held", flush=True)  # by the child, which has let go of the lock by now
        time.sleep(60)  # as a worker of a DataLoader, which outlives its parent by a few seconds
        os._exit(0)
    sys.stdin.read()
"""


def hold(folder, *words):
    """Another process that has ``folder``, until its standard input is closed."""
    command = [sys.executable, "-c", HOLDER, str(folder), *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def free(folder):
    with in_use(folder):
        return True


@pytest.fixture
def held(tmp_path):
    process = hold(tmp_path / "run")
    yield process, tmp_path / "run"
    process.communicate()


def test_the_holder_is_named_and_the_way_out(held):
    """Seen to fail without the lock, and with nothing written into it."""
    process, folder = held
    for _ in range(2):  # who is refused changes nothing
        with pytest.raises(RuntimeError, match=rf"run is in use by .*process {process.pid} on .*another output folder"):
            free(folder)


def test_a_run_that_has_ended_leaves_nothing(held):
    """Not the folder either, which it had made and put nothing into. Seen to fail with the file left there."""
    process, folder = held
    process.communicate()
    assert not folder.exists()
    folder.mkdir()
    assert free(folder)
    assert list(folder.iterdir()) == []  # a folder that was there stays


@pytest.mark.parametrize("words", [(), pytest.param(("fork",), id="with a worker that outlives it")])
def test_a_run_that_was_killed_leaves_no_lock(tmp_path, words):
    """Seen to fail with a lock that is a file."""
    process = hold(tmp_path, *words)
    process.kill()
    process.communicate() if not words else process.wait()
    try:
        assert (tmp_path / LOCK).is_file()
        assert free(tmp_path)
    finally:
        if words:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_a_command_and_its_trainer_are_one_run(tmp_path, monkeypatch):
    """By whatever path. Seen to fail with a second lock, and with a lock that the inner one takes away."""
    monkeypatch.chdir(tmp_path)
    with in_use(tmp_path / "run"):
        assert free(tmp_path / "run/../run")
        assert (tmp_path / "run" / LOCK).is_file()
    assert not (tmp_path / "run" / LOCK).exists()


def test_an_error_ends_it(tmp_path):
    with pytest.raises(KeyError), in_use(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
