"""A file is either the old one or the new one, never half of it."""

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, in a folder that is made if need be, and move it there in one step.

    On any error ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(data)
        draft.replace(path)  # os.replace: atomic within a file system
    finally:
        draft.unlink(missing_ok=True)
