"""The interface of every source of anchors: inputs by number, each a function of its number alone."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol


class Samples(Protocol):
    """Inputs by number, from which rows are chosen."""

    @property
    def strata(self) -> Sequence[tuple[Hashable, ...]]:
        """The stratum of every input for a stratified selection; see :func:`anchors.selection.stratified_rows`."""

    def __len__(self) -> int:
        """Count the inputs."""

    def batch(self, rows: list[int]) -> dict[str, Any]:
        """The inputs at ``rows``, collated: what the teacher's ``prepare`` takes."""


class AnchorSource(Samples, Protocol):
    """Inputs that may become anchors. The teacher labels them, so a source needs no labels."""

    @property
    def groups(self) -> Sequence[str]:
        """The old task of every input, or whatever else is to be told apart."""

    def description(self) -> Mapping[str, Any]:
        """Say for the provenance where the inputs come from: ``dataset`` in words or by name, ``frames`` (how many
        there are), ``fingerprint`` (SHA-256 of all that decides them), and more where there is more to say.
        """
