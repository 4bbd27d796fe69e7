"""Check that what a command reads is there, and that it may write, before the imports that loading takes."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from craft_trainer.anchors.provenance import AUTO
from craft_trainer.cli.hints import MERGE
from craft_trainer.hub.resolve_path import parse

ADAPTER = "adapter"  # anchors whose teacher is the model without its adapter
JSON = "json"  # an option of benchmarks
OUTPUTS = ("output_dir", "output", JSON)
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


def require_writable(arguments: Any, files: Collection[str] = ()) -> None:
    """Make sure that the options of ``arguments`` that name an output name one that can be written.

    Those in ``files``, and ``json``, name one file, the others a folder.

    Raises:
        IsADirectoryError: there is a folder where a file is to be.
        NotADirectoryError: there is a file where a folder is to be.
        PermissionError: a folder is not writable; it is named.
    """
    if getattr(arguments, "dry_run", False):
        return
    for name in OUTPUTS:
        place = getattr(arguments, name, None)
        if not isinstance(place, str) or "://" in place:
            continue
        path = Path(place)
        if name in (*files, JSON) and (path.is_dir() or place.endswith(("/", os.sep))):
            raise IsADirectoryError(f"--{name} {place} is a folder, and one file is written: name a file in it")
        above = next(one for one in path.absolute().parents if one.exists())
        if not above.is_dir():
            raise NotADirectoryError(f"--{name} {place}: {above} is a file, and no folder. Choose another output")
        folder = path if path.is_dir() else above
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(
                f"--{name} {place}: you may not write into the folder {folder}. Choose another output, or have the "
                "rights of that folder changed"
            )
