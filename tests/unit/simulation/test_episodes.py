"""Rendered episodes of the real simulator: what is said of a picture is in its pixels."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import datasets
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from craft_trainer.cli.main import main
from craft_trainer.simulation.episodes import (
    COLOURS,
    STYLES,
    Moment,
    Shot,
    Stage,
    choose_frames,
    column_in_view,
    has_colour,
    outcome,
)
from craft_trainer.simulation.metaworld import Expert, MetaWorldEnvs, draw_goals

TASK = "push-v3"
SIZE = 200
NOTHING = np.zeros(0)


def moment(distance: float, *, to_goal: float = 1.0, success: bool = False, moved: float = 0.0) -> Moment:
    observation = np.zeros(39)
    observation[4] = moved
    return Moment(NOTHING, observation, distance, to_goal, success)


@pytest.mark.parametrize(
    ("moments", "frames"),
    [
        ([moment(0.9 - 0.1 * i) for i in range(10)] + [moment(0.01)] * 8, (0, 4, 9, 15, 17)),
        ([moment(0.5, moved=0.01 * (i > 6)) for i in range(12)], (0, 3, 7, 10, 11)),
        ([moment(abs(i - 4) + 0.3) for i in range(9)], (0, 2, 4, 7, 8)),  # never there: where it was nearest
        ([moment(0.5), moment(0.4)], (0, 1)),
        ([moment(0.5)], (0,)),
    ],
)
def test_frames_are_start_approach_contact_late_and_last(moments: list[Moment], frames: tuple[int, ...]) -> None:
    """All different, and the last one always called last."""
    chosen = choose_frames(moments)
    assert tuple(sorted(chosen.values())) == frames
    assert chosen["last"] == len(moments) - 1
    if len(frames) == 5:
        assert tuple(chosen) == ("start", "approach", "contact", "late", "last")


@pytest.mark.parametrize(
    ("moments", "result"),
    [
        ([moment(1), moment(1, success=True)], True),
        ([moment(1), moment(1, success=True), moment(1)], None),  # it did, and went on
        ([moment(1), moment(1, to_goal=0.9)], False),
        ([moment(1), moment(1, to_goal=0.4)], None),  # most of the way
    ],
)
def test_the_outcome_is_the_flag_at_the_end_and_nothing_in_between(moments: list[Moment], result: bool | None) -> None:
    assert outcome(moments) is result


@pytest.mark.parametrize(
    ("place", "column"),
    [
        ((30.0, 10.0, 1.0), 0.75),
        ((30.0, 10.0, 1.03), 0.75),  # inside what is seen there
        ((30.0, 10.0, 1.05), None),  # behind it
        ((30.0, 10.0, 0.95), None),  # in front, where there is nothing
        ((10.0, 30.0, 1.0), None),  # rows are not columns: there the depth is 2
        ((10.0, 30.0, 2.0), 0.25),
        ((-0.5, 10.0, 1.0), None),
        ((40.0, 10.0, 1.0), None),
        ((30.0, 40.0, 1.0), None),
    ],
)
def test_a_point_is_in_view_if_something_is_seen_at_its_distance(
    place: tuple[float, ...], column: float | None
) -> None:
    """Seen to fail without the distance, and with rows for columns."""
    depth = np.full((40, 40), 1.0)
    depth[20:, :20] = 2.0
    assert column_in_view(np.array(place), depth) == column


@pytest.mark.parametrize(
    ("rgb", "colours"),
    [
        ((20, 200, 30), {"green"}),
        ((10, 60, 10), {"green"}),  # in the shade
        ((0, 255, 255), set()),  # a finger
        ((255, 255, 255), set()),  # the other one
        ((150, 20, 25), {"red"}),
        ((139, 110, 95), set()),  # the table
    ],
)
def test_colours_are_told_apart(rgb: tuple[int, ...], colours: set[str]) -> None:
    assert {colour for colour in COLOURS if has_colour(np.array(rgb), colour)} == colours


@pytest.fixture(scope="module")
def stage(rendering: None) -> Iterator[Stage]:
    del rendering  # or skips
    with closing(Stage(TASK, SIZE)) as made:
        yield made


@pytest.fixture(scope="module")
def shots(stage: Stage) -> list[Shot]:
    """One episode of each entry of STYLES, with the puck painted magenta, so that it is easily found."""
    model = stage._env.model
    model.geom("objGeom").matid = -1
    model.geom("objGeom").rgba = (1, 0, 1, 1)
    return [shot for episode in stage.shots(len(STYLES), 0) for shot in episode]


def centre(mask) -> float | None:
    """The mean column of some pixels, as a fraction of the width; None if there are fewer than six."""
    columns = np.nonzero(mask)[1]
    return None if len(columns) < 6 else float(columns.mean() + 0.5) / mask.shape[1]


def find(shot: Shot) -> dict[str, float | None]:
    red, green, blue = (shot.picture[..., channel].astype(int) for channel in range(3))
    magenta = (red > 60) & (blue > 60) & (abs(red - blue) < 40) & (green < 0.4 * red)
    lime = (green > 80) & (red < 0.4 * green) & (blue < 0.4 * green)
    return {"object": centre(magenta), "marker": centre(lime)}


@pytest.mark.parametrize("name", ["object", "marker"])
def test_columns_are_where_the_pixels_are(shots: list[Shot], name: str) -> None:
    """Seen to fail with the picture mirrored, with rows for columns, and with a lens 10 % longer."""
    compared = []
    for shot in shots:
        said, seen = getattr(shot.facts, name), find(shot)[name]
        if said is not None and seen is not None:
            compared.append(said - seen)
        if said is not None:
            assert seen is not None, f"{shot.style} {shot.moment}: {name} is said to be in view"
    assert len(compared) > 9
    assert np.abs(compared).max() < 0.02


def test_left_and_right_are_those_of_the_pixels(shots: list[Shot]) -> None:
    sides = set()
    for shot in shots:
        seen = find(shot)
        thing, marker = shot.facts.object, shot.facts.marker
        if thing is not None and marker is not None and abs(thing - marker) > 0.03:
            assert seen["object"] is not None
            assert seen["marker"] is not None
            assert (thing < marker) == (seen["object"] < seen["marker"])
            sides.add(thing < marker)
    assert sides == {True, False}


def test_the_gripper_is_open_or_closed_as_it_was_told_to(stage: Stage) -> None:
    """After ten actions of full effort; and its two fingers are farther apart in the picture when it is open."""
    goal = draw_goals(TASK, 1, 0, "evaluate")[0]
    opening, widths = [], []
    for effort in (-1.0, 1.0):
        moments = stage.roll(goal, Still(effort).act, 30)
        picture, facts = stage.see(moments, 30)
        red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
        cyan = (green > 100) & (blue > 100) & (red < 0.6 * green)
        white = (red > 150) & (green > 150) & (blue > 150)
        rows, columns = np.nonzero(cyan)
        around = white[rows.min() : rows.max() + 12, columns.min() - 25 : columns.max() + 1]
        opening.append(facts.opening)
        widths.append(columns.mean() - (np.nonzero(around)[1].mean() + columns.min() - 25))
    assert opening[0] > 0.9
    assert opening[1] < 0.35
    assert widths[0] > widths[1] + 3


class Still:
    def __init__(self, effort: float) -> None:
        self._action = np.array([0.0, 0.0, 0.0, effort])

    def act(self, observation: NDArray[np.float64]) -> NDArray[np.float64]:
        del observation
        return self._action


def test_success_is_that_of_another_simulator(shots: list[Shot]) -> None:
    """The expert's episodes, replayed by the environments of rollouts."""
    goals = draw_goals(TASK, len(STYLES), 0, "evaluate")
    experts = [index for index, style in enumerate(STYLES) if style == "expert"]
    envs, expert = MetaWorldEnvs(TASK, 1), Expert(TASK)
    for index in experts:
        observation, succeeded = envs.reset([goals[index]]), False
        for _ in range(150):
            state = observation["observation.environment_state"][0].astype(np.float64)
            observation, success = envs.step(expert.act(state)[None])
            succeeded |= bool(success[0])
        assert succeeded
    last = [shot for shot in shots if shot.moment == "last"]
    assert [shot.facts.outcome for shot in last if shot.episode in experts] == [True] * len(experts)
    failed = [find(shot) for shot in last if shot.facts.outcome is False]
    assert len(failed) >= 2
    assert all(abs(seen["object"] - seen["marker"]) > 0.04 for seen in failed)  # at least 7 cm, seen from 1.2 m


def test_who_plays_shows(shots: list[Shot]) -> None:
    """The one astray carries the puck past the goal, the stopped one does not get there, the bystander keeps off."""
    last = {shot.style: shot for shot in shots if shot.moment == "last"}
    seen = {style: find(shot) for style, shot in last.items()}
    assert seen["astray"]["object"] > seen["astray"]["marker"]
    assert last["stopped"].facts.outcome is False
    assert last["bystander"].facts.outcome is False
    assert last["bystander"].facts.distance > 0.06


OPTIONS = ["--tasks", "handle-press-v3,button-press-topdown-v3", "--episodes", "2", "--size", "64", "--seed", "3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, rendering: None) -> Path:
    del rendering  # or skips
    output = tmp_path_factory.mktemp("mcq") / "questions"
    assert main(["mcq-from-demos", *OPTIONS, "--output", str(output)]) == 0
    return output


def test_the_folder_is_a_dataset_and_json_lines(folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    dataset = datasets.load_dataset(str(folder), split="test", cache_dir=str(tmp_path))
    assert len({row["id"] for row in rows}) == len(rows) == len(dataset) >= 16
    assert {row["image_path"] for row in rows} == {f"images/{path.name}" for path in (folder / "images").iterdir()}
    for row, loaded in zip(rows, dataset, strict=True):
        image = Image.open(folder / row.pop("image_path"))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(loaded.pop("image")))
        assert loaded == row
        assert len(set(row["choices"])) == len(row["choices"]) > row["answer_index"]


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    assert main(["mcq-from-demos", *OPTIONS, "--output", str(again)]) == 0
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert (folder / file).read_bytes() == (again / file).read_bytes(), file
    options = [*OPTIONS[:-1], "4", "--episodes", "1", "--kinds", "near,task"]
    assert main(["mcq-from-demos", *options, "--output", str(other)]) == 0
    rows = [json.loads(line) for line in (other / "questions.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} <= {"near", "task"}
    assert {row["seed"] for row in rows} == {4}
    pictures, others = ({path.read_bytes() for path in (made / "images").iterdir()} for made in (folder, other))
    assert pictures
    assert not pictures & others  # another seed, other goals: seen to fail when goals ignore it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "pusch-v3"], "'pusch-v3' is not a Meta-World v3 task. Did you mean push-v3"),
        (["--kinds", "sides"], "no kind of question 'sides': did you mean 'side'?; there are task, object"),
        (["--episodes", "0"], "episodes is 0: give a positive number"),
        (["--size", "-1"], "size is -1: give a positive number"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_played(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mcq-from-demos", *options, "--output", str(tmp_path / "x")]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("rendering")
def test_one_sided_questions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One task: the right choice would always be the same."""
    options = ["--tasks", TASK, "--episodes", "1", "--size", "32", "--kinds", "task,object"]
    assert main(["mcq-from-demos", *options, "--output", str(tmp_path / "x")]) == 1
    assert "1 episodes of push-v3 gave no questions of the kinds task, object with more" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
