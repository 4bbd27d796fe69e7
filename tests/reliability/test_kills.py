"""SIGKILL inside of a save, at random moments: the checkpoint before stays, and the run goes on to the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("way", ["script"])
def test_a_few_kills(way: str, tmp_path: Path) -> None:
    """The short form of what docs/reliability.md counts."""
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), str(tmp_path), "--kills", "2", "--by", way]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"by {way}: 2 saves cut" in done.stdout
