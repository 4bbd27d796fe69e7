"""Where a model or dataset is: a local folder, or a repository of the Hub."""

import re
from pathlib import Path

REPOSITORY_ID = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(place: str | Path) -> Path | None:
    """The folder at ``place``, or None if ``place`` names a Hub repository (``owner/name``).

    Raises:
        FileNotFoundError: it is neither; a missing folder inside an existing one is taken for a mistyped path.
    """
    folder = Path(place)
    if folder.exists():
        return folder
    if REPOSITORY_ID.fullmatch(str(place)) and not folder.parent.exists():
        return None
    raise FileNotFoundError(
        f"there is no file or folder {place}, and it is not the id of a Hub repository (owner/name)"
    )
