"""Check that what a command reads is there, and that it may write, before the imports that loading takes."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from craft_trainer.anchors.provenance import AUTO
from craft_trainer.cli.hints import MERGE
from craft_trainer.hub.resolve_path import parse

ADAPTER = "adapter"  # anchors whose teacher is the model without its adapter
OUTPUTS = ("output_dir", "output", "json")
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


def require_writable(arguments: Any) -> None:
    """Make sure that the options of ``arguments`` that name an output name one that can be written.

    Raises:
        PermissionError: a folder is not writable; it is named.
    """
    if getattr(arguments, "dry_run", False):
        return
    for name in OUTPUTS:
        place = getattr(arguments, name, None)
        if not isinstance(place, str) or "://" in place:
            continue
        path = Path(place)
        folder = next(one for one in (path, *path.absolute().parents) if one.is_dir())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(
                f"--{name} {place}: you may not write into the folder {folder}. Choose another output, or have the "
                "rights of that folder changed"
            )
