"""Numbers out of their range are refused before anything is loaded, with the name of the option and its range."""

import re

import pytest

from craft_trainer.cli.main import main, understood
from craft_trainer.cli.sources import SourceArguments

VERIFY = "cache verify --cache org/anchors --teacher org/policy"
RELABEL = "cache relabel --cache org/anchors --teacher org/policy --output_dir new"
BUILD = "cache build --teacher org/policy --dataset org/data --output_dir new"
JOIN = "cache join --caches org/a,org/b --output_dir new"
RECORD = "record --tasks push-v3 --output_dir new"
ROLLOUT = "rollout --policy org/policy --tasks push-v3"
FILM = "film --policies org/policy --task push-v3 --output new.gif"
QUESTIONS = "mcq-from-demos --output new"
MCQ = "mcq --model org/model --compare org/other --data org/questions"


@pytest.mark.parametrize(
    ("words", "name", "value", "least"),
    [
        (VERIFY, "rows", 0, 1),
        (VERIFY, "rows", -4, 1),
        (VERIFY, "batch_size", -1, 1),
        (VERIFY, "tolerance", -0.1, 0),
        (RELABEL, "batch_size", 0, 1),
        (RELABEL, "num_workers", -1, 0),
        (BUILD, "anchors", 0, 1),
        (BUILD, "batch_size", 0, 1),
        (BUILD, "batch_size", -2, 1),
        (BUILD, "num_workers", -2, 0),
        (BUILD, "num_tokens", 0, 1),
        (BUILD, "own_tokens", 0, 1),
        (BUILD, "streamed_rows", -1, 0),
        (BUILD, "seed", -1, 0),
        (JOIN, "anchors", 0, 1),
        (JOIN, "frames", 0, 1),
        (JOIN, "seed", -1, 0),
        (RECORD, "episodes", 0, 1),
        (RECORD, "seed", -1, 0),
        (RECORD, "action_noise", -0.5, 0),
        (ROLLOUT, "seed", -1, 0),
        (FILM, "size", 31, 32),
        (FILM, "seed", -1, 0),
        (QUESTIONS, "seed", -1, 0),
        (MCQ, "seed", -1, 0),
    ],
)
def test_a_number_that_is_too_small(
    words: str, name: str, value: float, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen to fail: some were taken for the default or did nothing, others ended in a library's error after loading."""
    assert main([*words.split(), f"--{name}", str(value)]) == 1
    assert f"{name} is {value}: it must be at least {least}" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(("words", "name"), [(VERIFY, "tolerance"), (RECORD, "action_noise"), (BUILD, "state_width")])
def test_a_number_that_is_none(words: str, name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail: all were taken, and any teacher is within a tolerance of inf."""
    with pytest.raises(SystemExit, match="2"):
        main([*words.split(), f"--{name}={value}"])
    assert f"argument --{name}" in (told := capsys.readouterr().err)
    assert f"{value} is not a finite number" in told


def test_a_number_of_the_trainer_may_be_infinite() -> None:
    """Which clips no gradient."""
    words = "--model org/model --dataset data.jsonl --output_dir new --max_grad_norm inf"
    _, filled = understood("train", words.split(), checks_places=False)
    assert float("inf") in [getattr(arguments, "max_grad_norm", None) for arguments in filled]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(
    "given",
    [
        {"source": ["statistics"], "state_width": None},
        {"source": ["statistics"], "views": 1, "view_noise": None},
        {"source": ["statistics"], "views": 1, "view_mix": None},
    ],
)
def test_a_number_of_a_source_that_is_none(given: dict[str, object], value: float) -> None:
    """Seen to fail with an OverflowError, and with features that were not finite."""
    told = "view_noise must be ≥ 0, view_mix in [0, 1], state_width > 0, and all of them finite"
    with pytest.raises(ValueError, match=re.escape(told)):
        SourceArguments(**{name: value if one is None else one for name, one in given.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": ["statistics"], "views": -1}, "views is -1: it must be at least 0"),
        ({"source": ["rollouts"], "env": "pusht", "rollout_episodes": 0}, "rollout_episodes is 0: it must be at least"),
    ],
)
def test_a_number_of_a_source_that_is_too_small(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SourceArguments(**given)  # type: ignore[arg-type]
