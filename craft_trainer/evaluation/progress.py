"""Log-likelihoods of the questions that are scored already, on disk until the result is: a run goes on from them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from craft_trainer.files import write_atomically

Sums = list[list[float]]


class ProgressFile:
    """JSON lines: first what the results belong to, then one line for each question that is done, with its checksum.

    Args:
        path: the file; it may be there from a run before.
        belongs_to: everything that decides the results (model, data, settings). A file of anything else is begun anew.
    """

    def __init__(self, path: Path, belongs_to: dict[str, Any]) -> None:
        self._path = path
        self._head = json.dumps(belongs_to, sort_keys=True)

    def read(self, num_tokens: Sequence[Sequence[int]]) -> dict[int, Sums]:
        """Log-likelihoods of the questions that are done, by their numbers; damaged lines are dropped.

        How many are dropped is said, but for a last line that was not finished. ``num_tokens`` has the scored tokens of
        each choice of each question.
        """
        content = self._path.read_bytes() if self._path.is_file() else b""
        lines = content.decode("utf-8", "replace").split("\n")
        if lines[0] != self._head:
            lines = [self._head, ""]
        whole = {line: self._result(line, num_tokens) for line in lines[1:-1]}  # the last one was being written
        found = {line: result for line, result in whole.items() if result is not None}
        if len(found) < len(whole):
            tqdm.write(f"{self._path}: {len(whole) - len(found)} lines are damaged; their questions are scored again")
        write_atomically(self._path, "".join(f"{line}\n" for line in (self._head, *found)))
        return dict(found.values())

    def add(self, number: int, sums: Sums) -> None:
        """Write one question's result."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([number, sums, self._checksum(number, sums)]) + "\n")

    def _result(self, line: str, num_tokens: Sequence[Sequence[int]]) -> tuple[int, Sums] | None:
        """The number and the log-likelihoods in ``line``; None if they are not what was written."""
        try:
            number, sums, checksum = json.loads(line)
            if checksum == self._checksum(number, sums) and [len(one) for one in sums] == list(num_tokens[number]):
                return number, sums
        except (ValueError, TypeError, IndexError, RecursionError):
            pass
        return None

    def _checksum(self, number: int, sums: Sums) -> str:
        return hashlib.sha256(json.dumps([self._head, number, sums]).encode()).hexdigest()[:16]
