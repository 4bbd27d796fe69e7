"""Hints for a word that was not understood."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """Name the nearest of ``known`` in a hint, or give none."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f": did you mean {matches[0]!r}?" if matches else ""
