"""Options are described without the classes that take seconds to import, as the classes themselves would be."""

import argparse
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from craft_trainer.cli import described
from craft_trainer.cli.described import FILE, HOMES, as_file, loaded, options_of
from craft_trainer.cli.main import COMMANDS, GROUPS

HEAVY = ["torch", "transformers", "peft", "sklearn", "datasets", "lerobot", "pandas", "scipy", "accelerate"]
QUICK = {  # a command line → its exit status
    "train --help": 0,
    "train --help all": 0,
    "train --retntion 1": 2,
    "train --config nowhere.yaml": 1,
    "train --config unknown.yaml": 1,
    "train --model nowhere/at/all --dataset org/data": 1,
    "report --help": 0,
    "report --run nowhere": 1,
    "cache --help": 0,
    "cache build --help": 0,
    "cache info --help": 0,
    "cache info --cache nowhere": 1,
    "merge --help": 0,
    "mcq --help": 0,
    "mcq --model a/b --data nowhere.jsonl": 1,
    "rollout --policy nowhere --tasks push-v3": 1,
    "dryrun --help": 0,
}
KINDS: list[tuple[str, Any]] = [
    (name, kind)
    for name in [*(name for name in COMMANDS if name not in GROUPS), *(f"cache_{verb}" for verb in GROUPS["cache"][2])]
    for kind in list(
        inspect.get_annotations(importlib.import_module(f"craft_trainer.cli.{name}".replace("-", "_")).run).values()
    )[:-1]
]


def test_the_file_describes_the_classes_as_they_are() -> None:
    assert FILE.read_text("utf-8") == as_file(), "run `python scripts/settings.py`"


@pytest.mark.parametrize("name", HOMES)
def test_with_another_transformers_the_class_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer one has other options. Seen to fail with the file read whatever its version."""
    (tmp_path / "described.json").write_text(json.dumps({"transformers": "1.0", name: []}))
    monkeypatch.setattr(described, "FILE", tmp_path / "described.json")
    assert options_of(name) == options_of(loaded(name)) != []


@pytest.mark.parametrize("line", QUICK)
def test_nothing_heavy_is_imported_to_answer(line: str, tmp_path: Path) -> None:
    """Seen to fail: seven seconds of transformers, PEFT and scikit-learn for every one of them."""
    (tmp_path / "unknown.yaml").write_text("epsilonn: 1\n")
    code = (
        "import sys\nfrom craft_trainer.cli.main import main\ntry:\n    status = main(sys.argv[1:])\n"
        f"except SystemExit as end:\n    status = end.code\nprint([name for name in {HEAVY} if name in sys.modules])\n"
        "sys.exit(status)"
    )
    asked = [sys.executable, "-c", code, *line.split()]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (QUICK[line], "[]"), done.stderr


@pytest.mark.parametrize(("name", "kind"), [pair for pair in KINDS if pair[1] is not None], ids=str)
def test_options_are_those_of_transformers_own_parser(name: str, kind: Any) -> None:
    """HfArgumentParser reads the same classes. Seen to fail without the choices of log_level."""
    ours, theirs = argparse.ArgumentParser(), HfArgumentParser(loaded(kind))
    for one in options_of(kind):
        one.add_to(ours)
    assert told(ours) == told(theirs)


def told(parser: argparse.ArgumentParser) -> dict[tuple[str, ...], Any]:
    """What argparse was told of every option, but for those that transformers cannot fill from words."""
    unlike = ("help", "report_to", "debug", "parallelism_config")
    return {
        tuple(action.option_strings): (
            action.dest,
            action.nargs,
            action.const,
            getattr(action.default, "value", action.default),
            action.required,
            action.choices and list(action.choices),
            action.help,
        )
        for action in parser._actions
        if action.dest not in unlike
    }
