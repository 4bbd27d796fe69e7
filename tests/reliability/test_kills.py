"""SIGKILL at random moments: what is left is whole, and the same command goes on to the same result."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHORT = {  # `cache build`, `mcq` and `suite run` are killed by tests of their own
    "by script": ("kills.py", "--kills 2 --by script"),
    "two processes": ("kills.py", "--kills 1 --by script --processes 2"),
    "report": ("kills_of_commands.py", "--kills 1 --only report"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_few_kills(name: str, tmp_path: Path) -> None:
    """The short form of what docs/reliability.md counts."""
    script, options = SHORT[name]
    command = [sys.executable, str(Path(__file__).with_name(script)), str(tmp_path), *options.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "; nothing lost" in done.stdout
