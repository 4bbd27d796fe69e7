"""A reader that has enough, as ``head`` does, ends a command quietly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import craft_trainer
from craft_trainer.cli.main import COMMANDS, main

PACKAGE = Path(craft_trainer.__file__).parents[1]
DRY = ["suite", "run", "metaworld-10", "--output", "outputs/of a test", "--dry_run"]


@pytest.mark.parametrize("words", [DRY, ["train", "--help", "all"], ["--version"]], ids=" ".join)
def test_a_closed_pipe_is_no_error(words: list[str], tmp_path: Path) -> None:
    """Seen to fail: `[Errno 32] Broken pipe (BrokenPipeError; set …)`, or `Exception ignored in … stdout`, which is 120
    for the shell."""
    reading, writing = os.pipe()
    os.close(reading)
    command, environment = [sys.executable, "-m", "craft_trainer", *words], os.environ | {"PYTHONPATH": str(PACKAGE)}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, env=environment, check=False)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode in (0, 141)  # argparse ignores that its help was not read


def test_a_pipe_of_something_else_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("craft_trainer.cli.main.run", fail)
    assert main([next(iter(COMMANDS))]) == 1
    assert "Broken pipe" in capsys.readouterr().err
