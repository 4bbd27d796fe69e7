"""The film: the episode that a rollout counts, a column for every policy, and each verdict where it belongs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from craft_trainer.cli.film import FilmArguments
from craft_trainer.cli.main import main
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.simulation.film import ACTIONS_PER_FRAME, FRAME_MS, HOLD_MS, Take, play, save_film, side_by_side
from craft_trainer.simulation.metaworld import Expert, draw_goals

TASK = "handle-press-v3"  # its expert needs few actions
SIZE = 96


class ExpertPolicy:
    """Meta-World's scripted policy in place of a trained one."""

    def __init__(self) -> None:
        self._expert = Expert(TASK)

    def reset(self) -> None:
        pass

    def image_keys(self) -> list[str]:
        return []

    def select_action(self, batch: dict[str, Any]) -> torch.Tensor:
        assert set(batch) == {"observation.state", "observation.environment_state", "task"}  # no picture of the film's
        return torch.from_numpy(self._expert.act(batch["observation.environment_state"][0].double().numpy()))[None]


class IdlePolicy:
    """Does nothing."""

    def reset(self) -> None:
        pass

    def select_action(self, batch: dict[str, Any]) -> torch.Tensor:
        return torch.zeros(len(batch["observation.state"]), 4)


@pytest.mark.usefixtures("rendering")
def test_an_expert_solves_what_idling_does_not_and_all_pictures_are_of_one_camera() -> None:
    """Seen to fail if the camera comes after the reset: the first picture was of another place than the rest."""
    (goal,) = draw_goals(TASK, 1, 0, "evaluate")
    settings: dict[str, Any] = {"size": SIZE, "max_steps": 120, "image_size": None}
    solved = play("expert", ExpertPolicy(), TASK, goal, **settings)  # type: ignore[arg-type]
    idle = play("idle", IdlePolicy(), TASK, goal, **settings)  # type: ignore[arg-type]
    assert idle.solved_after is None
    assert solved.solved_after is not None
    assert len(idle.pictures) == 120 // ACTIONS_PER_FRAME + 1
    assert len(solved.pictures) == -(-solved.solved_after // ACTIONS_PER_FRAME) + 1
    np.testing.assert_array_equal(solved.pictures[0], idle.pictures[0])  # the same episode
    first, second, last = (idle.pictures[index].astype(int) for index in (0, 1, -1))
    assert np.abs(first - second).mean() < 5  # an idle arm hardly moves
    assert np.abs(first - last).mean() < 5
    assert np.abs(solved.pictures[-1].astype(int) - last).mean() > 2 * np.abs(first - last).mean()


def test_a_verdict_appears_when_its_take_is_over(tmp_path: Path) -> None:
    grey = np.full((SIZE, SIZE, 3), 128, dtype=np.uint8)
    takes = [Take("quick", [grey] * 2, 8), Take("slow", [grey] * 4, None)]
    frames = side_by_side(takes)
    assert len(frames) == 4
    below = [np.asarray(frame)[-12:].astype(int) for frame in frames]
    said = [[bool((strip[:, side] != 255).any()) for side in (slice(0, SIZE), slice(SIZE, None))] for strip in below]
    assert said == [[False, False], [True, False], [True, False], [True, True]]
    for ending in (".gif", ".webp"):
        path = tmp_path / f"film{ending}"
        save_film(frames, path)
        with Image.open(path) as film:
            assert film.size == frames[0].size
            assert film.info["loop"] == 0
            film.seek(film.n_frames - 1)  # type: ignore[attr-defined]  # of its subclasses
            film.load()
            assert film.info["duration"] in (HOLD_MS, HOLD_MS + FRAME_MS)  # equal frames are stored as one


@pytest.mark.usefixtures("rendering")
def test_the_command_films_every_checkpoint_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PolicyModel, "from_pretrained", lambda *_, **__: ExpertPolicy())
    words = ["--policies", "runs/teacher,runs/craft", "--task", TASK, "--episode", "1", "--size", "64"]
    assert main(["film", *words, "--output", str(tmp_path / "new" / "film.gif")]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("teacher: solved in ")
    assert second == first.replace("teacher", "craft")
    assert last == f"film: {tmp_path / 'new' / 'film.gif'}"
    with Image.open(tmp_path / "new" / "film.gif") as film:
        assert film.width == 2 * 64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policies": []}, "policies is empty"),
        ({"names": ["one", "two", "three"]}, "names has 3 entries for 2 policies"),
        ({"output": "film.mp4"}, r"output=film\.mp4 is no film: end its name in \.gif or \.webp"),
        ({"episode": -1}, "episode is -1: it must be at least 0"),
        ({"size": 8}, "size is 8: it must be at least 32"),
    ],
)
def test_what_makes_no_film_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FilmArguments(**{"policies": ["a", "b"], "task": TASK, "output": "film.gif"} | given)
