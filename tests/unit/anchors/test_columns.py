"""Rows gathered from Arrow memory equal what ``datasets`` decodes, for every type an anchor can have."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from numpy.typing import NDArray

from craft_trainer.anchors.columns import open_columns

CHUNKS = (5, 1, 8, 3)  # rows of the Arrow chunks
NUM_ROWS = sum(CHUNKS)
GENERATOR = np.random.default_rng(0)

type Column = tuple[object, Callable[[int], NDArray | list[str]]]


def _floats(*shape: int) -> Callable[[int], NDArray]:
    return lambda rows: GENERATOR.standard_normal((rows, *shape), dtype=np.float32)


COLUMNS: dict[str, Column] = {
    "float32 scalar": (datasets.Value("float32"), _floats()),
    "float32 vector": (datasets.List(datasets.Value("float32"), length=4), _floats(4)),
    "float32 list": (datasets.List(datasets.Value("float32")), _floats(6)),  # equal lengths, not declared
    "float32 matrix": (datasets.Array2D((3, 4), "float32"), _floats(3, 4)),
    "float32 image": (datasets.Array3D((3, 5, 4), "float32"), _floats(3, 5, 4)),
    "float32 video": (datasets.Array4D((2, 3, 5, 4), "float32"), _floats(2, 3, 5, 4)),
    "bool scalar": (datasets.Value("bool"), lambda rows: GENERATOR.random(rows) < 0.5),
    "bool vector": (
        datasets.List(datasets.Value("bool"), length=11),  # bits of a row do not end at a byte
        lambda rows: GENERATOR.random((rows, 11)) < 0.5,
    ),
    "int64 scalar": (datasets.Value("int64"), lambda rows: GENERATOR.integers(-(2**62), 2**62, rows)),
    "int64 vector": (
        datasets.List(datasets.Value("int64"), length=3),
        lambda rows: GENERATOR.integers(-(2**62), 2**62, (rows, 3)),
    ),
    "uint8 image": (
        datasets.Array3D((3, 5, 4), "uint8"),
        lambda rows: GENERATOR.integers(0, 256, (rows, 3, 5, 4), dtype=np.uint8),
    ),
    "string": (datasets.Value("string"), lambda rows: [f"tâche {n} 🤖" * (n % 3) for n in range(rows)]),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    """All columns in four Arrow chunks, written to disk and memory-mapped, as an anchor cache is."""
    features = datasets.Features({name: feature for name, (feature, _) in COLUMNS.items()})
    parts = [
        datasets.Dataset.from_dict({name: make(rows) for name, (_, make) in COLUMNS.items()}, features=features)
        for rows in CHUNKS
    ]
    folder = tmp_path_factory.mktemp("columns") / "dataset"
    datasets.concatenate_datasets(parts).save_to_disk(str(folder), num_shards=2)
    loaded = datasets.load_from_disk(str(folder))
    assert loaded.data.table.column("string").num_chunks > 1
    return loaded


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(
    "rows",
    [[0], [NUM_ROWS - 1], [4, 5, 6, 13, 14], list(range(NUM_ROWS)), [9, 2, 9, 16, 0], list(range(NUM_ROWS))[::-1]],
    ids=["first", "last", "chunk edges", "all", "repeated", "reversed"],
)
def test_a_gather_equals_datasets_own_decoding(dataset: datasets.Dataset, name: str, rows: list[int]) -> None:
    gathered = open_columns(dataset)[name].gather(rows)
    decoded = [dataset.with_format("numpy")[row][name] for row in rows]
    if name == "string":
        assert gathered == [str(value) for value in decoded]
        return
    assert gathered.dtype == name.split(maxsplit=1)[0]  # the declared type; datasets' numpy format widens uint8
    np.testing.assert_array_equal(gathered, np.stack(decoded))


def test_a_column_in_memory_is_read_like_one_on_disk(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    features = datasets.Features({"x": datasets.Array2D((2, 3), "float32")})
    in_memory = datasets.Dataset.from_dict({"x": values}, features=features)
    in_memory.save_to_disk(str(tmp_path / "x"))
    for dataset in (in_memory, datasets.load_from_disk(str(tmp_path / "x"))):
        np.testing.assert_array_equal(open_columns(dataset)["x"].gather([3, 1]), values[[3, 1]])


def test_a_gathered_batch_is_a_copy(dataset: datasets.Dataset) -> None:
    """Writing into it must be possible, and must not reach the file."""
    column = open_columns(dataset)["float32 vector"]
    before = column.gather([0]).copy()
    batch = column.gather([0])
    batch += 1
    np.testing.assert_array_equal(column.gather([0]), before)
