"""Commands end with lines that say which command comes next: their own parsers read them."""

import re
import shlex

import pytest
from command_line import check

from craft_trainer.cli.main import main


def succeeds(*words):
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def places(tiny_policy, tiny_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("next")
    tiny_policy().save_pretrained(folder / "teacher")
    return folder, tiny_dataset


def check_next(said, expected, monkeypatch, capsys):
    commands = re.findall(r"^(?:next:|or:  ) (.*)$", said, re.MULTILINE)
    assert [command.split(" --")[0] for command in commands] == expected
    for command in commands:
        check(shlex.split(command), monkeypatch, capsys)


def test_commands_name_the_next_ones(places, monkeypatch, capsys):
    """Seen to fail with an option misspelt in one of them."""
    folder, data = places
    anchors = ("--teacher", folder / "teacher", "--dataset", data, "--output_dir", folder / "anchors", "--anchors", 8)
    succeeds("cache", "build", *anchors)
    check_next(capsys.readouterr().out, ["craft-trainer train"], monkeypatch, capsys)
    training = ("--model", folder / "teacher", "--dataset", data, "--output_dir", folder / "craft", "--max_steps", 2)
    usual = ("--report_to", "none", "--use_cpu", "true", "--save_strategy", "no", "--dataloader_pin_memory", "false")
    succeeds("train", *training, *usual)
    said = capsys.readouterr()
    check_next(said.out, ["craft-trainer rollout", "craft-trainer report"], monkeypatch, capsys)
    assert "it/s" not in said.err, "a progress bar where nobody watches it"
