"""Arguments of a command: dataclasses, filled from a YAML file first and the command line second."""

import dataclasses
import json
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from craft_trainer.cli.hints import nearest
from craft_trainer.cli.lerobot_names import hint_for_a_file, translated
from craft_trainer.cli.resolved import document

Values = dict[str, Any]
PRINT = ("--print-config", "--print_config")
SEVERAL = ("report_to",)  # TrainingArguments takes one or a list, which its parser does not know
NEGATIVE_NUMBERS = re.compile(r"-[\d.][\d.,eE+-]*$")


class CommandParser(HfArgumentParser):  # type: ignore[misc]  # transformers is not typed
    """Says what is wrong without the 150 options of a training command before it."""

    def error(self, message: str) -> NoReturn:
        """End the process with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n(`{self.prog} --help` explains every option)\n")
        raise AssertionError  # for mypy: exit does not return


def option(help_text: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field with its help text; a list is its own default factory."""
    metadata = {"help": help_text.replace("%", "%%")}  # argparse formats help texts
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse[Arguments](command: str, example: str, kind: type[Arguments], argv: Sequence[str]) -> Arguments:
    """Fill the dataclass ``kind`` from ``argv``, on top of the YAML file that ``--config`` names.

    Ends the process with status 2 and a message for an unknown or malformed option, as argparse does.

    Raises:
        ValueError: the YAML file has an unknown key, or a value is out of its range.
    """
    (arguments,) = parse_all(command, example, [kind], argv)
    filled: Arguments = arguments
    return filled


def parse_all(command: str, example: str, kinds: Sequence[type], argv: Sequence[str]) -> tuple[Any, ...]:
    """Fill several dataclasses at once; keys are looked up in all of them.

    ``--print-config`` ends the process with status 0 after it has shown what they were filled with.
    """
    parser = _parser(command, example, kinds)
    argv = translated(command, argv, ours=[name.lstrip("-") for name in parser._option_string_actions])
    config, _ = _config_parser().parse_known_args(argv)
    words: list[str] = []
    values: Values = {}
    if config.config is not None:
        known = [field.name for kind in kinds for field in dataclasses.fields(kind)]
        choices = {action.dest: action.choices or () for action in parser._actions}
        values = {
            key: _as_written(value, choices.get(key, ()))
            for key, value in read_yaml(config.config, command, known).items()
        }
        words = command_words({key: value for key, value in values.items() if not _has_no_words(value)})
        parser.set_defaults(**{key: value for key, value in values.items() if _has_no_words(value)})
    flags = [name for action in parser._actions for name in action.option_strings]
    named = [word.split("=", maxsplit=1)[0] for word in argv if word.startswith("--")]
    _refuse(parser, [name for name in named if name not in flags], flags)  # before argparse asks for what is required
    namespace, unknown = parser.parse_known_args([*words, *argv])
    _refuse(parser, unknown, flags)
    filled = tuple(
        kind(**{field.name: getattr(namespace, field.name) for field in dataclasses.fields(kind) if field.init})
        for kind in kinds
    )
    if namespace.print_config:
        given = {action.dest for action in parser._actions if not {*action.option_strings}.isdisjoint(named)}
        print(document(filled, vars(namespace), words=given, file=config.config, in_file=values))
        parser.exit()
    return filled


def _parser(command: str, example: str, kinds: Sequence[type]) -> CommandParser:
    parser = CommandParser(kinds, prog=f"craft-trainer {command}", epilog=f"example: {example}", allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=None, help="YAML file of the keys above; the rest overrides it")
    parser.add_argument(*PRINT, action="store_true", help="show every value and where it came from, and do nothing")
    parser._negative_number_matcher = NEGATIVE_NUMBERS  # argparse's own takes -1,-2 and -5e-1 for options
    for action in parser._actions:
        if action.dest in SEVERAL:
            action.nargs = "+"
    return parser


def _refuse(parser: Any, unknown: Sequence[str], flags: Sequence[str]) -> None:
    if unknown:
        parser.error(f"no option {unknown[0]}{nearest(unknown[0], flags)}")


def command_words(values: Mapping[str, Any]) -> list[str]:
    """The command line that says the same as ``values``, so that argparse gives both the same types."""
    words: list[str] = []
    for key, value in values.items():
        if isinstance(value, list):
            words += [f"--{key}", *map(str, value)]
        else:
            words.append(f"--{key}={value}")
    return words


def _as_written(value: Any, choices: Container[str]) -> Any:
    """YAML takes ``no`` for False, which is one of the choices of ``save_strategy``."""
    word = ("no", "yes")[value] if isinstance(value, bool) else None
    return word if word in choices else value


def _has_no_words(value: Any) -> bool:
    """Whether a command line cannot say ``value``."""
    return value is None or value == [] or isinstance(value, dict)


def read_yaml(path: Path, command: str, known: Sequence[str]) -> Values:
    """The mapping in a YAML file of ``command``.

    Raises:
        ValueError: it is not YAML, not a mapping, or has a key that is not ``known``.
        FileNotFoundError: there is no such file.
    """
    if not path.exists() and path.parts[0] == "configs":
        near = nearest(str(path), map(str, Path("configs").rglob("*.yaml")))
        raise FileNotFoundError(
            f"{path}: no such file here{near or ';'} `craft-trainer configs` writes the configurations of this version "
            "to ./configs"
        )
    try:
        values = yaml.safe_load(path.read_text("utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected `key: value` lines, found a {type(values).__name__}")
    for key in values:
        if key not in known:
            hint = hint_for_a_file(command, str(key)) or nearest(str(key), known)
            raise ValueError(f"{path}: unknown key {key!r}{hint}")
    return values


def split_list(values: Sequence[Any]) -> list[str]:
    """Items of a list option, which may be given as words, as one comma-separated word, or in YAML."""
    return [item for value in values for item in str(value).split(",") if item]


def json_mapping(name: str, value: dict[str, Any] | str | None) -> dict[str, Any]:
    """A mapping option: from YAML as it is, from the command line as JSON.

    Raises:
        ValueError: it is not a JSON object.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} is not JSON ({error}): give it as '{{\"key\": value}}'") from error
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object, like '{{\"key\": value}}'")
    return value or {}


def pairs_or_json(name: str, value: dict[str, Any] | str | None) -> dict[str, str]:
    """``text=content,group=topic`` or JSON as a mapping.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        return json_mapping(name, value)
    pairs = [part.split("=", 1) for part in value.split(",") if part]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{name} is {value!r}: give it as OURS=THEIRS,OURS=THEIRS")
    return {ours.strip(): theirs.strip() for ours, theirs in pairs}


def _config_parser() -> Any:
    parser = HfArgumentParser([], add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=None)
    return parser
