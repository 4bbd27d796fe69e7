"""Arguments of a command: dataclasses, whose defaults a YAML file may set, filled from the command line."""

import argparse
import re
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from craft_trainer.cli.described import MAPPINGS, loaded, options_of
from craft_trainer.cli.hints import nearest, of_a_loose_word, of_the_original
from craft_trainer.cli.lerobot_names import hint_for_a_file, mappings, translated
from craft_trainer.cli.places import require_places
from craft_trainer.cli.resolved import document
from craft_trainer.cli.words import options_in, values_of, without_unset
from craft_trainer.cli.yaml_files import mapping_in

PRINT = ("--print-config", "--print_config")
ALL = "all"  # of --help: every option
OF_DATASETS = {  # options that name texts → what else a file says of them
    "dataset": ("dataset_config", "split", "columns"),
    "eval_dataset": ("eval_config", "eval_split"),
    "anchors_dataset": ("anchors_config", "anchors_split", "anchors_columns"),
}
NEGATIVE_NUMBERS = re.compile(r"-[\d.][\d.,eE+-]*$")


class Gathered(argparse.Action):
    """Puts the values of an option that comes several times (``--run A --run B``) behind one another."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, _option: str | None = None) -> None:
        """Replace the default at first."""
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


class Help(argparse.Action):
    """Prints the options of ``shown``, or with the word ``all`` every option, and ends the process."""

    def __call__(self, parser: Any, _namespace: Any, values: Any, _option: str | None = None) -> None:
        """Hide the others."""
        hidden = [] if values == ALL else [name for name in parser.options if parser.shown and name not in parser.shown]
        for action in parser._actions:
            if action.dest in hidden:
                action.help = argparse.SUPPRESS
        if hidden:
            more = f"{len(hidden)} more are for advanced use: `{parser.prog} --help all` explains them"
            parser.epilog = f"{more}. {parser.epilog}"
        parser.print_help()
        parser.exit()


class WithDefaults(argparse.HelpFormatter):
    """Writes the default of an option behind its help, as one would type it; none where the help says what happens."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told, default = action.help, action.default
        if action.required and told:
            return f"{told} (must be given)"
        if told is None or default is argparse.SUPPRESS or default is None or default == []:
            return told
        typed = " ".join(map(str, default)) if isinstance(default, list) else default
        shown = str(typed).lower() if isinstance(typed, bool) else str(typed)
        return f"{told} (default: {shown.replace('%', '%%')})"


class CommandParser(argparse.ArgumentParser):
    """The parser of a command. Its help lists options below the headings of their classes.

    Attributes:
        options: what fills each field, by its name.
        flags: the field of each flag.
        example: of a whole call.
        headings: the heading of each field that is below one.
        shown: the fields that help shows without ``all``; none for every field.
    """

    def __init__(self, kinds: Sequence[type | str], command: str, example: str, shown: Sequence[str] = ()) -> None:
        self.options: dict[str, argparse.Action] = {}
        self.flags: dict[str, str] = {}
        self.fields = [options_of(kind) for kind in kinds]
        self.headings = {one.name: one.heading for some in self.fields for one in some if one.heading is not None}
        self.shown = (*shown, "help", "config", "print_config") if shown else ()
        self.example = example
        self._below: dict[str, Any] = {}
        super().__init__(
            prog=f"craft-trainer {command}",
            usage="%(prog)s [--config FILE.yaml] [--key value ...]",
            epilog=f"example: {example}",
            formatter_class=WithDefaults,
            allow_abbrev=False,
            add_help=False,
        )
        asks = {"action": Help, "nargs": "?", "choices": (ALL,), "default": argparse.SUPPRESS}
        self.add_argument("-h", "--help", **asks, help="show this; with the word all every option")
        for one in (one for some in self.fields for one in some):
            one.add_to(self)
        self.add_argument("--config", type=Path, default=None, help="YAML file of these keys; a command line wins")
        self.add_argument(*PRINT, action="store_true", help="show every value and where it came from, and do nothing")
        self._negative_number_matcher = NEGATIVE_NUMBERS  # argparse's own takes -1,-2 and -5e-1 for options

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an option below the heading of its field, and remember it."""
        repeated: dict[str, Any] = {"action": Gathered} if settings.get("nargs") == "+" else {}
        heading = self.headings.get(settings.get("dest") or names[0].lstrip("-"))
        if heading is not None and not self._below:
            self._below = {one: self.add_argument_group(one) for one in dict.fromkeys(self.headings.values())}
        add = super().add_argument if heading is None else self._below[heading].add_argument
        action: argparse.Action = add(*names, **settings, **repeated)
        self.options.setdefault(action.dest, action)
        self.flags |= dict.fromkeys(action.option_strings, action.dest)
        return action

    def error(self, message: str) -> NoReturn:
        """End the process with status 2, without the 150 options of a training command before the message."""
        self.exit(2, f"{self.prog}: error: {message}\n(`{self.prog} --help` explains every option)\n")
        raise AssertionError  # for mypy: exit does not return

    def loose(self, argv: Sequence[str]) -> list[str]:
        """List the words of ``argv`` that belong to no option: before the first, and behind the value of another."""
        found: list[str] = []
        for name, words in options_in(argv):
            option = self.options.get(self.flags.get(f"--{name}", ""))
            if name is None or (option is not None and option.nargs != "+"):
                found += words if name is None else values_of(words)[1:]
        return found

    def refuse(self, words: Sequence[str]) -> None:
        """End the process for the first of ``words``, which are no options."""
        if words:
            word = words[0].partition("=")[0]
            hint = of_the_original(word) or nearest(word, self.flags) or of_a_loose_word(word, self.flags, self.example)
            self.error(f"no option {word}{hint}")


def parse_all(
    command: str,
    example: str,
    kinds: Sequence[type | str],
    argv: Sequence[str],
    *,
    shown: Sequence[str] = (),
    places: Sequence[str] = (),
) -> tuple[Any, ...]:
    """Fill the dataclasses ``kinds`` from ``argv``, on top of the YAML file that ``--config`` names.

    A name in ``kinds`` is one of ``described.json``: its class is imported when everything else was understood and
    something is at every one of the ``places`` that the first class names. ``--help`` explains the options ``shown``.

    Ends the process with status 2 and a message for an unknown or malformed option, as argparse does, and with status 0
    after ``--print-config`` has shown what they were filled with.

    Raises:
        ValueError: the YAML file has an unknown key, or a value is out of its range.
        FileNotFoundError: there is nothing at a place.
    """
    parser = CommandParser(kinds, command, example, shown)
    names = [[one.name for one in some] for some in parser.fields]
    file, in_file = _config_of(argv), {}
    if file is not None:
        in_file = read_yaml(file, command, {name: parser.options[name] for some in names for name in some})
    argv = translated(command, argv, ours=[flag.lstrip("-") for flag in parser.flags], in_file=in_file)
    named = [word.partition("=")[0] for word in argv if word.startswith("--")]
    given = {parser.flags[name] for name in named if name in parser.flags}
    argv, unset = without_unset(argv, {flag.lstrip("-"): parser.options[name] for flag, name in parser.flags.items()})
    others = {name: values_of(words) for name, words in options_in(argv) if name is not None}
    _leave_out_of_another(file, in_file, given, others)
    parser.set_defaults(**{name: value for name, value in in_file.items() if name not in unset})
    for name in in_file:
        parser.options[name].required = False
    parser.refuse([word for word in parser.loose(argv) if of_the_original(word)])
    parser.refuse([name for name in named if name not in parser.flags])  # before argparse asks for what is required
    namespace, unknown = parser.parse_known_args(argv)
    parser.refuse(unknown)
    filled: list[Any] = []
    for kind, some in zip(kinds, names, strict=True):
        filled.append(loaded(kind)(**{name: getattr(namespace, name) for name in some}))
        if not namespace.print_config:
            require_places(filled[0], places)
    if namespace.print_config:
        print(document(filled, vars(namespace), words=given, file=file, in_file=in_file))
        parser.exit()
    return tuple(filled)


def _leave_out_of_another(
    file: Path | None, in_file: dict[str, Any], given: Container[str], other: Mapping[str, Sequence[str]]
) -> None:
    """Take out of ``in_file`` what it says of a dataset of its own, where the command line names another; say so."""
    for name, told in OF_DATASETS.items():
        own, place = str(in_file.get(name)), "".join(other.get(name, ()))
        idle = [key for key in told if key in in_file and key not in given]
        if name in in_file and place and idle and place.partition("@")[0] != own.partition("@")[0]:
            of_them = f"{' and '.join(idle)} in {file} {'is' if len(idle) == 1 else 'are'}"
            print(f"{of_them} of {own}: left out for {place}", file=sys.stderr)
            for key in idle:
                del in_file[key]


def read_yaml(path: Path, command: str, options: Mapping[str, argparse.Action]) -> dict[str, Any]:
    """Read the values that a YAML file of ``command`` gives its ``options``, as a command line would give them.

    Raises:
        ValueError: it is not YAML or not a mapping, has an unknown key, or a value that its option does not take.
        FileNotFoundError: there is no such file.
    """
    if not path.exists() and path.parts[0] != "configs":
        raise FileNotFoundError(f"--config: there is no file {path}")
    if not path.exists():
        near = nearest(str(path), map(str, Path("configs").rglob("*.yaml")))
        raise FileNotFoundError(
            f"{path}: no such file here{near or ';'} `craft-trainer configs` writes the configurations of this version "
            "to ./configs"
        )
    values = _with_entries(path, mapping_in(path), command)
    for key in values:
        if key not in options:
            hint = hint_for_a_file(command, str(key)) or of_the_original(str(key)) or nearest(str(key), options)
            raise ValueError(f"{path}: unknown key {key!r}{hint}")
    try:
        return {key: _of_option(options[key], value) for key, value in values.items()}
    except argparse.ArgumentError as error:
        raise ValueError(f"{path}: {error}") from error


def _with_entries(path: Path, values: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Gather keys with a dot, like ``peft.r``, as entries of the mapping of ``command`` that they begin with.

    Raises:
        ValueError: the mapping is given as well.
    """
    gathered: dict[str, Any] = {}
    for key, value in values.items():
        mapping, _, entry = str(key).partition(".")
        if not entry or mapping not in mappings(command):
            gathered[key] = value
        elif mapping in values:
            raise ValueError(f"{path}: {key} beside {mapping}: give all of its entries in one of the two ways")
        else:
            gathered.setdefault(mapping, {})[entry] = value
    return gathered


def _of_option(option: argparse.Action, value: Any) -> Any:
    """Turn a ``value`` of YAML into what ``option`` makes of the same words; what no words can say stays as it is."""
    if value is None or (isinstance(value, dict) and option.type in MAPPINGS) or (value == [] and option.nargs == "+"):
        return value
    if option.nargs == "+":
        return [_of_word(option, item) for item in (value if isinstance(value, list) else [value])]
    return _of_word(option, value)


def _of_word(option: argparse.Action, value: Any) -> Any:
    """Turn one number, truth or text into the type of ``option``."""
    choices: Any = option.choices or ()
    kind: Any = option.type or str
    word = ("no", "yes")[value] if isinstance(value, bool) else ""  # YAML takes no for False, which may be a choice
    try:
        made = kind(word if word in choices else str(value))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentError(option, str(error)) from error
    except ValueError as error:
        raise argparse.ArgumentError(option, f"invalid {getattr(kind, '__name__', kind)} value: {value!r}") from error
    if isinstance(value, list | dict) or (choices and made not in choices):
        among = f"one of {', '.join(map(str, choices))}" if choices else "one value"
        raise argparse.ArgumentError(option, f"{value!r} is not {among}")
    return made


def _config_of(argv: Sequence[str]) -> Path | None:
    """Find the file that ``--config`` names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    path: Path | None = parser.parse_known_args(argv)[0].config
    return path
