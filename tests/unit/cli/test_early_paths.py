"""A wrong path is told before anything is imported that loads it, in the words of a command line."""

import importlib
import re
import sys
from functools import wraps
from pathlib import Path

import pytest

from craft_trainer.cli.arguments import parse_all
from craft_trainer.cli.main import main, spelled_as_options
from craft_trainer.cli.train import TrainArguments
from craft_trainer.cli.train_config import TrainConfig

REQUIRED: dict[str, dict[str, str]] = {
    "train": {"model": "org/model", "dataset": "org/data", "output_dir": "outputs/mine"},
    "cache build": {"teacher": "org/model", "dataset": "org/data", "output_dir": "outputs/mine"},
    "cache verify": {"cache": "org/anchors"},
    "merge": {"teacher": "org/a", "tuned": "org/b", "anchors": "org/anchors", "output_dir": "outputs/mine"},
    "rollout": {"tasks": "push-v3"},
    "mcq": {"model": "org/a", "data": "org/questions"},
}


@pytest.mark.parametrize(
    ("command", "name"),
    [("train", name) for name in ("model", "dataset", "anchors", "adapt_to")]
    + [("cache build", name) for name in ("teacher", "dataset", "adapt_to")]
    + [("merge", name) for name in ("teacher", "tuned", "anchors", "dataset")]
    + [("rollout", "policy"), ("mcq", "model"), ("mcq", "compare"), ("mcq", "data"), ("cache verify", "teacher")],
)
def test_a_wrong_path_is_named_before_imports(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen to fail: LeRobot was imported first, and the option was not named."""
    places = REQUIRED[command] | {name: "outputs/of/nothing"}
    monkeypatch.chdir(tmp_path)
    for module in ("craft_trainer.models.pretrained", "craft_trainer.anchors.cache", "lerobot.configs.policies"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it is an error
    words = [f"--{option}={place}" for option, place in places.items()]
    assert main([*command.split(), *words]) == 1
    assert f"--{name}: there is no file or folder outputs/of/nothing" in capsys.readouterr().err


def test_several_datasets_name_lerobots_way_to_merge_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both ways to write them. Seen to fail with `not the id of a Hub repository` and `no option b`."""
    monkeypatch.setitem(sys.modules, "craft_trainer.models.pretrained", None)
    words = ["train", "--model", "org/model", "--output_dir", str(tmp_path), "--dataset"]
    assert main([*words, "a,b"]) == 1
    assert "--new_repo_id local/both --new_root both --operation.type merge" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_all("train", "", [TrainArguments, TrainConfig], [*words[1:], "a", "b"])
    assert "no option b: it belongs to no option. Of several datasets, one dataset is read" in capsys.readouterr().err


def test_a_loose_word_shows_the_example_where_no_dataset_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail with LeRobot's way to merge datasets, for the result of ``mcq`` that was given to ``report``."""
    with pytest.raises(SystemExit):
        main(["report", "mcq.json"])
    assert "no option mcq.json: it belongs to no option. Try: craft-trainer report" in capsys.readouterr().err


def test_a_setting_of_python_is_spelled_as_an_option() -> None:
    """Seen to fail with the message as it is. Other words with = stay."""
    message = "pass teacher_mismatch=allow, or inputs=embedded; a=b, x.teacher_mismatch=c"
    spelled = "pass --teacher_mismatch allow, or inputs=embedded; a=b, x.teacher_mismatch=c"
    with (
        pytest.raises(ValueError, match=f"^{re.escape(spelled)}$"),
        spelled_as_options({"teacher_mismatch"}),
    ):
        raise ValueError(message)


@pytest.mark.parametrize(
    "words",
    [
        "rollout --policy org/policy --tasks push-v3 --output",
        "loss --policy org/policy --dataset org/data --output",
        "mcq --model org/model --data org/questions --output",
        "report --run . --output",
        "film --policies org/policy --task push-v3 --output",
        "bench step --json",
    ],
)
def test_a_folder_in_the_place_of_the_result_is_named_before_the_work(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen to fail after all episodes, with their result lost, or as a file of the name of the folder to be."""
    monkeypatch.chdir(tmp_path)
    path = words.partition(" --")[0].replace("bench ", "costs.")
    module = importlib.import_module(f"craft_trainer.{path if '.' in path else 'cli.' + path}")
    monkeypatch.setattr(module, "run", wraps(module.run)(lambda *_: pytest.fail("the work began")))
    (tmp_path / "results.gif").mkdir()
    (tmp_path / "file").touch()
    for place in ("results.gif", "results.gif/", "new.gif/"):
        assert main([*words.split(), place]) == 1
        assert f"{place} is a folder, and one file is written: name a file in it" in capsys.readouterr().err
    assert main([*words.split(), "file/result.gif"]) == 1
    assert f"file/result.gif: {tmp_path / 'file'} is a file, and no folder" in capsys.readouterr().err
