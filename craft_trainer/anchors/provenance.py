"""Provenance of an anchor cache: what made it, a fingerprint of that, and checksums of what it holds."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from craft_trainer.files import CHECKSUM, checked, write_json
from craft_trainer.report.reading import json_object, require_checksum

BUILD = "`craft-trainer cache build`"
SCHEMA = 6
AUTO = "auto"  # anchors whose source nobody chose
RELABEL = "`craft-trainer cache relabel`"
DIGESTS = ("weights", "processors", "configuration", "quantization")  # the last only where weights are quantised
PROVENANCE_FILE = "anchors.json"


@dataclass(frozen=True)
class Provenance:
    """Origin and contents of an anchor cache, written as ``anchors.json`` beside the Arrow files.

    Attributes:
        teachers: digests of a teacher's ``weights``, ``processors`` and ``configuration`` (SHA-256), how it is
            quantised (``quantization``) if it is, its ``path``, and the number of ``anchors`` that it made: those after
            the ones of the teachers before it. One, or several in a cache that was joined.
        data: the ``dataset``, its ``revision``, ``fingerprint`` and number of ``frames``, and the ``rows`` digest of
            the samples chosen from it; ``chosen`` is auto where nobody chose the source.
        features: ``path`` and ``pooling`` of every cached feature.
        storage: whether ``inputs`` are embedded or references, whether the ``output`` is kept, the ``dtype`` of
            features, ``num_tokens`` per position, the ``batch_size`` of the teacher's passes, the ``labels`` among
            the inputs, and the ``task_unit`` of the teacher's loss on them ("" where it is not kept).
        groups: number of anchors per old task.
        files: SHA-256 of every data file in the folder.
        sizes: bytes of every column.
        versions: of the packages that made it.
    """

    teachers: list[dict[str, Any]]
    data: dict[str, Any]
    features: list[dict[str, str]]
    storage: dict[str, Any]
    groups: dict[str, int]
    files: dict[str, str]
    sizes: dict[str, int]
    versions: dict[str, str]
    schema: int = SCHEMA
    fingerprint: str = field(default="")

    def told_source(self) -> str:
        """Say where the anchors come from, e.g. "auto: new_task, 20 views, view_noise 1.0"; "" if it is not known."""
        data = self.data
        if not data.get("source"):
            return ""
        parts = data.get("parts") or []
        each = [data, *(parts.values() if isinstance(parts, Mapping) else parts)]
        perturbed = (f", {one['views']} views, view_noise {one['view_noise']}" for one in each if one.get("views"))
        return (f"{data['chosen']}: " if "chosen" in data else "") + f"{data['source']}{next(perturbed, '')}"

    def plan(self) -> dict[str, Any]:
        """Everything that decides the contents; places and versions are left out."""
        return {
            "teachers": [{key: value for key, value in one.items() if key != "path"} for one in self.teachers],
            "data": {key: self.data[key] for key in ("frames", "rows", "fingerprint")},
            "features": self.features,
            "storage": self.storage,
            "groups": self.groups,
            "schema": self.schema,
        }

    def compute_fingerprint(self) -> str:
        """SHA-256 of the plan and of the checksums of what came out of it."""
        return hashlib.sha256(json.dumps(self.plan() | {"files": self.files}, sort_keys=True).encode()).hexdigest()

    def published(self) -> "Provenance":
        """The same for other people to read: of the places on this machine the last part. The fingerprint stays."""
        return replace(self, teachers=public(self.teachers), data=public(self.data))

    def document(self) -> dict[str, Any]:
        """Contents of ``anchors.json``: everything, the fingerprint, and a checksum of all of it."""
        return checked(asdict(self) | {"fingerprint": self.compute_fingerprint()})

    def write(self, folder: Path) -> None:
        """Write the provenance with its fingerprint into ``folder``."""
        write_json(folder / PROVENANCE_FILE, self.document())

    @classmethod
    def read(cls, folder: Path) -> "Provenance":
        """Read and check the provenance of the cache at ``folder``.

        Raises:
            FileNotFoundError: ``folder`` is not an anchor cache.
            ValueError: another schema version, or the fingerprint or a checksum does not fit the contents.
        """
        file = folder / PROVENANCE_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{folder} holds no {PROVENANCE_FILE}: it is not a finished anchor cache")
        from craft_trainer.anchors.integrity import check_provenance  # it imports datasets and torch

        content = json_object(file, f"rebuild it with {BUILD}")
        if content.get("schema") != SCHEMA:
            raise ValueError(f"{file}: schema {content.get('schema')}, not {SCHEMA}: rebuild it with {BUILD}")
        check_provenance(content, f"{file}: ")
        known = {one.name for one in fields(cls)} | {CHECKSUM}
        if unknown := sorted(content.keys() - known):
            raise ValueError(f"{file}: {', '.join(unknown)} is unknown; rebuild it with {BUILD}")
        provenance = cls(**{key: value for key, value in content.items() if key != CHECKSUM})
        if provenance.fingerprint != provenance.compute_fingerprint():
            raise ValueError(f"{file}: the fingerprint does not fit its contents; rebuild it with {BUILD}")
        require_checksum(content, file, f"rebuild it with {BUILD}")
        for name, checksum in provenance.files.items():
            if not (folder / name).is_file() or file_digest(folder / name) != checksum:
                raise ValueError(f"{folder / name} is missing or damaged; rebuild it with {BUILD}")
        return provenance


def public(value: Any) -> Any:
    """``value`` with the last part of each absolute path in it, alone or joined by `` + ``, in its place."""
    if isinstance(value, Mapping):
        return {key: public(one) for key, one in value.items()}
    if isinstance(value, list):
        return [public(one) for one in value]
    if not isinstance(value, str):
        return value
    return " + ".join(map(_name, value.split(" + ")))


def _name(place: str) -> str:
    """The last part of an absolute path, on any system; any other text as it is."""
    path = place.removeprefix("file://")
    kinds = [kind(path) for kind in (PurePosixPath, PureWindowsPath)]
    return next((one.name for one in kinds if one.is_absolute()), place)


def same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if two fingerprints are of the same weights, processors and configuration, quantised alike."""
    return all(one.get(part) == other.get(part) for part in DIGESTS)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
