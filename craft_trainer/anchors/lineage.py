"""Lineage of a checkpoint's weights: the start of every run that led to it, in a file beside its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from craft_trainer.files import write_json
from craft_trainer.hub.resolve_path import resolve_path
from craft_trainer.models.base import AnchoredModel

LINEAGE_FILE = "lineage.json"
SCHEMA = 1


@dataclass(frozen=True)
class Lineage:
    """The start of a run, as digests without paths, so that it may be published with the weights.

    Attributes:
        start: the fingerprint of the weights, processors and configuration that the run starts from.
        ancestors: the starts of the earlier runs that led to it, oldest first.
        anchors: ``fingerprint`` of the cache that holds the run, and the weights of its ``teachers``; None without one.
    """

    start: Mapping[str, str]
    ancestors: list[Mapping[str, str]] = field(default_factory=list)
    anchors: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, model: AnchoredModel, anchors: Mapping[str, Any] | None = None) -> Self:
        """Fingerprint ``model``, and read where it comes from beside the weights that it was loaded from.

        A file of other weights than those of ``model`` does not count.

        Raises:
            ValueError: that file is damaged, or of another schema.
        """
        start = dict(model.fingerprint())
        found = _read(model)
        is_of_these = found is not None and found["weights"] == start["weights"]
        return cls(start, list(found["lineage"]) if found is not None and is_of_these else [], anchors)

    @property
    def told(self) -> str:
        """The ancestors, if there are any, for a message."""
        return "".join(f", trained from {one['weights'][:12]}…" for one in reversed(self.ancestors))

    def write(self, folder: Path, weights: str) -> None:
        """Write what the weights in ``folder``, whose digest is ``weights``, were trained from."""
        came_from = [*self.ancestors, self.start]
        write_json(
            folder / LINEAGE_FILE,
            {"schema": SCHEMA, "weights": weights, "lineage": came_from, "anchors": self.anchors},
        )


def _read(model: AnchoredModel) -> dict[str, Any] | None:
    """The file beside the weights that ``model`` was loaded from, if it was loaded and there is one."""
    place = origin(model)
    if not place:
        return None
    try:
        file = resolve_path(place, only=(LINEAGE_FILE,)) / LINEAGE_FILE
    except FileNotFoundError:  # a model made in memory may have any name
        return None
    if not file.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if found["schema"] != SCHEMA or not isinstance(found["weights"], str):
            raise ValueError(f"schema {found['schema']}, not {SCHEMA}")
        [one["weights"] for one in found["lineage"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} cannot be read ({error!r}): delete it, and the checkpoint has no ancestors"
        ) from error
    return found


def origin(model: AnchoredModel) -> str | None:
    """The folder or Hub repository that ``model`` was loaded from, as far as it says so."""
    wrapped = getattr(model, "wrapper", model)
    for attribute in ("loaded_from", "origin", "name_or_path"):
        if place := getattr(wrapped, attribute, None):
            return str(place)
    return None
