"""Datasets that ``save_to_disk`` left, opened so that nothing in them leads out of their files."""

from pathlib import Path
from typing import Any

import pyarrow as pa

UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OSError, pa.ArrowException)


def open_saved(folder: Path, way_out: str) -> Any:
    """Open the dataset in ``folder``, or its splits; whatever its files say of lengths and offsets is checked.

    Arrow follows them unchecked, and a wrong one ends the process or reads what is elsewhere in memory.

    Raises:
        ValueError: it cannot be opened; the message names ``folder``, and ends with ``way_out``.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
        for one in loaded.values() if isinstance(loaded, dict) else [loaded]:
            one.data.table.validate(full=True)
    except UNREADABLE as error:
        raise ValueError(f"{folder} cannot be opened as a dataset ({error}); {way_out}") from error
    return loaded
