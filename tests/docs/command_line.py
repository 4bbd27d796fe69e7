"""Commands as the documentation has them, read by the parsers that would read them, without doing anything."""

import importlib
import re
import tomllib

import pytest
from accelerate.commands.launch import launch_command_parser
from pages import ROOT

from craft_trainer.cli import arguments as arguments_module
from craft_trainer.cli.arguments import parse_all
from craft_trainer.cli.described import options_of
from craft_trainer.cli.main import main

OTHER_PROGRAMS = {"source", "cd", "git", "mkdocs", "pre-commit", "ruff", "mypy", "lint-imports", "python"}
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


LEROBOT = {
    "lerobot-train": "lerobot.configs.train:TrainPipelineConfig",
    "lerobot-eval": "lerobot.configs.eval:EvalPipelineConfig",
    "lerobot-edit-dataset": "lerobot.scripts.lerobot_edit_dataset:EditDatasetConfig",
}


class ParsedError(Exception):
    """A command's arguments were understood; holds them. Raised in place of the work."""


def parsed(words, monkeypatch, capsys):
    """Let `craft-trainer WORDS` come as far as its work; fails the test if it would not get so far."""

    def parse_and_end(*arguments, shown=(), places=()):
        raise ParsedError(parse_all(*arguments, shown=shown))  # its places need not be there

    with monkeypatch.context() as patched:
        patched.chdir(ROOT)  # configurations are named from there
        patched.setattr(arguments_module, "parse_all", parse_and_end)
        try:
            status = main(words)
        except ParsedError:
            return
        except SystemExit as refused:
            status = refused.code
    help_is_shown = status == 0
    if not help_is_shown:
        pytest.fail(f"craft-trainer {' '.join(words)}: {capsys.readouterr().err}")


def check(words, monkeypatch, capsys):
    """One command of the documentation; fails the test if there is anything in it that does not exist."""
    program, *rest = words
    if program == "craft-trainer":
        parsed(rest, monkeypatch, capsys)
    elif words[:3] == ["python", "-m", "craft_trainer"]:
        parsed(words[3:], monkeypatch, capsys)
    elif program == "accelerate":
        launched = launch_command_parser().parse_args(rest[1:])
        assert (rest[0], launched.module, launched.training_script) == ("launch", True, "craft_trainer"), words
        parsed(launched.training_script_args, monkeypatch, capsys)
    elif program == "bash":
        _check_script(rest, monkeypatch, capsys)
    elif program == "pip":
        asked = re.findall(r"\[(.*?)\]", " ".join(rest))
        assert {extra for extras in asked for extra in extras.split(",")} <= EXTRAS, words
    elif program in LEROBOT:
        _check_lerobot(program, rest)
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), words
    else:
        assert program in OTHER_PROGRAMS, f"{program!r} is no program of this documentation: {words}"


def _check_lerobot(program, words):
    """LeRobot's own parser of its own configuration; of a checkpoint only that it is named."""
    draccus = pytest.importorskip("draccus")
    importlib.import_module("lerobot.policies.factory")  # where the types of policies become known
    module, name = LEROBOT[program].split(":")
    kind = getattr(importlib.import_module(module), name)
    if any(word.startswith("--policy.path=") for word in words):
        words = [word for word in words if not word.startswith("--policy.")]
    assert all(word.startswith("--") and "=" in word for word in words), words
    draccus.parse(config_class=kind, args=words)


def _check_script(words, monkeypatch, capsys):
    """A script exists, and the command at its end takes the words that are handed on to it."""
    path = ROOT / words[0]
    assert path.is_file(), words
    ends = re.search(r"-m craft_trainer (.*)\"\$@\"", path.read_text())
    if ends:
        parsed([*ends[1].split(), *words[1:]], monkeypatch, capsys)


def options(command, monkeypatch):
    """Names of the options of `train`, `cache build`, …"""

    def name(command, example, kinds, argv, **told):
        raise ParsedError({one.name for kind in kinds for one in options_of(kind)} | {"config"})

    with monkeypatch.context() as patched:
        patched.setattr(arguments_module, "parse_all", name)
        with pytest.raises(ParsedError) as found:
            main(command.split())
    return found.value.args[0]
