"""Hints for a word that was not understood, and errors that several commands share."""

import difflib
from collections.abc import Container, Iterable
from pathlib import Path

MERGE = (
    "one dataset is read. Merge those of LeRobot first: lerobot-edit-dataset --new_repo_id local/both --new_root both "
    """--operation.type merge --operation.repo_ids "['local/a', 'local/b']" --operation.roots "['a', 'b']"; texts """
    "are merged by writing their rows into one file"
)
ONE_DIAL = (
    "retention {:g} and epsilon {:g} are one dial, epsilon = 1 − retention: give one of them (null unsets that of a "
    "file)"
)


def nearest(word: str, known: Iterable[str]) -> str:
    """Name the nearest of ``known`` in a hint, or give none."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f": did you mean {matches[0]!r}?" if matches else ""


def of_the_original(word: str) -> str:
    """Say what an option of the original project is called here; nothing if ``word`` is none of its options."""
    import yaml

    table = yaml.safe_load(Path(__file__).with_name("original_names.yaml").read_text("utf-8"))
    instead = table.get(word.removeprefix("--").partition("=")[0])
    return f": it is an option of the original project. Here: {instead} (docs/migration.md)" if instead else ""


def of_a_loose_word(word: str, known: Container[str], example: str) -> str:
    """Say why a ``word`` that stands alone is not understood, and what to do if it is a second dataset."""
    if word.startswith("-"):
        return ""
    return ": it belongs to no option. " + (
        f"Of several datasets, {MERGE}" if "--dataset" in known else f"Try: {example}"
    )
