"""``craft-trainer rollout``: what it does with its result."""

import json
from pathlib import Path

import pytest

from craft_trainer.cli import rollout
from craft_trainer.cli.main import main


@pytest.mark.parametrize("max_steps", ["0", "501"])
@pytest.mark.parametrize("command", ["rollout --policy org/policy --tasks", "film --policies org/policy --task"])
def test_more_actions_than_an_episode_has_are_refused(
    command: str, max_steps: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the policy is loaded, which is not there."""
    given = ["push-v3", "--max_steps", max_steps, "--output", str(tmp_path / "out.webp")]
    assert main([*command.split(), *given]) == 1
    assert f"max_steps is {max_steps}: Meta-World episodes have 1 to 500 actions" in capsys.readouterr().err


def test_the_result_is_written_into_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail after all episodes, with their result lost."""
    monkeypatch.setattr(rollout, "on_stream", lambda arguments: {"rows": [{"task": arguments.tasks[0]}]})
    file = tmp_path / "new/folder/rollout.json"
    assert main(["rollout", "--policy", "org/policy", "--tasks", "push-v3", "--output", str(file)]) == 0
    assert json.loads(file.read_text())["rows"] == [{"task": "push-v3"}]


def test_the_result_says_what_an_episode_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail without env_options: two results of other episodes could not be told apart."""
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.simulation import lerobot_envs

    monkeypatch.setattr(PolicyModel, "from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(lerobot_envs, "roll_out", lambda *_, **__: [[{"task": "PushT-v0", "success": True}]])
    file, options = tmp_path / "rollout.json", {"episode_length": 100}
    given = ["--env", "pusht", "--env_options", json.dumps(options), "--seed", "3", "--output", str(file)]
    assert main(["rollout", "--policy", "org/policy", *given]) == 0
    content = json.loads(file.read_text())
    assert (content["env"], content["env_options"], content["seed"]) == ("pusht", options, 3)
