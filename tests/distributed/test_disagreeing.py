"""Two processes that were told different things do not begin: they would hang, or train by both."""

import re
from pathlib import Path

import pytest
from disagreeing import CASES
from launch import run_two_processes
from toy import toy_anchors

from craft_trainer.hub.manifest import require_whole

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have left."""
    made = tmp_path_factory.mktemp("disagreeing")
    toy_anchors(made / "anchors")
    assert run_two_processes(Path(__file__).with_name("disagreeing.py"), made, timeout_s=600) == ""
    return made


@pytest.mark.parametrize("rank", [0, 1])
def test_what_they_disagree_on_is_named_by_both(folder: Path, rank: int) -> None:
    """And alike they begin."""
    alike, *said = (folder / f"said.{rank}").read_text().split("\n")
    assert alike == ""
    for name, text in zip(CASES, said, strict=True):
        assert re.match(rf"the processes of this training disagree on {name}: .+, .+, by their number", text), text


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_them_ends_both_after_the_same_step(folder: Path, rank: int) -> None:
    """Their checkpoint is whole, and has the random states of both."""
    assert (folder / f"status.{rank}").read_text() == "143 at step 3"
    (checkpoint,) = (folder / "ended").glob("checkpoint-*")
    require_whole(checkpoint)
    assert (checkpoint / f"rng_state_{rank}.pth").is_file()
