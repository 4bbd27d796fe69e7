"""A cache of a stream is that of the samples that it gives."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from seer import NUM_ROWS, build, contents, samples

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.sources.stream import StreamSource

NAME = "seen and heard"


class Counted:
    """Numbers of samples as a stream, and how many of them were read."""

    def __init__(self, count: int) -> None:
        self._rows = datasets.Dataset.from_dict({"row": list(range(0, 2 * count, 2))}).to_iterable_dataset(num_shards=3)
        self.read = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._rows:
            self.read += 1
            yield row


def source(count: int = NUM_ROWS) -> tuple[Counted, StreamSource]:
    stream = Counted(count)
    return stream, StreamSource(stream, NUM_ROWS, name=NAME, collate=lambda rows: samples([row["row"] for row in rows]))


def test_it_builds_the_cache_of_the_samples_and_reads_them_once(whole: AnchorCache, tmp_path: Path) -> None:
    """But for the first two, which say what a sample is like. The noise is that of places in the stream."""
    stream, given = source()
    streamed = build(tmp_path / "cache", load=given.batch, rows=range(NUM_ROWS), source=given.description())
    assert stream.read == NUM_ROWS + 2
    for part in ("hidden", "output"):
        left, right = (getattr(cache.batch(range(NUM_ROWS)).teacher, part) for cache in (streamed, whole))
        pairs = zip(left.values(), right.values(), strict=True) if part == "hidden" else [(left, right)]
        assert all(one.equal(other) for one, other in pairs)
    assert streamed.provenance.data["dataset"] == NAME
    assert contents(
        build(tmp_path / "again", load=source()[1].batch, rows=range(NUM_ROWS), source=given.description()).folder
    ) == contents(streamed.folder)


def test_samples_may_be_asked_for_in_any_order() -> None:
    stream, given = source()
    batch = given.batch([7, 2, 7])
    assert batch["name"] == ["row 14", "row 4", "row 14"]
    assert given.batch([9])["name"] == ["row 18"]
    assert stream.read == 10
    assert given.batch([3])["name"] == ["row 6"]
    assert stream.read == 14


def test_a_stream_that_ends_early_says_so() -> None:
    with pytest.raises(ValueError, match=f"{NAME} has no sample 30: it ends before"):
        source(count=30)[1].batch([29, 30])


def test_workers_are_refused(tmp_path: Path) -> None:
    """Each would read a part of the stream. Seen to fail when they were let: another cache came out."""
    _, given = source()
    with pytest.raises(ValueError, match="set num_workers to 0"):
        build(tmp_path / "cache", load=given.batch, num_workers=2, rows=range(NUM_ROWS))
