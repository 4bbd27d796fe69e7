"""Is an anchor cache what its provenance says? Checked when it is opened, though every checksum fits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import datasets
import torch
from torch import Tensor

from craft_trainer.anchors.columns import Column
from craft_trainer.anchors.provenance import BUILD
from craft_trainer.hub.saved_datasets import open_saved
from craft_trainer.report.reading import (
    ANY_KEY,
    ANYTHING,
    FLAG,
    NAME,
    TEXT,
    Rule,
    Schema,
    check,
    integer,
    json_object,
    one_of,
)

AGAIN = f"rebuild it with {BUILD}"
TEXT_OR_NONE = Rule("text or null", lambda value: value is None or isinstance(value, str))
NAMES = Rule("a list of names", lambda value: isinstance(value, list) and all(map(NAME.holds, value)))
TEACHER: Schema = {"weights": NAME, "path": TEXT, "anchors": integer(1), ANY_KEY: TEXT}
FEATURE: Schema = {"path": NAME, "pooling": NAME}
STORAGE: Schema = {
    "inputs": one_of(("embedded", "reference")),
    "output": FLAG,
    "dtype": one_of(("float32", "float16")),
    "num_tokens": integer(0),
    "batch_size": integer(1),
    "labels": NAMES,
    "task_unit": one_of(("", "variance", "standard deviation", "mean entropy")),
}
PROVENANCE: dict[str, Schema] = {
    "teachers": [TEACHER],
    "data": {"dataset": TEXT, "revision": TEXT_OR_NONE, "fingerprint": TEXT, "rows": NAME, "frames": integer(0)},
    "features": ANYTHING,  # there may be none
    "storage": STORAGE,
    "groups": {},
    "files": {},
    "sizes": {},
    "versions": {},
    "schema": integer(0),
    "fingerprint": TEXT,
}
STATE, INFO = "state.json", "dataset_info.json"  # of a dataset on disk


def check_provenance(content: Mapping[str, Any], place: str) -> None:
    """Raise a ValueError, which begins with ``place``, unless ``content`` has what a provenance needs."""
    check(content, PROVENANCE, place, again=AGAIN)
    if content["features"] != []:
        check(content["features"], [FEATURE], f"{place}features", again=AGAIN)
    for part, rule in (("groups", integer(1)), ("files", NAME), ("sizes", integer(0)), ("versions", NAME)):
        for name, value in content[part].items():
            check(value, rule, f"{place}{part}.{name}", again=AGAIN)
    for name in content["files"]:
        if not name or PurePosixPath(name).name != name or PureWindowsPath(name).name != name:
            raise ValueError(f"{place}files names {name!r}, which is not a file of this folder; {AGAIN}")


def check_files(folder: Path, files: Mapping[str, str], needed: Sequence[str]) -> None:
    """Raise a ValueError unless ``files`` (name → checksum) has every file that opening the cache reads."""
    missing = sorted({STATE, INFO, *needed} - files.keys())
    if missing:
        raise ValueError(f"{folder} has no checksum of {', '.join(missing)}; {AGAIN}")
    state = json_object(folder / STATE, AGAIN)
    check(state, {"_data_files": [{"filename": NAME}]}, f"{folder / STATE}: ", again=AGAIN)
    unknown = sorted({one["filename"] for one in state["_data_files"]} - files.keys())
    if unknown:
        raise ValueError(f"{folder / STATE} names {', '.join(unknown)}, of which there is no checksum; {AGAIN}")


def open_dataset(folder: Path) -> datasets.Dataset:
    """Open the dataset in ``folder``; a ValueError that names it for whatever is wrong with its description."""
    dataset = open_saved(folder, AGAIN)
    if not isinstance(dataset, datasets.Dataset) or len(dataset) == 0:
        raise ValueError(f"{folder} holds no anchors; {AGAIN}")
    for name, column in zip(dataset.column_names, dataset.data.table.columns, strict=True):
        if column.null_count:
            raise ValueError(f"{folder}: column {name} has {column.null_count} rows without a value; {AGAIN}")
    return dataset


def check_names(folder: Path, there: set[str], needed: set[str], allowed: set[str]) -> None:
    """Raise a ValueError unless the columns that are ``there`` are all ``needed`` and only ``allowed`` ones."""
    for fault, names in (("missing", needed - there), ("not expected", there - allowed)):
        if names:
            raise ValueError(f"{folder}: columns {', '.join(sorted(names))} are {fault}; {AGAIN}")


def check_columns(folder: Path, columns: Mapping[str, Column], groups: Sequence[str], made: Any) -> None:
    """Raise a ValueError unless columns, groups and teachers are those that the provenance ``made`` counts."""
    if differing := ", ".join(sorted(made.sizes.keys() ^ columns.keys())):
        raise ValueError(f"{folder}: sizes and columns differ in {differing}; {AGAIN}")
    if (counts := dict(Counter(groups))) != made.groups:
        raise ValueError(f"{folder} holds anchors {counts}, not {made.groups}; {AGAIN}")
    if sum(teacher["anchors"] for teacher in made.teachers) != len(groups):
        raise ValueError(f"{folder} holds {len(groups)} anchors, not as many as its teachers made; {AGAIN}")


def check_statistics(
    folder: Path,
    statistics: Mapping[str, Tensor],
    columns: Mapping[str, Column],
    names: Sequence[str],
    scales: set[str],
) -> None:
    """Raise a ValueError unless there are a mean and a variance of each feature of ``names``, and the ``scales``.

    They are finite, of the feature's size, and a variance is ≥ 0 in each dimension, and > 0 on average.
    """
    wanted = {f"{kind}/{name}" for name in names for kind in ("mean", "variance")} | scales
    if statistics.keys() != wanted:
        differing = ", ".join(sorted(statistics.keys() ^ wanted))
        raise ValueError(f"{folder}: statistics of the features are missing or too many: {differing}; {AGAIN}")
    for key, value in statistics.items():
        kind, _, name = key.partition("/")
        size = torch.Size([]) if key in scales else torch.Size([_dim(columns[name])])
        if value.shape != size or not value.is_floating_point():
            raise ValueError(
                f"{folder}: {key} is {value.dtype} of shape {list(value.shape)}, not {list(size)}; {AGAIN}"
            )
        is_unit = kind == "mean" or (bool((value >= 0).all()) and float(value.double().mean()) > 0)
        if not bool(value.isfinite().all()) or not is_unit:
            raise ValueError(f"{folder}: {key} has values that are not finite, or not positive; {AGAIN}")


def _dim(column: Column) -> int:
    first = column.gather([0])[0]
    return int(first.shape[-1]) if getattr(first, "ndim", 0) else 1
