"""``craft-trainer rollout``: what it does with its result."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from craft_trainer.cli import rollout
from craft_trainer.cli.main import main
from craft_trainer.cli.own_episodes import rollouts_source
from craft_trainer.cli.sources import SourceArguments


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


class Sampling:
    """A policy that draws its actions, and remembers them by task."""

    def __init__(self) -> None:
        self.drawn: dict[str, list[torch.Tensor]] = {}

    def reset(self) -> None:
        pass

    def image_keys(self) -> list[str]:
        return []

    def acts_blindly(self) -> bool:
        return True

    def select_action(self, batch: dict[str, Any]) -> torch.Tensor:
        drawn = torch.randn(len(batch["observation.state"]), 4)
        self.drawn.setdefault(batch["task"][0], []).append(drawn)
        return drawn


@pytest.fixture
def sampling(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sampling]:
    """In place of a checkpoint; every library's generator is left as it was."""
    from craft_trainer.models.lerobot import PolicyModel

    policy, state = Sampling(), np.random.get_state()
    monkeypatch.setattr(PolicyModel, "from_pretrained", lambda *_, **__: policy)
    with torch.random.fork_rng(devices=[]):
        yield policy
    np.random.set_state(state)


def test_a_policy_of_oblong_images_is_told_what_its_command_can_do(tmp_path: Path) -> None:
    """Seen to fail: `cache build` and `film` advised --image_size, which they have not."""
    wide: Any = SimpleNamespace(
        image_keys=lambda: ["observation.images.corner2"], image_shape=lambda _: (48, 64), fingerprint=dict
    )
    with pytest.raises(ValueError, match=r"of 48 × 64 pixels, .* squares: say of which size by --image_size"):
        rollout.image_size_of(wide)
    built = SourceArguments(source=["rollouts"], tasks=["push-v3"])
    built.output_dir, built.processes = str(tmp_path / "cache"), SimpleNamespace(once=lambda work: work())  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="by `record --policy … --image_size N`, and build from them by --source dat"):
        rollouts_source(built, wide, 0, 10)
    assert not list(tmp_path.iterdir())


def test_what_a_policy_samples_is_of_the_seed_and_not_of_the_other_tasks(sampling: Sampling) -> None:
    """Seen to fail: no seed was set, so no success rate of a diffusion policy could be had again."""
    drawn = {}
    for tasks, seed in (("push-v3,reach-v3", "5"), ("reach-v3", "5"), ("reach-v3", "6")):
        given = ["--policy", "org/policy", "--tasks", tasks, "--episodes", "2", "--max_steps", "3", "--seed", seed]
        sampling.drawn = {}
        assert main(["rollout", *given]) == 0
        drawn[tasks, seed] = torch.stack(sampling.drawn["Reach a goal position"])
    both, alone, other = drawn.values()
    assert torch.equal(both, alone)
    assert not torch.equal(alone, other)


def test_a_film_of_a_policy_that_samples_is_the_same_again(
    sampling: Sampling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail, and the policies of one film drew what was left by those before."""
    from craft_trainer.simulation import film

    played: list[torch.Tensor] = []
    monkeypatch.setattr(film, "play", lambda name, *_, **__: played.append(torch.randn(4)) or film.Take(name, [], None))
    monkeypatch.setattr(film, "side_by_side", lambda _: [])
    monkeypatch.setattr(film, "save_film", lambda *_: None)
    assert main(["film", "--policies", "a,b", "--task", "push-v3", "--output", str(tmp_path / "film.gif")]) == 0
    assert torch.equal(*played)
