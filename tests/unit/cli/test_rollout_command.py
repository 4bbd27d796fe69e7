"""``craft-trainer rollout``: what it does with its result."""

import json
from pathlib import Path

import pytest

from craft_trainer.cli import rollout
from craft_trainer.cli.main import main


def test_the_result_is_written_into_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail after all episodes, with their result lost."""
    monkeypatch.setattr(rollout, "on_stream", lambda arguments: {"rows": [{"task": arguments.tasks[0]}]})
    file = tmp_path / "new/folder/rollout.json"
    assert main(["rollout", "--policy", "org/policy", "--tasks", "push-v3", "--output", str(file)]) == 0
    assert json.loads(file.read_text())["rows"] == [{"task": "push-v3"}]
