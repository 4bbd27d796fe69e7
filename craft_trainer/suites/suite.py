"""A suite: streams, seeds, methods and budgets, and the commands that make a cell of each combination."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any]

KEYS = ("streams", "seeds", "budgets", "blocks", "commands", "evaluations", "methods")
OPTIONAL = ("budgets", "blocks")
OF_A_METHOD = ("label", "streams", "seeds", "budgets")  # beside the commands that it changes
AXES = ("stream", "seed", "budget", "item", "before")
EVALUATES = ("rollout", "mcq", "loss", "train")
NAME = r"[\w-]+"  # of a suite, a stream and a method, as the comment of a page writes them


@dataclass(frozen=True)
class Cell:
    """One method on one stream with one seed; ``budget`` is None where the method has none."""

    stream: str
    method: str
    budget: int | None
    seed: int

    @property
    def variant(self) -> str:
        """Method and budget in one word."""
        return self.method if self.budget is None else f"{self.method}-{self.budget}"

    @property
    def name(self) -> str:
        """Unique within a suite, and the place of its raw file."""
        return f"{self.stream}/{self.variant}/seed{self.seed}"


@dataclass(frozen=True)
class Suite:
    """A suite as its YAML file describes it.

    Attributes:
        name: its own.
        streams: what each stream is: keys of its own, which commands refer to.
        seeds: of every method that does not say others.
        commands: by label: ``run``, ``each``, and the options.
        evaluations: labels of the commands whose results are kept.
        methods: by name: what each changes in which command.
        budgets: of every method whose commands refer to {budget} and that does not say others.
    """

    name: str
    streams: Mapping[str, Settings]
    seeds: Sequence[int]
    commands: Mapping[str, Settings]
    evaluations: Sequence[str]
    methods: Mapping[str, Settings]
    budgets: Sequence[int] = ()

    @classmethod
    def of(cls, name: str, content: Settings) -> "Suite":
        """Check the ``content`` of a file; ``blocks`` is a place for YAML anchors, and says nothing by itself.

        Raises:
            ValueError: a key is missing, unknown or empty, or names what is not there.
        """
        require_name(f"the suite {name!r}", name)
        known(name, content, KEYS)
        missing = [key for key in KEYS if key not in (*content, *OPTIONAL)]
        if missing:
            raise ValueError(f"{name}: {', '.join(missing)} missing")
        suite = cls(name, **{key: value for key, value in content.items() if key != "blocks"})
        for key in ("streams", "commands", "methods"):
            entries = getattr(suite, key)
            if not isinstance(entries, dict) or not entries:
                raise ValueError(f"{name}: {key} is {entries!r}: expected at least one, with `key: value` lines")
            for entry, value in entries.items():
                settings(f"{name}: {key}: {entry}", value)
        for key in {"seeds", "budgets"} & content.keys():
            whole_numbers(f"{name}: {key}", content[key])
        suite._check_streams()
        suite._check_commands()
        suite._check_methods()
        return suite

    def _check_streams(self) -> None:
        for stream, keys in self.streams.items():
            require_name(f"{self.name}: streams: {stream!r}", stream)
            for key in keys:
                if key in AXES:
                    raise ValueError(f"{self.name}: streams: {stream}: {{{key}}} has a meaning already: rename the key")

    def _check_commands(self) -> None:
        for label, command in self.commands.items():
            if "run" not in command:
                raise ValueError(f"{self.name}: commands: {label} does not say what to run, e.g. run: train")
            for stream, keys in self.streams.items():
                if label in (*keys, *AXES):
                    raise ValueError(f"{self.name}: commands: {label} is also a key of streams: {stream}: rename one")
        filled_list(f"{self.name}: evaluations", self.evaluations)
        known(f"{self.name}: evaluations", self.evaluations, self.commands)
        for label in self.evaluations:
            if self.commands[label]["run"] not in EVALUATES:
                raise ValueError(f"{self.name}: evaluations: {label} runs none of {', '.join(EVALUATES)}")

    def _check_methods(self) -> None:
        for method, changes in self.methods.items():
            place = f"{self.name}: methods: {method}"
            require_name(f"{self.name}: methods: {method!r}", method)
            known(place, changes, [*OF_A_METHOD, *self.commands])
            label = changes.get("label", method)
            if not isinstance(label, str) or not label:
                raise ValueError(f"{place}: label is {label!r}: expected a text, in quotation marks if it is a number")
            for key in {"seeds", "budgets"} & changes.keys():
                whole_numbers(f"{place}: {key}", changes[key])
            if "streams" in changes:
                filled_list(f"{place}: streams", changes["streams"])
                known(f"{place}: streams", changes["streams"], self.streams)
            for label in self.commands.keys() & changes.keys():
                settings(f"{place}: {label}", changes[label])
                if "each" in changes[label]:
                    raise ValueError(f"{place}: {label}: each: a method cannot change it, so write another command")


def known(place: str, names: Iterable[str], among: Iterable[str]) -> None:
    """Refuse, by a ValueError, the first of ``names`` that is not ``among`` those that there are."""
    listed = list(among)
    for name in names:
        if name not in listed:
            raise ValueError(f"{place}: {name!r} is none of {', '.join(listed)}")


def require_name(place: str, name: Any) -> None:
    """Refuse, by a ValueError, what a comment of a page could not name."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ValueError(
            f"{place} is no name: expected letters, digits, _ and -, in quotation marks if YAML takes it for a number "
            "or a truth value"
        )


def settings(place: str, value: Any) -> None:
    """Refuse, by a ValueError, what is no mapping."""
    if not isinstance(value, dict):
        raise ValueError(f"{place} is {value!r}: expected `key: value` lines")


def filled_list(place: str, values: Any) -> None:
    """Refuse, by a ValueError, what is no list, or has nothing in it."""
    if not isinstance(values, list) or not values:
        raise ValueError(f"{place} is {values!r}: expected a list of at least one")


def whole_numbers(place: str, values: Any) -> None:
    """Refuse, by a ValueError, what is no list of whole numbers from 0 on, is empty, or has one of them twice."""
    filled_list(place, values)
    if not all(type(value) is int and value >= 0 for value in values) or len(set(values)) < len(values):
        raise ValueError(f"{place} is {values!r}: expected a list of whole numbers from 0 on, none twice")
