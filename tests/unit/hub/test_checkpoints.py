"""Places to resume from that are not there."""

import pytest

from craft_trainer.files import write_atomically
from craft_trainer.hub.resolve_path import resolve_checkpoint


def test_a_checkpoint_that_a_local_run_does_not_have(tmp_path, monkeypatch):
    """`outputs/run/checkpoint-77` looks like a name of the Hub too. It was a bare assertion."""
    (tmp_path / "outputs/run/checkpoint-4").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"valid checkpoint at outputs/run/.*: outputs/run has checkpoint-4"):
        resolve_checkpoint("outputs/run/checkpoint-77")


def test_a_file_in_a_new_folder(tmp_path):
    write_atomically(tmp_path / "new/report.html", b"page")
    assert [path.read_bytes() for path in (tmp_path / "new").iterdir()] == [b"page"]


def test_a_folder_that_is_not_there(tmp_path):
    """Scripts know the first words from Trainer."""
    with pytest.raises(
        FileNotFoundError, match=r"^Can't find a valid checkpoint at .*checkpoint-8: there is no file or"
    ):
        resolve_checkpoint(tmp_path / "checkpoint-8")
