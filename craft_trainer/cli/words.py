"""The words of a command line, option by option."""

import argparse
from collections.abc import Mapping, Sequence

type Words = list[str]

UNSET = "null"


def options_in(argv: Sequence[str]) -> list[tuple[str | None, Words]]:
    """List every option's name, with its words as they stand; None for words before the first option."""
    found: list[tuple[str | None, Words]] = []
    for word in argv:
        if word.startswith("--"):
            found.append((word.removeprefix("--").partition("=")[0], [word]))
        elif found:
            found[-1][1].append(word)
        else:
            found.append((None, [word]))
    return found


def printable(text: str) -> str:
    """``text`` of a stranger's file on one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def values_of(option: Words) -> Words:
    """Find the values in the words of one option, ``--name=value`` or ``--name value``."""
    _, given, value = option[0].partition("=")
    return [*([value] if given else []), *option[1:]]


def without_unset(argv: Sequence[str], known: Mapping[str, argparse.Action]) -> tuple[Words, set[str]]:
    """Take options out of ``argv`` whose last value is ``null``; with their fields, whose defaults hold instead.

    An empty value is the same for an option that is None by default. ``known`` are all options, by their flags without
    dashes.

    Raises:
        ValueError: one of them is required.
    """
    options = [(known.get(name or ""), words) for name, words in options_in(argv)]
    last = {option.dest: _unsets(option, words) for option, words in options if option is not None}
    unset = {field for field, is_unset in last.items() if is_unset}
    kept = [
        words for option, words in options if option is None or not (option.dest in unset or _unsets(option, words))
    ]
    return [word for words in kept for word in words], unset


def _unsets(option: argparse.Action, words: Words) -> bool:
    values = values_of(words)
    if option.required and values == [UNSET]:
        raise ValueError(f"--{option.dest} {UNSET}: it is required, so it cannot be unset: give a value")
    return values == [UNSET] or (values == [""] and option.default is None and not option.required)
