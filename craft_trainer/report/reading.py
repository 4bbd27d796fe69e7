"""A JSON file that a command wrote, value by value, or where in it something is wrong."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any


def json_object(path: Path, way_out: str) -> dict[str, Any]:
    """Read the object in ``path``; an error ends with the ``way_out``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or not an object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {way_out}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); {way_out}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected an object; {way_out}")
    return content


@dataclass(frozen=True)
class Value:
    """The value at one place of a JSON file.

    Every method but ``wrong`` returns it as one type; a value that does not fit is a ValueError of file and place.
    """

    file: Path
    found: Any
    place: str = ""

    def wrong(self, expected: str, way_out: str = "write the file again") -> ValueError:
        """Make the error that names the file, the place, what is there, what was expected and what to do."""
        return ValueError(f"{self.file}: {self.place} is {self.found!r}, expected {expected}; {way_out}")

    def fields(self) -> dict[str, "Value"]:
        """Return the members of an object."""
        if not isinstance(self.found, dict):
            raise ValueError(f"{self.file}: {self.place} is a {type(self.found).__name__}, expected an object")
        return {key: Value(self.file, found, self._inside(key)) for key, found in self.found.items()}

    def exactly(self, *keys: str) -> dict[str, "Value"]:
        """Return the members of an object that has these ``keys`` and no other."""
        for key in self.fields():
            if key not in keys:
                raise ValueError(f"{self.file}: {self._inside(key)} is unknown; expected the keys {', '.join(keys)}")
        return {key: self.field(key) for key in keys}

    def field(self, key: str) -> "Value":
        """Return one member of an object."""
        fields = self.fields()
        if key not in fields:
            raise ValueError(f"{self.file}: {self._inside(key)} is missing; write the file again")
        return fields[key]

    def _inside(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def items(self, noun: str) -> list["Value"]:
        """Return the items of a list, of which there is at least one."""
        if not isinstance(self.found, list) or not self.found:
            raise self.wrong(f"a list of at least one {noun}")
        return [Value(self.file, found, f"{self.place}[{index}]") for index, found in enumerate(self.found)]

    def text(self) -> str:
        """Return a text that is not empty."""
        if not isinstance(self.found, str) or not self.found:
            raise self.wrong("a name")
        return self.found

    def integer(self, low: int, high: int | None = None) -> int:
        """Return an integer from ``low`` to ``high``, both included."""
        if type(self.found) is not int or self.found < low or (high is not None and self.found > high):
            raise self.wrong(f"an integer ≥ {low}" if high is None else f"an integer from {low} to {high}")
        return self.found

    def number(self, low: float = -inf, high: float = inf) -> float:
        """Return a finite number from ``low`` to ``high``, both included."""
        if type(self.found) not in (int, float) or not isfinite(self.found) or not low <= self.found <= high:
            bounds = f"a number ≥ {low:g}" if high == inf else f"a number from {low:g} to {high:g}"
            raise self.wrong("a finite number" if low == -inf else bounds)
        return float(self.found)

    def one_of[Kind](self, allowed: Sequence[Kind], expected: str) -> Kind:
        """Return the one of ``allowed`` that it is."""
        for one in allowed:
            if one == self.found and type(one) is type(self.found):
                return one
        raise self.wrong(expected)
