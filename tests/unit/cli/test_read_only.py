"""An ordinary user and a folder that is not theirs: it is named at once, not after the work."""

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from craft_trainer.cli.main import main, understood

NOBODY = 65534
MODEL, DATA = ["--model", "org/model"], ["--dataset", "org/data"]
COMMANDS = {
    "train": ["train", *MODEL, *DATA, "--output_dir"],
    "cache build": ["cache", "build", "--teacher", "org/model", *DATA, "--output_dir"],
    "cache join": ["cache", "join", "--caches", "org/a", "org/b", "--anchors", "5", "--output_dir"],
    "cache pull": ["cache", "pull", "--repo", "org/a", "--output_dir"],
    "merge": ["merge", "--teacher", "org/a", "--tuned", "org/b", "--anchors", "org/c", "--output_dir"],
    "record": ["record", "--tasks", "push-v3", "--output_dir"],
    "rollout": ["rollout", "--policy", "org/a", "--tasks", "push-v3", "--output"],
    "mcq": ["mcq", *MODEL, "--data", "org/questions", "--output"],
    "demo": ["demo", "--output"],
    "suite run": ["suite", "run", "metaworld-2", "--output"],
    "bench step": ["bench", "step", "--json"],
}


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A folder of root's that everybody may read."""
    folder = Path(tempfile.mkdtemp())  # in no folder that only root may enter
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(words: list[str], answer: Any) -> None:
    """Run a command without the rights of root, in a process that may end."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    said = StringIO()
    with redirect_stderr(said):
        status = main(words)
    answer.send((status, said.getvalue()))


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize("below", ["", "new/below/out.json"], ids=["the folder", "below it"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_not_theirs_is_named_before_the_work(command: str, below: str, theirs: Path) -> None:
    """Seen to fail: libraries, models or data were loaded first, and what failed then named a draft or nothing."""
    place = theirs / (below if COMMANDS[command][-1] == "--output_dir" else below or "out.json")
    words = [*COMMANDS[command], str(place)]
    understood(words[0], words[1:], checks_places=False)  # what it imports may be root's
    import craft_trainer.cli.places  # noqa: F401

    ours, answer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=as_nobody, args=(words, answer))
    process.start()
    answer.close()
    status, said = ours.recv()
    process.join()
    assert (status, f"you may not write into the folder {theirs}. Choose" in said) == (1, True), said
    assert list(theirs.iterdir()) == []
