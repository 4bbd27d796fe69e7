"""Rendered observations: LeRobot's own picture, the same recorded and rolled out, and no trace without them."""

import itertools
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.envs.metaworld import MetaworldEnv

from craft_trainer.simulation import camera
from craft_trainer.simulation.metaworld import MetaWorldEnvs, draw_goals
from craft_trainer.simulation.recording import record_demonstrations
from craft_trainer.simulation.rollout import as_dataset_gives

TASK = "handle-press-v3"  # its expert needs few actions
SIZE = 24


@pytest.mark.usefixtures("rendering")
def test_the_picture_is_lerobots() -> None:
    """Also after a step, and of the second of two simulators that share a camera. Seen to fail without the flip.

    Theirs first: their renderer does not survive another one in between.
    """
    camera.gl_context()  # finds what renders here, for theirs as well
    first, second = draw_goals(TASK, 2, 0, "evaluate")
    action = np.array([0.5, 0.2, -0.5, 1.0])
    with closing(MetaworldEnv(TASK, obs_type="pixels")) as theirs:
        theirs._ensure_env()
        theirs._env._freeze_rand_vec = True
        theirs._env.set_task(second)
        theirs._env.reset()
        pictures = [theirs.render().astype(int)]
        theirs._env.step(action)
        pictures.append(theirs.render().astype(int))
    with closing(MetaWorldEnvs(TASK, 2, image_size=480)) as ours:
        seen = [ours.reset([first, second])[camera.KEY], ours.step(np.stack([-action, action]))[0][camera.KEY]]
    for picture, (other, same) in zip(pictures, seen, strict=True):
        assert picture.any()
        difference = np.abs(same.astype(int) - picture).mean()
        assert difference < 0.01
        assert np.abs(other.astype(int) - picture).mean() > 10 * difference


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, rendering: None) -> list[LeRobotDataset]:
    del rendering  # or skips
    folder = tmp_path_factory.mktemp("record")
    settings = {"num_episodes": 1, "seed": 0, "action_noise": 0.1}
    return [
        record_demonstrations([TASK], folder / "states", **settings),
        record_demonstrations([TASK], folder / "images", **settings, image_size=SIZE),
    ]


def test_images_come_beside_the_same_states_and_actions(recordings: list[LeRobotDataset]) -> None:
    states, images = recordings
    assert set(images.features) - set(states.features) == {camera.KEY}
    assert images.features[camera.KEY]["dtype"] == "image"
    for column in states.hf_dataset.column_names:
        values = [np.stack(dataset.hf_dataset.with_format("numpy")[column][:]) for dataset in recordings]
        np.testing.assert_array_equal(*values, err_msg=column)
    assert not list(Path(images.root).rglob("*.png"))  # they are in the table


def test_a_policy_sees_in_a_rollout_what_was_recorded(recordings: list[LeRobotDataset]) -> None:
    """Bit for bit. Seen to fail if a rollout gives rows × columns × 3, and without the division by 255."""
    with closing(MetaWorldEnvs(TASK, 3, image_size=SIZE)) as envs:
        shown = envs.reset(draw_goals(TASK, 3, 0, "record"))
    recorded = recordings[1][0][camera.KEY]
    assert recorded.shape == (3, SIZE, SIZE)
    assert torch.equal(as_dataset_gives(shown[camera.KEY])[0], recorded)
    assert 0.05 < recorded.std() < 0.5
    assert torch.equal(as_dataset_gives(shown["observation.state"])[0], recordings[1][0]["observation.state"])


@pytest.mark.usefixtures("rendering")
def test_pictures_are_taken_where_they_are_asked_for_and_shadows_left_out() -> None:
    (goal,) = draw_goals(TASK, 1, 0, "evaluate")
    down = np.array([[0.0, 0.0, -1.0, 0.0]])

    def shown(**how: bool) -> list[np.ndarray]:
        with closing(MetaWorldEnvs(TASK, 1, image_size=SIZE, **how)) as envs:
            first = envs.reset([goal])
            steps = [first, *(envs.step(down, look=look)[0] for look in (False, False, True))]
        states = [step["observation.state"] for step in steps]
        assert not any(np.array_equal(one, other) for one, other in itertools.pairwise(states))
        return [step[camera.KEY].astype(int) for step in steps]

    pictures = shown()
    assert [np.array_equal(pictures[0], picture) for picture in pictures] == [True, True, True, False]
    difference = np.abs(shown(shadows=False)[0] - pictures[0])
    assert difference.mean() > 1
    assert (difference == 0).mean() > 0.2  # what the light does not reach is as it was


@pytest.mark.parametrize(
    ("working", "environment", "chosen"),
    [
        ({"egl", "osmesa", "glfw"}, {}, "egl"),
        ({"osmesa", "glfw"}, {}, "osmesa"),
        ({"egl", "osmesa", "glfw"}, {"DISPLAY": ":0"}, "glfw"),
        ({"egl", "osmesa", "glfw"}, {"MUJOCO_GL": "osmesa", "DISPLAY": ":0"}, "osmesa"),
        ({"egl"}, {"MUJOCO_GL": "osmesa"}, None),
        ({"glfw"}, {}, None),
    ],
)
def test_what_renders_is_chosen_or_said(
    monkeypatch: pytest.MonkeyPatch, working: set[str], environment: dict[str, str], chosen: str | None
) -> None:
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(camera, "_renders", working.__contains__)
    monkeypatch.setattr(camera.sys, "platform", "linux")
    if chosen is not None:
        assert camera.choose_backend() == chosen
        return
    tried = environment.get("MUJOCO_GL", "egl and osmesa")
    with pytest.raises(RuntimeError, match=rf"MUJOCO_GL={tried} fails here. Install Mesa.*libosmesa6"):
        camera.choose_backend()


def test_a_backend_that_does_not_exist_is_found_out() -> None:
    assert not camera._renders("nothing")


def test_images_have_pixels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size is 0"):
        record_demonstrations([TASK], tmp_path / "x", num_episodes=1, seed=0, action_noise=0.1, image_size=0)


@pytest.mark.parametrize("backend", ["osmesa", "nonsense"])
def test_a_backend_with_which_mujoco_is_not_imported_is_named(backend, tmp_path):
    """Seen to fail: `'NoneType' object has no attribute 'glGetError'`, as a traceback."""
    (tmp_path / "mujoco.py").write_text("raise AttributeError('no glGetError')")
    places = [str(tmp_path), *sys.path]
    code = f"import sys; sys.path[:0] = {places}; import craft_trainer.simulation.metaworld"
    environment = os.environ | {"MUJOCO_GL": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert f"RuntimeError: MuJoCo fails with MUJOCO_GL={backend} here (no glGetError): unset it" in done.stderr
