"""Commands end with a line that says which command comes next: their own parsers read it."""

import re
import shlex

import pytest
from command_line import check

from craft_trainer.cli.main import main


@pytest.fixture
def said(tiny_policy, tiny_dataset, tmp_path, capsys):
    """What building a cache prints."""
    tiny_policy().save_pretrained(tmp_path / "teacher")
    words = ["--teacher", tmp_path / "teacher", "--dataset", tiny_dataset, "--output_dir", tmp_path / "anchors"]
    assert main(["cache", "build", "--anchors", "8", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_the_next_command_of_a_cache_is_one(said, monkeypatch, capsys):
    """Seen to fail with an option misspelt."""
    (command,) = re.findall(r"^next: (.*)$", said, re.MULTILINE)
    check(shlex.split(command), monkeypatch, capsys)
    assert "--anchors" in command
