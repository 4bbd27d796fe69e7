"""Building a cache: killed and resumed, shared by processes, with samples inside or only referred to."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec, extract
from craft_trainer.anchors.provenance import PROVENANCE_FILE
from craft_trainer.models.base import Batch, TokenLayout

NUM_ROWS, BATCH = 100, 2  # seven shards of eight batches, the last one short
FRESH = multiprocessing.get_context("forkserver")  # children of a process without threads
FRESH.set_forkserver_preload(["craft_trainer.anchors.building", "pytest"])


class Seer(nn.Module):
    """Looks at pixels and at a sequence of vectors; ``seconds`` are what every pass takes."""

    output_kind = "actions"

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.eye, self.ear = nn.Linear(3, 4), nn.Linear(2, 4)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.seconds = seconds
        self.passes = 0

    @property
    def network(self) -> nn.Module:
        return self

    def prepare(self, batch: Batch) -> Batch:
        sounds = batch["sounds"]
        return {**batch, "sounds": sounds.view(len(batch["pixels"]), -1, 2)} if sounds.ndim == 2 else batch

    def predict(self, inputs: Batch) -> Tensor:
        self.passes += 1
        time.sleep(self.seconds)
        return self.eye(inputs["pixels"].mean(dim=(-1, -2)))[:, None] + self.ear(inputs["sounds"]).sum(dim=1)[:, None]

    def token_layout(self, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
        return TokenLayout(valid=inputs["sounds"].any(dim=-1))

    def input_keys(self) -> list[str]:
        return ["pixels", "sounds"]

    def image_keys(self) -> list[str]:
        return ["pixels"]

    def noise(self, rows: Any) -> dict[str, Tensor]:
        return {"noise/row": torch.tensor(rows)}

    def packed(self, batch: Batch) -> dict[str, list[int]]:
        return {"sounds": [3] * len(batch["pixels"])} if batch["sounds"].ndim == 2 else {}

    def fingerprint(self) -> dict[str, str]:
        return {"weights": "w", "processors": "p"}


def samples(rows: list[int], *, lengths: Callable[[int], int] = lambda _row: 3) -> dict[str, Any]:
    """Pixels of 8 bits, and sounds of so many steps, padded to the longest of the batch."""
    drawn = [torch.Generator().manual_seed(row) for row in rows]
    pixels = [torch.randint(256, (3, 4, 5), generator=generator) for generator in drawn]
    sounds = [torch.randn(lengths(row), 2, generator=generator) for row, generator in zip(rows, drawn, strict=True)]
    return {
        "pixels": torch.stack(pixels).float() / 255,
        "sounds": nn.utils.rnn.pad_sequence(sounds, batch_first=True),
        "name": [f"row {row}" for row in rows],
    }


def packed_samples(rows: list[int]) -> dict[str, Any]:
    """The same, with the sounds of one sample after those of the other."""
    batch = samples(rows)
    return batch | {"sounds": batch["sounds"].flatten(0, 1)}


def build(folder: Path, teacher: Seer | None = None, load: Any = samples, **options: Any) -> AnchorCache:
    settings: dict[str, Any] = {
        "rows": list(range(0, 2 * NUM_ROWS, 2)),
        "groups": ["odd" if row % 3 else "even" for row in range(NUM_ROWS)],
        "specs": [FeatureSpec("ear", "none"), FeatureSpec("ear", "mean_masked")],
        "batch_size": BATCH,
        "source": {"dataset": "seen and heard", "frames": 1000},
        "teacher_path": "seer",
    }
    return build_anchor_cache(teacher or Seer(), load, folder, **settings | options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> AnchorCache:
    """A cache that was never interrupted."""
    return build(tmp_path_factory.mktemp("whole") / "cache")


def build_slowly(folder: Path, begun: Any) -> None:
    """In another process."""
    begun.set()
    build(folder, Seer(seconds=0.01))


def build_share(folder: Path, rank: int, barrier: Any) -> None:
    """In another process."""
    build(folder, processes=Process(rank, barrier))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_killed_at_ten_random_moments_and_resumed_it_has_the_same_bytes(whole: AnchorCache, tmp_path: Path) -> None:
    """SIGKILL. Seen to fail with random fingerprints of the shards."""
    random.seed(0)
    folder = tmp_path / "cache"
    for _ in range(10):
        begun = FRESH.Event()
        child = FRESH.Process(target=build_slowly, args=(folder, begun))
        child.start()
        assert begun.wait(timeout=60)
        time.sleep(random.uniform(0.0, 0.25))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert not folder.exists() or child.exitcode == 0
    if not folder.exists():
        build(folder)
    assert contents(folder) == contents(whole.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_finished_shards_are_not_made_again(whole: AnchorCache, tmp_path: Path) -> None:
    """Sixteen rows each: after 2½ shards the last twenty batches of the first three are made again, no others."""
    first = Seer()
    calls: list[int] = []

    def failing(rows: list[int]) -> dict[str, Any]:
        calls.append(len(calls))
        if len(calls) > 21:  # one of them to see what is packed
            raise KeyboardInterrupt
        return samples(rows)

    with pytest.raises(KeyboardInterrupt) as error:
        build(tmp_path / "cache", first, failing)
    assert error.value.__notes__ == [
        f"32 of 100 anchors are kept in {tmp_path / 'cache.partial'}: the same call goes on"
    ]
    second = Seer()
    resumed = build(tmp_path / "cache", second)
    assert (first.passes, second.passes) == (20, 50 - 16)
    assert contents(resumed.folder) == contents(whole.folder)


def test_half_a_shard_does_not_count(whole: AnchorCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its file is written. Seen to fail when a shard was written in place."""

    def killed(_dataset: datasets.Dataset, folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "data-00000-of-00001.arrow").write_bytes(b"half of i")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(datasets.Dataset, "save_to_disk", killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "cache")
    assert contents(build(tmp_path / "cache").folder) == contents(whole.folder)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"specs": [FeatureSpec("ear", "none")]}, "features"),
        ({"dtype": "float16"}, "storage"),
        ({"rows": list(range(NUM_ROWS))}, "data"),
        ({"source": {"dataset": "seen", "frames": 1000, "fingerprint": "other"}}, "data"),
    ],
)
def test_shards_of_another_cache_are_refused_with_both_plans(tmp_path: Path, options: dict[str, Any], key: str) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        build(tmp_path / "cache", load=fail_after(12))
    with pytest.raises(
        ValueError, match=rf"cache.partial holds part of a cache with {key} .* but this one has .*: del"
    ):
        build(tmp_path / "cache", **options)
    assert len(build(tmp_path / "cache")) == NUM_ROWS


def fail_after(calls: int) -> Callable[[list[int]], dict[str, Any]]:
    left = [calls]

    def load(rows: list[int]) -> dict[str, Any]:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("out of memory")
        return samples(rows)

    return load


class Process:
    """One of two; as much of accelerate's PartialState as is needed."""

    num_processes = 2

    def __init__(self, index: int, barrier: Any) -> None:
        self.process_index, self._barrier = index, barrier

    def wait_for_everyone(self) -> None:
        self._barrier.wait(timeout=60)


def test_two_processes_build_what_one_builds(whole: AnchorCache, tmp_path: Path) -> None:
    barrier, folder = FRESH.Barrier(2), tmp_path / "cache"
    others = [FRESH.Process(target=build_share, args=(folder, rank, barrier)) for rank in (0, 1)]
    for other in others:
        other.start()
    for other in others:
        other.join(timeout=120)
    assert [other.exitcode for other in others] == [0, 0]
    assert contents(folder) == contents(whole.folder)


def test_processes_share_the_shards(tmp_path: Path) -> None:
    """A second one alone makes every other shard, and then waits for the first."""

    class Second(Process):
        def wait_for_everyone(self) -> None:
            if self.waited:
                raise TimeoutError
            self.waited = True

    second, teacher = Second(1, None), Seer()
    second.waited = False
    with pytest.raises(TimeoutError):
        build(tmp_path / "cache", teacher, processes=second)
    assert sorted(path.name for path in (tmp_path / "cache.partial").iterdir()) == [
        "shard-00001", "shard-00003", "shard-00005",
    ]  # fmt: skip
    assert teacher.passes == 24


def test_workers_load_the_same_samples(whole: AnchorCache, tmp_path: Path) -> None:
    assert contents(build(tmp_path / "cache", num_workers=2).folder) == contents(whole.folder)


def test_the_callers_random_numbers_stay_as_they_are(tmp_path: Path) -> None:
    teacher = Seer()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build(tmp_path / "cache", teacher)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("load", [samples, packed_samples])
def test_embedded_samples_come_back_as_they_were(tmp_path: Path, load: Any) -> None:
    """Pixels are PNG in the file; packed entries are cut into samples and joined again."""
    cache = build(tmp_path / "cache", load=load)
    for rows in ([0, 1], [99, 3, 3, 40]):
        batch, expected = cache.batch(rows), load([2 * row for row in rows])
        assert set(batch.inputs) == {"pixels", "sounds", "noise/row"}
        for key in ("pixels", "sounds"):
            assert torch.equal(batch.inputs[key], expected[key])
        assert batch.inputs["noise/row"].tolist() == [2 * row for row in rows]
        live = extract(Seer(), batch.inputs, cache.specs, output=True)
        torch.testing.assert_close(batch.teacher.hidden, live.hidden)
        torch.testing.assert_close(batch.teacher.output, live.output)
    assert cache.provenance.storage["packed"] == (["sounds"] if load is packed_samples else [])
    assert b"\x89PNG" in (cache.folder / "data-00000-of-00001.arrow").read_bytes()


def test_several_images_of_a_sample_come_back_in_order(tmp_path: Path) -> None:
    """As a policy sees them that looks back: (samples, steps, 3, height, width)."""

    def load(rows: list[int]) -> dict[str, Any]:
        batch = samples(rows)
        return batch | {"pixels": torch.stack([batch["pixels"], 1 - batch["pixels"].round()], dim=1)}

    class Looker(Seer):
        def predict(self, inputs: Batch) -> Tensor:
            return super().predict({**inputs, "pixels": inputs["pixels"][:, 0]})

    cache = build(tmp_path / "cache", Looker(), load)
    assert torch.equal(cache.batch([7, 2]).inputs["pixels"], load([14, 4])["pixels"])


def test_pixels_that_are_not_8_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not one of 3 colours in steps of 1/255: build .* inputs=reference"):
        build(tmp_path / "cache", load=lambda rows: samples(rows) | {"pixels": torch.rand(len(rows), 3, 4, 5)})
    assert list(tmp_path.iterdir()) == []


def test_samples_of_different_lengths_are_padded_when_they_meet(tmp_path: Path) -> None:
    """Batches of the build have lengths of their own; the features of a sample do not depend on its neighbours."""

    def load(rows: list[int]) -> dict[str, Any]:
        return samples(rows, lengths=lambda row: 1 + row % 5)

    cache = build(tmp_path / "cache", load=load)
    batch = cache.batch([0, 2, 7])  # of length 1, 5 and 5, built beside others
    assert batch.inputs["sounds"].shape == (3, 5, 2)
    assert torch.equal(batch.inputs["sounds"], load([0, 4, 14])["sounds"])
    every = batch.teacher.hidden["hidden/ear/none"]
    assert every.shape == (3, 5, 4)
    assert every[0, 1:].abs().max() == 0
    torch.testing.assert_close(batch.teacher.hidden, extract(Seer(), batch.inputs, cache.specs, output=False).hidden)
    singles = [cache.batch([row]).teacher.hidden["hidden/ear/none"][0] for row in range(NUM_ROWS)]
    assert {len(single) for single in singles} == {3, 4, 5}  # as they were padded in the batches of the build
    flat = torch.cat([single[single.any(dim=-1)] for single in singles])
    torch.testing.assert_close(cache.variance["hidden/ear/none"], flat.var(dim=0, correction=0), rtol=1e-5, atol=1e-7)


def test_references_are_followed(whole: AnchorCache, tmp_path: Path) -> None:
    """Without pixels and sounds in the cache; everything else is as in one that embeds them."""
    folder = build(tmp_path / "cache", inputs="reference").folder
    assert not any(name.startswith("input/") for name in AnchorCache(folder).dataset.column_names)
    with pytest.raises(
        ValueError, match=r"references to seen and heard: open it with AnchorCache\(folder, load_batch="
    ):
        AnchorCache(folder).batch([0])
    followed = AnchorCache(folder, load_batch=samples).batch([5, 1])
    embedded = whole.batch([5, 1])
    assert torch.equal(followed.inputs["pixels"], embedded.inputs["pixels"])
    assert torch.equal(followed.teacher.output, embedded.teacher.output)
    assert followed.groups == embedded.groups
    sizes = [sum(cache.provenance.sizes.values()) for cache in (AnchorCache(folder), whole)]
    assert sizes[0] < sizes[1]


def test_references_into_another_revision_are_refused(tmp_path: Path) -> None:
    source = {"dataset": "seen and heard", "frames": 1000, "fingerprint": "a" * 64}
    cache = build(tmp_path / "cache", inputs="reference", source=source)
    cache.check_data("a" * 64)
    with pytest.raises(
        ValueError, match="fingerprint aaaaaaaaaaaa… but the dataset found there has bbbbbbbbbbbb…: rest"
    ):
        cache.check_data("b" * 64)


def test_half_precision_takes_half_the_bytes(whole: AnchorCache, tmp_path: Path) -> None:
    half = build(tmp_path / "cache", dtype="float16")
    ours, theirs = half.batch([0, 50]).teacher, whole.batch([0, 50]).teacher
    assert ours.output.dtype == torch.float32
    torch.testing.assert_close(ours.output, theirs.output, rtol=1e-3, atol=1e-3)
    assert not torch.equal(ours.output, theirs.output)
    name = "hidden/ear/mean_masked"
    assert half.provenance.sizes[name] == whole.provenance.sizes[name] / 2


@pytest.mark.parametrize(("name", "value"), [("inputs", "embeded"), ("dtype", "bfloat16")])
def test_a_choice_that_does_not_exist_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is '{value}': it must be one of"):
        build(tmp_path / "cache", **{name: value})
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_those_of_the_columns(whole: AnchorCache) -> None:
    pooled = whole.provenance.sizes["hidden/ear/mean_masked"]
    assert pooled == NUM_ROWS * 4 * 4
    assert set(whole.provenance.sizes) == set(whole.dataset.column_names)


def test_the_card_says_what_the_cache_is(whole: AnchorCache) -> None:
    card = (whole.folder / "README.md").read_text()
    assert card.startswith("---\ntags: [craft-trainer, anchors]\n")
    scale = load_file(whole.folder / "statistics.safetensors")["variance/output"].mean().item()
    for part in (
        "| teacher | seer |",
        "100 of the 1000 of seen and heard",
        "| odd | 66 |",
        f"| `output` | {whole.mean['output'].mean().item():.4g} | {scale:.4g} |",
        "| `hidden/ear/mean_masked` | 16 |",
        whole.provenance.fingerprint,
    ):
        assert part in card
    assert np.isfinite(scale)
    assert (whole.folder / PROVENANCE_FILE).is_file()
