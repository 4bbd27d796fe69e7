"""A policy's own episodes as a dataset: its actions, what it reads, and what becomes of failed episodes."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from numpy.typing import NDArray

from craft_trainer.cli.main import main
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.simulation import acting
from craft_trainer.simulation.acting import attempts_at, observed, record_policy
from craft_trainer.simulation.recording import wanted

TASK = "button-press-topdown-v3"
STEPS = 5


class Counting:
    """Environment and policy in one: an episode moves by 1 in every step, and succeeds when it reaches its goal."""

    description = "count to the goal"

    def __len__(self) -> int:
        return 2

    def reset(self, goals: list[float] | None = None) -> dict[str, NDArray[np.float32]]:
        if goals is not None:
            self.goals, self.positions = np.array(goals), np.zeros(len(goals))
        return {"observation.state": self.positions[:, None].astype(np.float32)}

    def select_action(self, batch: dict[str, Any]) -> torch.Tensor:
        seen: torch.Tensor = batch["observation.state"]
        return seen + 10

    def acts_blindly(self) -> bool:
        return True

    def step(self, actions: NDArray[Any], *, look: bool) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
        assert look  # a recording holds every picture
        self.positions = self.positions + 1
        return self.reset(), self.positions == self.goals


def test_frames_are_what_was_seen_and_done_until_the_goal() -> None:
    """Seen to fail with the frames after a success kept: a block goes on until its slowest episode is done."""
    both: Any = Counting()
    goals: Any = [1.0, 3.0, 9.0]
    attempts: Any = list(attempts_at(both, both, goals, read=["observation.state"], max_steps=4))
    assert [solved for _, solved in attempts] == [True, True, False]
    assert [[frame["observation.state"][0] for frame in frames] for frames, _ in attempts] == [
        [0],
        [0, 1, 2],
        [0, 1, 2, 3],
    ]
    assert all(frame["action"][0] == frame["observation.state"][0] + 10 for frames, _ in attempts for frame in frames)
    assert {frame["task"] for frames, _ in attempts for frame in frames} == {"count to the goal"}


@pytest.mark.parametrize(("failed", "kept"), [(False, [1, 3]), (True, [0, 1])])
def test_failed_episodes_are_dropped_or_kept(failed: bool, kept: list[int]) -> None:
    attempts: Any = zip([[0], [1], [2], [3], [4]], [False, True, False, True, True], strict=True)
    found: list[Any] = list(wanted(attempts, 2, failed=failed, advice=""))
    assert found == [[number] for number in kept]


@pytest.fixture
def seeded() -> Iterator[None]:
    """Recording seeds every library's generator; tests leave them as they found them."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    np.random.set_state(state)


@pytest.mark.usefixtures("seeded")
def test_a_recording_holds_the_policys_own_actions(tiny_policy: Callable[..., PolicyModel], tmp_path: Path) -> None:
    policy = tiny_policy(min_std=0.01).eval()
    settings: dict[str, Any] = {"num_episodes": 2, "seed": 0, "num_envs": 2, "max_steps": STEPS}
    dataset = record_policy(policy, [TASK], tmp_path / "acted", failed=True, **settings)
    assert (dataset.num_episodes, dataset.num_frames) == (2, 2 * STEPS)
    again = LeRobotDataset("local/acted", root=tmp_path / "acted", video_backend="pyav")
    for row in (0, STEPS):
        policy.reset()
        frame = again[row]
        seen = {name: frame[name][None] for name in observed(policy, list(frame), "it")}
        with torch.inference_mode():
            chosen = policy.select_action({**seen, "task": [frame["task"]]})[0]
        torch.testing.assert_close(frame["action"], chosen, atol=1e-4, rtol=1e-4)
    with pytest.raises(RuntimeError, match=rf"only 0 of 8 attempts.*{TASK}.*--failed keep"):
        record_policy(policy, [TASK], tmp_path / "none", failed=False, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["acted"]


@pytest.mark.usefixtures("seeded")
def test_a_task_that_fails_names_those_that_did_not_and_leaves_nothing(
    tiny_policy: Callable[..., PolicyModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail: the other task was not named, and LeRobot wrote `meta` anew when the dataset was collected."""
    own = acting.attempts_at

    def first_succeeds(policy: Any, envs: Any, goals: Any, **options: Any) -> Iterator[Any]:
        for frames, _ in own(policy, envs, goals, **options):
            yield frames, envs.task == TASK

    monkeypatch.setattr(acting, "attempts_at", first_succeeds)
    settings: dict[str, Any] = {"num_episodes": 1, "seed": 0, "num_envs": 1, "max_steps": STEPS, "failed": False}
    said = (
        rf"only 0 of 4 attempts.*of push-v3.*or leave push-v3 out of --tasks \({TASK} succeeded as often as asked for"
    )
    with pytest.raises(RuntimeError, match=said):
        record_policy(tiny_policy(min_std=0.01).eval(), [TASK, "push-v3"], tmp_path / "acted", **settings)
    gc.collect()  # of the dataset, which the traceback held
    assert not list(tmp_path.iterdir())


def test_what_the_environment_does_not_show_is_refused(tiny_policy: Callable[..., PolicyModel]) -> None:
    with pytest.raises(ValueError, match=r"reads observation.environment_state, PushT shows observation.state"):
        observed(tiny_policy(), ["observation.state"], "PushT")


def test_actions_of_another_robot_are_refused(tiny_policy: Callable[..., PolicyModel], tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.policy_config.output_features["action"].shape = (7,)
    with pytest.raises(ValueError, match=r"the policy's action has shape \(7,\), Meta-World's has 4 numbers"):
        record_policy(policy, [TASK], tmp_path / "data", num_episodes=1, seed=0, failed=True, num_envs=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--policy", "x", "--action_noise", "0.1"], "action_noise is for experts"),
        (["--policy", "x", "--environment_state", "false"], "environment_state has no effect with policy"),
        (["--policy", "x", "--failed", "some"], "must be one of drop, keep"),
        (["--failed", "keep"], "failed has no effect here: it is of a policy"),
        (["--episodes", "0"], "episodes is 0: it must be at least 1"),
    ],
)
def test_options_without_effect_are_refused(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--tasks", TASK, "--output_dir", str(tmp_path / "data"), *words]) == 1
    assert reason in capsys.readouterr().err
