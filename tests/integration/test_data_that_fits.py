"""Data that a policy cannot read is refused by feature and shape, before any weights are loaded."""

import json
import shutil
from pathlib import Path

import pytest
from command_words import flags

from craft_trainer.cli.loading import LoadArguments
from craft_trainer.cli.main import main
from craft_trainer.models.lerobot import PolicyModel

STATE = "observation.state"


def changed(dataset: Path, folder: Path, features: dict[str, int | None], names: dict[str, str] | None = None) -> Path:
    """A copy whose description has these sizes (None: no such feature), under these names."""
    shutil.copytree(dataset, folder)
    info = json.loads((folder / "meta/info.json").read_text())
    for name, size in features.items():
        if size is None:
            del info["features"][name]
        else:
            info["features"][name]["shape"] = [size]
    info["features"] = {(names or {}).get(name, name): one for name, one in info["features"].items()}
    (folder / "meta/info.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize("command", ["train", "cache build"])
@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({STATE: 6, "action": 7}, [f"{STATE} is of shape (6,)", "action is of shape (7,)", "--adapt_to"]),
        ({STATE: None}, [f"{STATE} is missing", "of shape (4,) in the policy", "--rename"]),
        ({"action": None}, ["action is missing", "--policy_type"]),
    ],
)
def test_it_is_refused_before_weights_are_loaded(
    command, features, said, teacher, tiny_dataset, tmp_path, monkeypatch, capsys
):
    """Seen to fail: the weights were loaded first, and data without actions ended in LeRobot's KeyError."""
    data = changed(tiny_dataset, tmp_path / "data", features)
    monkeypatch.setattr("craft_trainer.models.lerobot.load_policy", lambda *_: pytest.fail("weights were loaded"))
    model = {"model": teacher, "use_cpu": True} if command == "train" else {"teacher": teacher}
    words = [*command.split(), *flags(dataset=data, output_dir=tmp_path / "out", **model)]
    assert main(words) == 1
    printed = capsys.readouterr().err
    assert not [words for words in said if words not in printed], printed


def test_names_that_a_checkpoint_changes_itself_are_known(teacher, tiny_dataset, tmp_path):
    """Seen to fail without what the saved preprocessor renames."""
    renamed = {"observation.joints": STATE}
    data = changed(tiny_dataset, tmp_path / "data", {}, {STATE: "observation.joints"})
    PolicyModel.from_pretrained(teacher, rename=renamed).save_pretrained(tmp_path / "saved")
    LoadArguments().require_fit(str(tmp_path / "saved"), [str(data)])
    LoadArguments(rename=renamed).require_fit(str(teacher), [str(data)])
    with pytest.raises(ValueError, match=f"{STATE} is missing"):
        LoadArguments().require_fit(str(teacher), [str(data)])


def test_a_name_that_nobody_reads_is_refused_where_there_is_no_dataset(
    teacher, tiny_dataset, tmp_path, monkeypatch, capsys
):
    """Seen to fail: sources without a dataset, `cache relabel`, `cache verify` and `record` took any name."""
    built = {"teacher": teacher, "dataset": tiny_dataset, "output_dir": tmp_path / "cache", "anchors": 10}
    assert main(["cache", "build", *flags(**built)]) == 0
    monkeypatch.setattr("craft_trainer.models.lerobot.load_policy", lambda *_: pytest.fail("weights were loaded"))
    places = {"cache": tmp_path / "cache", "output_dir": tmp_path / "out", "teacher": teacher}
    for words, given in (
        ("cache build --source statistics", {"output_dir", "teacher"}),
        ("cache build --source rollouts --tasks push-v3", {"output_dir", "teacher"}),
        ("cache relabel", {"cache", "output_dir", "teacher"}),
        ("cache verify", {"cache", "teacher"}),
        (f"record --policy {teacher} --env pusht", {"output_dir"}),
    ):
        rename = json.dumps({"observation.joint": "observation.joints"})
        assert main([*words.split(), *flags(rename=rename, **{name: places[name] for name in given})]) == 1
        said = f"'observation.joint' becomes 'observation.joints', which nobody reads: name one of {STATE}"
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("command", ["train", "cache build"])
@pytest.mark.parametrize(
    ("rename", "said"),
    [
        ({"observation.jiont": "observation.joint"}, ["has no 'observation.jiont': name one of action, ", STATE]),
        (
            {STATE: "observation.joints"},
            [f"{STATE!r} becomes 'observation.joints', which nobody reads: name one of {STATE}"],
        ),
    ],
)
def test_a_name_that_changes_nothing_is_refused(command, rename, said, teacher, tiny_dataset, tmp_path, capsys):
    """Seen to fail: the run went on with the names that there are."""
    model = {"model": teacher, "use_cpu": True, "max_steps": 1} if command == "train" else {"teacher": teacher}
    given = flags(dataset=tiny_dataset, output_dir=tmp_path / "out", rename=json.dumps(rename), **model)
    assert main([*command.split(), *given]) == 1
    printed = capsys.readouterr().err
    assert not [words for words in said if words not in printed], printed
    assert not (tmp_path / "out").exists()
