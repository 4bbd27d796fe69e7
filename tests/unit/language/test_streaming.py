"""Rows of a dataset that stays where it is."""

import json
from pathlib import Path

import datasets
import pytest

from craft_trainer.language import streaming
from craft_trainer.language.rows import open_rows

NUM_ROWS, NUM_FILES = 40, 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files of ten rows; the last one cannot be read."""
    made = tmp_path / "texts"
    made.mkdir()
    for number in range(NUM_FILES):
        rows = range(number * 10, number * 10 + 10)
        (made / f"{number}.jsonl").write_text("".join(json.dumps({"text": f"row {row}"}) + "\n" for row in rows))
    return made


def texts(folder: Path, count: int, seed: int = 0) -> list[str]:
    return list(open_rows(str(folder), streamed=count, seed=seed).source["text"])


def test_so_many_rows_are_read_and_the_seed_says_which(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail without shuffling: they were those of the first file."""
    monkeypatch.setattr(streaming, "SHUFFLE_BUFFER", 20)
    some = texts(folder, 8)  # fewer than a file has
    assert len(set(some)) == 8
    assert some == texts(folder, 8)
    assert some != texts(folder, 8, seed=1)
    assert len({int(text.split()[1]) // 10 for text in some}) > 1
    assert sorted(texts(folder, 1000)) == sorted(f"row {row}" for row in range(NUM_ROWS))


def test_no_more_of_the_dataset_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is broken is not met before its turn. Seen to fail when the dataset was loaded whole."""
    monkeypatch.setattr(streaming, "SHUFFLE_BUFFER", 1)
    first = texts(folder, 8)
    read = {int(text.split()[1]) // 10 for text in first}
    for number in set(range(NUM_FILES)) - read:
        (folder / f"{number}.jsonl").write_text("{broken")
    assert texts(folder, 8) == first
    with pytest.raises(ValueError, match=r"texts .* cannot be read as a stream: .*JSON"):
        texts(folder, 30)
    with pytest.raises(ValueError, match="cannot be read as a dataset"):
        open_rows(str(folder))


def test_the_rows_are_in_a_file_and_not_in_memory(folder: Path) -> None:
    rows = open_rows(str(folder), streamed=5).source
    assert isinstance(rows, datasets.Dataset)
    assert len(rows.cache_files) == 1


def test_a_file_of_lines_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"0.jsonl is a file of JSON lines, which is read whole"):
        open_rows(str(folder / "0.jsonl"), streamed=5)


def test_a_part_of_a_stream_is_refused(folder: Path) -> None:
    """Nobody knows how many rows it has."""
    with pytest.raises(ValueError, match="streamed rows have no numbers: name a whole one"):
        open_rows(str(folder), streamed=5, split="train[:10]")
    assert len(open_rows(str(folder / "0.jsonl")).source) == 10
    assert len(open_rows(str(folder), split="train[5:15]").source) == 10
