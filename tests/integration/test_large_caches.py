"""A training run reads a cache that is larger than the memory that it may have to itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from large_cache import NUM_ANCHORS, build

MORE = 128 * 2**20


@pytest.mark.slow
def test_a_run_reads_a_cache_larger_than_its_memory(tmp_path):
    """By RLIMIT_DATA, which memory-mapped files are no part of. Seen to fail when all rows were gathered at once."""
    build(tmp_path / "cache")
    assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) > 2 * MORE
    script = Path(__file__).with_name("large_cache.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path), str(MORE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) == NUM_ANCHORS
