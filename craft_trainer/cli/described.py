"""Describe a dataclass for the command line, read from the class, or from a file where importing it takes seconds.

``described.json`` is written by ``python scripts/settings.py``; a test compares it with the classes.
"""

import argparse
import dataclasses
import importlib
import json
import math
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from craft_trainer.options import default_of

FILE = Path(__file__).with_suffix(".json")
HOMES = {  # names of the classes in the file → where they are
    "CraftConfig": "craft_trainer.training.config",
    "TrainConfig": "craft_trainer.cli.train_config",
}
TRAINERS = "HuggingFace's TrainingArguments"
SEVERAL = ("report_to",)  # one or a list: given as several words
YES, NO = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


def truth(word: str) -> bool:
    """Read yes or no."""
    if word.lower() in YES + NO:
        return word.lower() in YES
    raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")


def number(word: str) -> float:
    """Read a number; not NaN, which no comparison with a bound refuses, and not infinity, which passes half of them."""
    value = float(word)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{word} is not a finite number")
    return value


def mapping(word: str) -> str:
    """A mapping as JSON, or what else its option takes as text; it is read where it is used."""
    return word


TYPES: dict[str, Any] = {"bool": truth, "int": int, "float": number, "str": str, "dict": dict, "mapping": mapping}
MAPPINGS = (dict, mapping)  # a YAML file may give these as mappings


class Option(NamedTuple):
    """One option of a command line.

    Attributes:
        type: of one value, a key of ``TYPES``.
        several: whether it takes several words.
        heading: what it is listed below.
    """

    name: str
    type: str
    default: Any = None
    required: bool = False
    several: bool = False
    choices: list[str] | None = None
    heading: str | None = None
    help: str | None = None

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add it to a ``parser``; one that is true by default with a second, ``--no_name``, which makes it false."""
        is_theirs = self.type == "float" and self.heading == TRAINERS  # max_grad_norm may be inf
        given: dict[str, Any] = {"type": float if is_theirs else TYPES[self.type], "help": self.help}
        given |= {"required": True} if self.required else {"default": self.default}
        if self.several:
            given["nargs"] = "+"
        elif self.type == "bool" and self.default is not None:
            given |= {"nargs": "?", "const": True}
        if self.choices is not None:
            given["choices"] = self.choices
        parser.add_argument(*_flags("--", self.name), **given)
        if self.default is True:
            off: dict[str, Any] = {"action": "store_false", "dest": self.name, "default": False, "help": self.help}
            parser.add_argument(*_flags("--no_", self.name), **off)


def _flags(beginning: str, name: str) -> list[str]:
    flag = beginning + name
    return list(dict.fromkeys([flag, "--" + flag[2:].replace("_", "-")]))


def options_of(kind: type | str) -> list[Option]:
    """Describe every field of a dataclass that words can give, heading by heading; or of one in the file, by its name.

    The file is of one version of transformers; with another the class itself is read.
    """
    if isinstance(kind, str):
        table = json.loads(FILE.read_text("utf-8"))
        if table["transformers"] == version("transformers"):
            return [Option(**option) for option in table[kind]]
        kind = loaded(kind)
    hints, below = get_type_hints(kind), headings(kind)
    order = [None, *dict.fromkeys(below.values())]
    options = [_option(field, hints[field.name], below) for field in dataclasses.fields(kind) if field.init]
    known = [option for option in options if option is not None]
    return sorted(known, key=lambda option: order.index(option.heading))  # below its heading in the order of the class


def loaded(kind: type | str) -> type:
    """Import the class that a name of the file stands for."""
    return getattr(importlib.import_module(HOMES[kind]), kind) if isinstance(kind, str) else kind


def headings(kind: type) -> dict[str, str]:
    """Find the heading of every field of the dataclass ``kind``: that of the first class that declares both."""
    found: dict[str, str] = {}
    for declaring in kind.__mro__:
        trainers = declaring.__module__ == "transformers.training_args"
        heading = TRAINERS if trainers else vars(declaring).get("heading")
        if heading is not None:
            found = found | {name: heading for name in declaring.__annotations__ if name not in found}
    return found


def _option(field: "dataclasses.Field[Any]", hint: Any, below: dict[str, str]) -> Option | None:
    """Describe one field; None if no words can give its value."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    parts = tuple(part for part in parts if part is not NoneType)
    listed = field.metadata.get("choices")
    choices = listed and list(listed)
    choices = next(([str(one.value) for one in part] for part in parts if _is_enum(part)), choices)
    lists = [part for part in parts if get_origin(part) is list]
    several = field.name in SEVERAL or (bool(lists) and str not in parts)
    kinds = [get_origin(part) or part for part in (get_args(lists[0]) if lists and str not in parts else parts)]
    named = [name for name, kind in (("bool", bool), ("str", str)) if kind in kinds]
    name = "str" if any(map(_is_enum, parts)) else next(iter(named), kinds[0].__name__)
    if name not in TYPES:
        return None
    name = "mapping" if name == "str" and dict in kinds else name
    default = default_of(field)
    plain = default.value if isinstance(default, Enum) else default
    required = plain is dataclasses.MISSING
    given: dict[str, Any] = {"several": several, "choices": choices, "heading": below.get(field.name)}
    return Option(field.name, name, None if required else plain, required, help=field.metadata.get("help"), **given)


def _is_enum(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, Enum)


def as_file() -> str:
    """Write the file: of every class in ``HOMES`` its options, without what is as in every other option."""
    usual = Option("", "")._asdict()
    table: dict[str, Any] = {"transformers": version("transformers")}
    for name in HOMES:
        options = [option._asdict().items() for option in options_of(loaded(name))]
        table[name] = [{key: value for key, value in option if value != usual[key]} for option in options]
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"
