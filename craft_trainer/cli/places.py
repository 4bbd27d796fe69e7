"""Check that the files a command names are there, before the imports that loading takes."""

from collections.abc import Iterable
from typing import Any

from craft_trainer.anchors.provenance import AUTO
from craft_trainer.cli.hints import MERGE
from craft_trainer.hub.resolve_path import parse

ADAPTER = "adapter"  # anchors whose teacher is the model without its adapter
NO_PLACES = (AUTO, ADAPTER)  # of anchors


def require_places(arguments: Any, names: Iterable[str]) -> None:
    """Make sure that there is a file, a folder or the name of a Hub repository for each option in ``names``.

    Raises:
        FileNotFoundError: one is mistyped, or names several.
    """
    for name in names:
        place = getattr(arguments, name)
        if place is None or "://" in place or place in NO_PLACES:
            continue
        try:
            parse(place)
        except FileNotFoundError as error:
            several = f". Of several, {MERGE}" if "," in place else ""
            raise FileNotFoundError(f"--{name}: {error}{several}") from error
