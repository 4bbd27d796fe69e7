"""What has been scored so far, in a file that a run which was ended goes on from."""

import json
from pathlib import Path
from typing import Any

from craft_trainer.files import write_atomically

Sums = list[list[float]]


class ProgressFile:
    """JSON lines: first what the results belong to, then one line for each question that is done.

    Args:
        path: the file; it may be there from a run before.
        belongs_to: everything that decides the results (model, data, settings). A file of anything else is begun anew.
    """

    def __init__(self, path: Path, belongs_to: dict[str, Any]) -> None:
        self._path = path
        self._head = json.dumps(belongs_to, sort_keys=True)

    def read(self) -> dict[int, Sums]:
        """Log-likelihoods of the questions that are done; a last line that was not finished is dropped."""
        found: dict[int, Sums] = {}
        lines = self._path.read_text("utf-8").split("\n") if self._path.is_file() else [""]
        if lines[0] != self._head:
            lines = [self._head, ""]
        whole = lines[:-1]  # what follows the last line break was being written
        for line in whole[1:]:
            number, sums = json.loads(line)
            found[number] = sums
        write_atomically(self._path, "".join(f"{line}\n" for line in whole))
        return found

    def add(self, number: int, sums: Sums) -> None:
        """Write one question's result."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([number, sums]) + "\n")
