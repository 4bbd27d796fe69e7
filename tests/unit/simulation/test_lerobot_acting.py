"""A policy's own episodes in LeRobot's environments, in one of a plugin: a point that walks along a line."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.envs.configs import EnvConfig

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.cli.main import main
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.simulation.acting import observed
from craft_trainer.simulation.lerobot_acting import frame_of, record_in_lerobots, recorded_seeds
from craft_trainer.simulation.lerobot_envs import RECORDED_FROM, environment_config, make_envs, roll_out

STATE, WORLD = "observation.state", "observation.environment_state"
SHOWN = {"agent_pos": 4, "environment_state": 39}
LENGTH = 6
FIRST = recorded_seeds(0, 1)[0]
resets: list[int | None] = []  # seeds that environments were reset with


class Line(gymnasium.Env[Any, Any]):
    """One step is one unit; an episode succeeds after ``reach`` of them if its seed is FIRST, FIRST + 2 and so on."""

    metadata = {"render_modes": [], "render_fps": 7}  # noqa: RUF012 as gymnasium has it
    observation_space = Dict(
        {"agent_pos": Box(-np.inf, np.inf, (4,)), "environment_state": Box(-np.inf, np.inf, (39,))}
    )
    action_space = Box(-np.inf, np.inf, (4,))
    task_description = "walk to the end"
    task = "walk"
    _max_episode_steps = LENGTH

    def __init__(self, reach: int) -> None:
        self.reach = reach

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            resets.append(seed)
            self.start, self.goal = float(seed - FIRST), self.reach if (seed - FIRST) % 2 == 0 else None
        self.steps = 0
        return self.seen(), {}

    def seen(self) -> dict[str, Any]:
        world = np.linspace(-1, 1, 39, dtype=np.float32)
        return {"agent_pos": np.array([self.start, self.steps, 0, 0], dtype=np.float32), "environment_state": world}

    def step(self, action: Any) -> Any:
        self.steps += 1
        solved = self.steps == self.goal
        return self.seen(), 0.0, solved, False, {"is_success": solved}


@EnvConfig.register_subclass("craft_line")
@dataclass
class LineConfig(EnvConfig):
    task: str | None = "Line-v0"
    fps: int = 7
    reach: int = 3
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            "action": PolicyFeature(FeatureType.ACTION, (4,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (4,)),
            "environment_state": PolicyFeature(FeatureType.ENV, (39,)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {"action": "action", "agent_pos": STATE, "environment_state": WORLD}
    )

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {"reach": self.reach}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The environment is gymnasium's; every library's generator is left as it was."""
    name = "gym_craft_line/Line-v0"
    gymnasium.register(name, Line, disable_env_checker=True, order_enforce=False)
    state = np.random.get_state()
    resets.clear()
    with torch.random.fork_rng(devices=[]):
        yield
    np.random.set_state(state)
    gymnasium.registry.pop(name)


@pytest.fixture
def policy(tiny_policy: Callable[..., PolicyModel]) -> PolicyModel:
    return tiny_policy(min_std=0.01).eval()


def recorded(policy: PolicyModel, folder: Path, **options: Any) -> LeRobotDataset:
    settings: dict[str, Any] = {"num_episodes": 3, "seed": 0, "num_envs": 2, "failed": False}
    return record_in_lerobots(policy, "craft_line", [], folder, **settings | options)


def test_frames_end_with_the_episode_and_failed_ones_make_room(policy: PolicyModel, tmp_path: Path) -> None:
    """Seen to fail with the frames after a success kept, and with those of the episode that gymnasium begins then."""
    dataset = recorded(policy, tmp_path / "acted")
    states = np.stack(dataset.hf_dataset[STATE])
    assert states[:, 0].tolist() == [0, 0, 0, 2, 2, 2, 4, 4, 4]  # seeds 1 and 3 fail
    assert states[:, 1].tolist() == [0, 1, 2] * 3
    assert (dataset.num_episodes, dataset.fps, [*dataset.meta.tasks.index]) == (3, 7, ["walk to the end"])
    kept = recorded(policy, tmp_path / "kept", failed=True)
    assert [*map(int, np.stack(kept.hf_dataset[STATE])[:, 0])] == [0] * 3 + [1] * LENGTH + [2] * 3


def test_the_seeds_are_never_those_of_an_evaluation(policy: PolicyModel, tmp_path: Path) -> None:
    recorded(policy, tmp_path / "acted", seed=4)
    assert min(seed for seed in resets if seed is not None) == recorded_seeds(4, 1)[0] >= RECORDED_FROM
    with pytest.raises(ValueError, match="they are those of `record`; take a smaller one"):
        next(roll_out(policy, "craft_line", [], num_episodes=1, num_envs=1, seed=RECORDED_FROM))


def test_recordings_of_two_seeds_share_no_episode() -> None:
    """Seen to fail: seed 1 had all episodes of seed 0 but the first. Fewer are the first of more, below 2³²."""
    drawn = [recorded_seeds(seed, 4000) for seed in range(100)]
    assert len(set().union(*drawn)) == 100 * 4000
    assert drawn[3][:5] == recorded_seeds(3, 5)
    assert all(seeds[0] >= RECORDED_FROM and seeds[-1] < 2**32 for seeds in drawn)


def test_the_actions_are_those_of_lerobots_own_loop(policy: PolicyModel, tmp_path: Path) -> None:
    """Chunks, normalisation and order: `lerobot_eval.rollout` with the same seeds takes the same actions."""
    from lerobot.envs.factory import make_env_pre_post_processors
    from lerobot.scripts.lerobot_eval import rollout

    dataset = recorded(policy, tmp_path / "acted", num_episodes=2, failed=True)
    config = environment_config("craft_line", None, {})
    ((_, vector),) = make_envs(config, 2).items()
    theirs = rollout(
        vector,
        policy.policy,
        *make_env_pre_post_processors(config, policy.policy_config),
        policy.preprocessor,
        policy.postprocessor,
        seeds=[FIRST, FIRST + 1],
    )
    expected = torch.cat([theirs["action"][0, :3], theirs["action"][1]])
    torch.testing.assert_close(torch.tensor(np.stack(dataset.hf_dataset["action"])), expected)


def test_the_dataset_is_one_that_the_policy_reads(policy: PolicyModel, tmp_path: Path) -> None:
    """Its own action for a stored frame is the action that is stored there."""
    dataset = recorded(policy, tmp_path / "acted")
    again = LeRobotDataset("local/acted", root=tmp_path / "acted", video_backend="pyav")
    assert observed(policy, list(again[0]), "it") == [STATE, WORLD]
    policy.reset()
    frame = again[0]
    with torch.inference_mode():
        chosen = policy.select_action({STATE: frame[STATE][None], WORLD: frame[WORLD][None], "task": [""]})[0]
    torch.testing.assert_close(frame["action"], chosen, atol=1e-4, rtol=1e-4)
    assert dataset.num_frames == 9


def test_by_commands_with_lerobots_names_and_as_a_source_of_anchors(policy: PolicyModel, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "policy")
    given = ["--env.type=craft_line", "--env.reach=2", f"--policy.path={tmp_path / 'policy'}", "--policy.device=cpu"]
    words = [*given, "--episodes", "2", "--num_envs", "2", "--output_dir", str(tmp_path / "data")]
    assert main(["record", *words]) == 0
    assert LeRobotDataset("local/data", root=tmp_path / "data", video_backend="pyav").num_episodes == 2
    build = ["cache", "build", "--teacher", str(tmp_path / "policy"), "--anchors", "4", "--device", "cpu"]
    from_data = [*build, "--dataset", str(tmp_path / "data"), "--output_dir", str(tmp_path / "one")]
    assert main(from_data) == 0
    acted = ["--source", "rollouts", "--env", "craft_line", "--rollout_episodes", "2"]
    assert main([*build, *acted, "--output_dir", str(tmp_path / "two")]) == 0
    one, two = (AnchorCache(tmp_path / name) for name in ("one", "two"))
    assert one.provenance.groups == two.provenance.groups == {"walk to the end": 4}
    assert json.loads((tmp_path / "two.rollouts.json").read_text())["env"] == "craft_line"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--env", "craft_line"], "env has no effect here: it is of a policy"),
        (["--policy", "x"], "tasks is empty: name Meta-World tasks, or one of LeRobot's environments by env"),
        (["--policy", "x", "--env", "craft_line", "--image_size", "8"], "image_size has no effect here: LeRobot's"),
        (["--policy", "x", "--env", "craft_line", "--shadows", "false"], "shadows has no effect here: LeRobot's"),
        (["--tasks", "push-v3", "--shadows", "false"], "shadows has no effect here: no images are rendered"),
        (["--policy", "x", "--tasks", "push-v3", "--env_options", '{"reach": 2}'], "env_options has no effect here"),
    ],
)
def test_options_without_effect_are_refused(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--output_dir", str(tmp_path / "data"), *words]) == 1
    assert reason in capsys.readouterr().err


def test_an_unknown_environment_or_field_is_refused(policy: PolicyModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'craft_lines' is not registered"):
        record_in_lerobots(policy, "craft_lines", [], tmp_path / "x", num_episodes=1, seed=0, failed=True, num_envs=1)
    with pytest.raises(ValueError, match="env_options of craft_line"):
        recorded(policy, tmp_path / "x", options={"height": 3})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("max_steps", [0, LENGTH + 1])
def test_more_actions_than_an_episode_has_are_refused(policy: PolicyModel, max_steps: int) -> None:
    rows = roll_out(policy, "craft_line", [], num_episodes=1, num_envs=1, seed=0, max_steps=max_steps)
    with pytest.raises(ValueError, match=f"max_steps is {max_steps}: .* of this environment have 1 to {LENGTH} act"):
        next(rows)


def test_a_policy_that_never_succeeds_is_told_what_to_do(policy: PolicyModel, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"only 0 of 12 attempts succeeded.*of Line-v0, .*--failed keep"):
        recorded(policy, tmp_path / "x", options={"reach": LENGTH + 1})
    assert not (tmp_path / "x").exists()


def test_pictures_are_stored_as_they_were_rendered_under_the_policys_names() -> None:
    """Of 8 bits, rows first."""
    policy: Any = SimpleNamespace(image_keys=lambda: ["observation.image"], renamed={"observation.image": "camera"})
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3) * 3
    seen = {"observation.image": torch.from_numpy(pixels).movedim(-1, 1).float() / 255, STATE: torch.ones(2, 4)}
    frame = frame_of(policy, {name: value[1] for name, value in seen.items()})
    assert frame.keys() == {"camera", STATE}
    assert frame["camera"].dtype == np.uint8  # type: ignore[union-attr]  # no sentence
    assert (frame["camera"] == pixels[1]).all()  # type: ignore[union-attr]
