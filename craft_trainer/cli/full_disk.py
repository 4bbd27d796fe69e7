"""What to say when a write has failed for want of room: the library that wrote may name no file."""

import errno
import re
import shutil
import tempfile
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NUMBER = re.compile(r"\b(?:errno|os error) (\d+)", re.IGNORECASE)  # as Python, Arrow and Rust have it


def room_left(error: BaseException) -> list[str]:
    """Say how much room there is, in a line, if ``error`` is that of a full disk, a quota or a limit of file sizes."""
    numbers = {getattr(error, "errno", None), *map(int, NUMBER.findall(str(error)))}
    if not numbers & FULL:
        return []
    places = dict.fromkeys((Path.cwd(), Path(tempfile.gettempdir())))
    free = ", ".join(f"{shutil.disk_usage(place).free / 1e9:.2f} GB in {place}" for place in places)
    return [f"no room was left for a file (a full disk, a quota, or a limit of file sizes). Free are {free}"]
