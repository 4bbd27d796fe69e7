"""What a cache holds comes back as it was: pixels, packed inputs, other lengths, references, half precision."""

import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from seer import NUM_ROWS, Seer, build, packed_samples, samples
from torch import Tensor

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import extract
from craft_trainer.anchors.provenance import PROVENANCE_FILE
from craft_trainer.anchors.relabelling import relabel_cache
from craft_trainer.anchors.statistics import ConstantFeatureError, token_scale
from craft_trainer.anchors.verification import deviations
from craft_trainer.models.base import Batch


def test_a_cache_is_written_and_measured_in_small_pieces(
    whole: AnchorCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its size. Seen to fail with pieces of 1,000 rows."""
    for module in ("shards", "statistics"):
        monkeypatch.setattr(f"craft_trainer.anchors.{module}.BYTES_AT_ONCE", 2048)
    cache = build(tmp_path / "cache")
    pieces = cache.dataset.data.table.column("group").chunks
    assert max(map(len, pieces)) * cache.dataset.data.nbytes / NUM_ROWS <= 2048
    assert cache.mean.keys() == whole.mean.keys()
    for name, mean in whole.mean.items():
        torch.testing.assert_close(cache.mean[name], mean)
        torch.testing.assert_close(cache.variance[name], whole.variance[name])
    assert torch.equal(cache.batch(range(NUM_ROWS)).teacher.output, whole.batch(range(NUM_ROWS)).teacher.output)


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
    assert ("packed/sounds" in cache.dataset.column_names) is (load is packed_samples)
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
    with pytest.raises(ValueError, match=r"pixels holds an image .* not 3 colours in steps of 1/255: build"):
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


def test_anchors_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither hidden features nor the output are asked for: name a layer, or keep"):
        build(tmp_path / "cache", specs=[], output=False)


def test_references_have_no_inputs_for_another_teacher(tmp_path: Path) -> None:
    cache = build(tmp_path / "cache", inputs="reference")
    with pytest.raises(ValueError, match=r"holds references to .*, not inputs: build it from there with"):
        relabel_cache(cache, Seer(), tmp_path / "again", teacher_path="other")


def test_a_teacher_that_never_doubts_gives_tokens_no_unit() -> None:
    sure = [(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))]
    with pytest.raises(ConstantFeatureError, match="has a mean entropy of 0 nats at 6 valid positions"):
        token_scale(sure)


@pytest.mark.parametrize(("name", "value"), [("inputs", "embeded"), ("dtype", "bfloat16")])
def test_a_choice_that_does_not_exist_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is '{value}': it must be one of"):
        build(tmp_path / "cache", **{name: value})
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_those_of_the_columns(whole: AnchorCache) -> None:
    pooled = whole.provenance.sizes["hidden/ear/mean_masked"]
    assert pooled == NUM_ROWS * 4 * 4
    assert set(whole.provenance.sizes) == set(whole.dataset.column_names)


def test_the_card_names_the_files_that_are_checked(whole: AnchorCache, tmp_path: Path) -> None:
    """A byte of each of them, and of no other. Seen to fail when the card spoke of every byte."""
    checks = (whole.folder / "README.md").read_text().split("checks the bytes of ")[1].split(".\n")[0]
    named = set(re.findall(r"`([^`]+)`", checks))
    assert named == {path.name for path in whole.folder.iterdir()} - {"README.md", "anchors.json"}
    for path in whole.folder.iterdir():
        if path.name == "anchors.json":
            continue
        folder = shutil.copytree(whole.folder, tmp_path / path.name)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        (folder / path.name).write_bytes(content)
        if path.name in named:
            with pytest.raises(ValueError, match=f"{path.name} is missing or damaged"):
                AnchorCache(folder)
        else:
            AnchorCache(folder)


def test_the_card_says_what_the_cache_is(whole: AnchorCache) -> None:
    card = (whole.folder / "README.md").read_text()
    assert card.startswith("---\ntags:\n- craft_trainer\n- continual-learning\n- anchors\n")
    scale = load_file(whole.folder / "statistics.safetensors")["variance/output"].mean().item()
    for part in (
        "| teacher | seer: weights `w`, processors `p` |",
        "| labels | none |",
        "100 of the 1000 of seen and heard",
        "| odd | 66 |",
        f"| `output` | {whole.mean['output'].mean().item():.4g} | {scale:.4g} |",
        "| `hidden/ear/mean_masked` | 16 |",
        whole.provenance.fingerprint,
    ):
        assert part in card
    assert np.isfinite(scale)
    assert (whole.folder / PROVENANCE_FILE).is_file()


def test_numbers_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    """They would be infinite in the cache."""

    class Loud(Seer):
        def predict(self, inputs: Batch) -> Tensor:
            return super().predict(inputs) + 7e4

    with pytest.raises(ValueError, match=r"^output is .* somewhere, beyond float16: use dtype float32"):
        build(tmp_path / "cache", Loud(), dtype="float16")
    assert len(build(tmp_path / "whole", Loud())) == NUM_ROWS


def test_a_teacher_of_no_numbers_is_refused_and_not_verified(whole: AnchorCache, tmp_path: Path) -> None:
    class Broken(Seer):
        def predict(self, inputs: Batch) -> Tensor:
            return super().predict(inputs) * torch.nan

    with pytest.raises(ValueError, match="output is not finite for row 0: look at that sample"):
        build(tmp_path / "cache", Broken())
    assert math.isnan(deviations(whole, Broken(), num_rows=9, batch_size=4)["output"])


def test_a_sample_of_no_numbers_is_refused_with_its_key_and_row(tmp_path: Path) -> None:
    """Seen to fail: what a teacher does not see of a sample, like the action of an ACT, was stored as NaN."""

    def load(rows: list[int]) -> dict[str, Any]:
        return samples(rows) | {"unseen": torch.tensor([torch.nan if row == 30 else 1.0 for row in rows])}

    class Wider(Seer):
        def input_keys(self) -> list[str]:
            return [*super().input_keys(), "unseen"]

    with pytest.raises(ValueError, match="input/unseen is not finite for row 30: look at that sample"):
        build(tmp_path / "cache", Wider(), load)


def test_every_batch_must_have_the_same_keys(tmp_path: Path) -> None:
    """Seen to fail with an error that named nothing."""

    def load(rows: list[int]) -> dict[str, Any]:
        batch = samples(rows)
        if rows[0] >= 20:
            del batch["sounds"]
        return batch

    class Deaf(Seer):
        def prepare(self, batch: Batch) -> Batch:
            return {**batch, "sounds": batch.get("sounds", torch.ones(len(batch["pixels"]), 3, 2))}

        def packed(self, batch: Batch) -> dict[str, list[int]]:
            return {}

    with pytest.raises(
        ValueError, match=r"input/sounds is None in one batch and .* every batch must have the same keys"
    ):
        build(tmp_path / "cache", Deaf(), load)


def test_half_precision_is_verified_beyond_its_rounding(tmp_path: Path) -> None:
    half = build(tmp_path / "cache", dtype="float16")
    assert max(deviations(half, Seer(), num_rows=50, batch_size=7).values()) < 1e-5
