"""The anchor cache: equal to a live teacher, refused when damaged, changed or another's, absent when it failed."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec, extract
from craft_trainer.anchors.provenance import PROVENANCE_FILE, Provenance
from craft_trainer.models.base import TokenLayout
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import PolicyDataset

type MakePolicy = Callable[..., PolicyModel]


@pytest.fixture
def copied_cache(tiny_anchors: AnchorCache, tmp_path: Path) -> Path:
    """A copy of the tiny anchors that a test may damage."""
    return Path(shutil.copytree(tiny_anchors.folder, tmp_path / "anchors"))


def test_cached_features_equal_a_live_teachers(
    tiny_anchors: AnchorCache, tiny_policy: MakePolicy, tiny_specs: list[FeatureSpec]
) -> None:
    """Recomputed in the batches the cache was built in, from what the cache stores as inputs."""
    teacher = tiny_policy().train()
    for start in range(0, len(tiny_anchors), 7):
        batch = tiny_anchors.batch(range(start, min(start + 7, len(tiny_anchors))))
        with torch.no_grad():
            live = extract(teacher, batch.inputs, tiny_specs, output=True)
        assert live.hidden.keys() == batch.teacher.hidden.keys()
        for name, hidden in live.hidden.items():
            assert torch.equal(batch.teacher.hidden[name], hidden), name
        assert torch.equal(batch.teacher.output, live.output)


def test_a_student_that_is_the_teacher_is_at_distance_zero_in_any_batch(
    tiny_anchors: AnchorCache, tiny_policy: MakePolicy, tiny_specs: list[FeatureSpec]
) -> None:
    batch = tiny_anchors.batch([17, 3, 3, 9])
    live = extract(tiny_policy(), batch.inputs, tiny_specs, output=True)
    for name, hidden in live.hidden.items():
        torch.testing.assert_close(hidden, batch.teacher.hidden[name])


def test_hidden_features_are_read_without_the_output(tiny_anchors: AnchorCache) -> None:
    whole, hidden = tiny_anchors.batch([17, 3]), tiny_anchors.batch([17, 3], output=False)
    assert whole.teacher.output is not None
    assert hidden.teacher.output is None
    assert hidden.teacher.hidden.keys() == whole.teacher.hidden.keys()
    for name, value in whole.teacher.hidden.items():
        assert torch.equal(hidden.teacher.hidden[name], value), name


def test_cached_inputs_are_the_datasets_samples(
    tiny_anchors: AnchorCache, tiny_dataset: Path, tiny_policy: MakePolicy
) -> None:
    dataset = PolicyDataset(str(tiny_dataset), tiny_policy().policy_config)
    batch = tiny_anchors.batch([0, 4, 11])
    expected = dataset.batch([0, 20, 55])  # every fifth frame is an anchor
    assert set(batch.inputs) == set(tiny_policy().input_keys())
    for key, value in batch.inputs.items():
        if key == "task":
            assert value == expected["task"] == batch.groups
        else:
            assert value.dtype == expected[key].dtype
            assert torch.equal(value, expected[key])


def test_a_student_can_train_on_cached_inputs(tiny_anchors: AnchorCache, tiny_policy: MakePolicy) -> None:
    """Targets and padding flags are cached as well: the task loss of anchors is that of the dataset's samples."""
    assert tiny_policy().eval()(**tiny_anchors.batch([0, 1]).inputs)["loss"].isfinite()


def test_groups_are_those_of_the_rows(tiny_anchors: AnchorCache) -> None:
    assert tiny_anchors.batch(range(len(tiny_anchors))).groups == tiny_anchors.groups
    assert tiny_anchors.provenance.groups == dict(Counter(tiny_anchors.groups))
    assert tiny_anchors.batch([0]).teacher.tokens is None  # a policy predicts actions


def test_statistics_are_numpys_mean_and_variance_over_anchors_and_tokens(
    tiny_anchors: AnchorCache, tiny_specs: list[FeatureSpec]
) -> None:
    decoded = tiny_anchors.dataset.with_format("numpy")
    for name in [*(spec.column for spec in tiny_specs), "output"]:
        values = np.stack(decoded[name][:]).astype(np.float64)
        values = values.reshape(-1, values.shape[-1])
        np.testing.assert_allclose(tiny_anchors.mean[name].numpy(), values.mean(axis=0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(tiny_anchors.variance[name].numpy(), values.var(axis=0), rtol=1e-6, atol=1e-9)
        total = tiny_anchors.scales()[name]
        assert total.shape == ()
        assert total.item() == pytest.approx(values.var(axis=0).mean(), rel=1e-6)


def test_provenance_says_what_the_cache_holds(tiny_anchors: AnchorCache, tiny_specs: list[FeatureSpec]) -> None:
    provenance = tiny_anchors.provenance
    assert tiny_anchors.specs == tiny_specs
    assert sum(provenance.groups.values()) == len(tiny_anchors)
    assert set(provenance.groups) == {"push the puck", "open the door"}
    described = {PROVENANCE_FILE, "README.md"}
    assert set(provenance.files) == {path.name for path in tiny_anchors.folder.iterdir()} - described


def test_building_again_gives_the_same_fingerprint(
    tiny_anchors: AnchorCache, tiny_policy: MakePolicy, build_tiny_anchors: Callable[..., AnchorCache], tmp_path: Path
) -> None:
    again = build_tiny_anchors(tiny_policy(), tmp_path / "elsewhere")
    assert again.provenance.fingerprint == tiny_anchors.provenance.fingerprint
    other = build_tiny_anchors(tiny_policy(seed=1), tmp_path / "other")
    assert other.provenance.fingerprint != tiny_anchors.provenance.fingerprint


@pytest.mark.parametrize("suffix", [".arrow", ".safetensors"])
def test_a_flipped_byte_is_refused(copied_cache: Path, suffix: str) -> None:
    (file,) = copied_cache.glob(f"*{suffix}")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{file.name} is missing or damaged; rebuild it with `craft-trainer cache build`"
    ):
        AnchorCache(copied_cache)


@pytest.mark.parametrize("suffix", [".arrow", ".safetensors"])
def test_a_missing_file_is_refused(copied_cache: Path, suffix: str) -> None:
    (file,) = copied_cache.glob(f"*{suffix}")
    file.unlink()
    with pytest.raises(ValueError, match=rf"{file.name} is missing or damaged"):
        AnchorCache(copied_cache)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("teachers", "weights", "0" * 64),
        ("teachers", "processors", "0" * 64),
        ("teachers", "anchors", 1),
        ("data", "rows", "0" * 64),
        ("data", "frames", 1),
        ("groups", "push the puck", 1),
    ],
)
def test_a_changed_provenance_is_refused(copied_cache: Path, part: str, key: str, value: str | int) -> None:
    content = json.loads((copied_cache / PROVENANCE_FILE).read_text())
    (changed,) = content[part] if part == "teachers" else [content[part]]
    assert changed[key] != value
    changed[key] = value
    (copied_cache / PROVENANCE_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the fingerprint does not fit its contents; rebuild it"):
        AnchorCache(copied_cache)


def test_a_changed_pooling_is_refused(copied_cache: Path) -> None:
    content = json.loads((copied_cache / PROVENANCE_FILE).read_text())
    content["features"][0]["pooling"] = "cls_token"
    (copied_cache / PROVENANCE_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the fingerprint does not fit"):
        AnchorCache(copied_cache)


def test_another_schema_is_refused(copied_cache: Path) -> None:
    content = json.loads((copied_cache / PROVENANCE_FILE).read_text()) | {"schema": 99}
    (copied_cache / PROVENANCE_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"anchors.json: schema 99, not 6: rebuild"):
        AnchorCache(copied_cache)


def test_places_and_versions_are_not_in_the_fingerprint_but_in_the_checksum(
    copied_cache: Path, tiny_anchors: AnchorCache
) -> None:
    """Seen to fail without the checksum: another path, version or size went unnoticed."""
    made = AnchorCache(copied_cache).provenance
    made.teachers[0]["path"] = made.data["dataset"] = "/moved"
    made.versions["torch"] = "99"
    made.write(copied_cache)
    assert AnchorCache(copied_cache).provenance.fingerprint == tiny_anchors.provenance.fingerprint
    content = json.loads((copied_cache / PROVENANCE_FILE).read_text())
    content["versions"]["torch"] = "100"
    (copied_cache / PROVENANCE_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"anchors\.json: sha256 does not fit the rest.*; rebuild it"):
        AnchorCache(copied_cache)


def test_a_folder_that_is_no_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no anchors.json: it is not a finished anchor cache"):
        AnchorCache(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        AnchorCache(tmp_path / "absent")


def test_a_provenance_survives_its_file(tiny_anchors: AnchorCache, copied_cache: Path) -> None:
    (copied_cache / PROVENANCE_FILE).unlink()
    tiny_anchors.provenance.write(copied_cache)
    assert Provenance.read(copied_cache) == tiny_anchors.provenance


def test_its_own_teacher_is_accepted(tiny_anchors: AnchorCache, tiny_policy: MakePolicy) -> None:
    tiny_anchors.check_teacher(tiny_policy())


def test_other_weights_are_refused_with_the_way_out(tiny_anchors: AnchorCache, tiny_policy: MakePolicy) -> None:
    student = tiny_policy()
    with torch.no_grad():
        next(student.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(
        ValueError, match=r"weights .*\(tiny\), but the given one has .*`craft-trainer cache build`"
    ) as error:
        tiny_anchors.check_teacher(student)
    assert student.fingerprint()["weights"][:12] in str(error.value)


def test_other_normalisation_statistics_are_refused(tiny_anchors: AnchorCache, tiny_policy: MakePolicy) -> None:
    student = tiny_policy(min_std=10.0)
    assert student.fingerprint()["weights"] == tiny_policy().fingerprint()["weights"]
    with pytest.raises(ValueError, match="teacher with processors"):
        tiny_anchors.check_teacher(student)


def test_all_files_of_a_cache_may_be_read_by_the_same_people(tiny_anchors: AnchorCache) -> None:
    """Seen to fail with statistics.safetensors at 0600 beside 0644."""
    assert len({file.stat().st_mode for file in tiny_anchors.folder.iterdir()}) == 1


class Teacher(nn.Module):
    """One linear layer on numbers; fails at its ``fail_at``-th pass."""

    def __init__(self, fail_at: int = 10**9) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.fail_at = fail_at

    @property
    def network(self) -> nn.Module:
        return self

    output_kind = "numbers"

    def predict(self, batch: dict[str, Any]) -> torch.Tensor:
        self.fail_at -= 1
        if self.fail_at == 0:
            raise RuntimeError("out of memory")
        return self.layer(batch["x"])[:, None]

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch

    def token_layout(self, path: str, inputs: dict[str, Any], shape: torch.Size) -> TokenLayout:
        return TokenLayout()

    def image_keys(self) -> list[str]:
        return []

    def noise(self, rows: list[int]) -> dict[str, torch.Tensor]:
        return {}

    def packed(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        return {}

    def input_keys(self) -> list[str]:
        return ["x"]

    def label_keys(self) -> list[str]:
        return []

    def fingerprint(self) -> dict[str, str]:
        return {"weights": "w", "processors": "p"}


def build(teacher: Teacher, folder: Path, load_batch: Callable[[list[int]], dict[str, Any]]) -> AnchorCache:
    return build_anchor_cache(
        teacher,
        load_batch,
        folder,
        rows=range(12),
        groups=["a"] * 12,
        specs=[],
        batch_size=4,
        source={"dataset": "numbers", "frames": 12},
        teacher_path="memory",
    )


def numbers(rows: list[int]) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor(rows).float()[:, None] * torch.tensor([1.0, -2.0]), "not an input": torch.zeros(1)}


def test_a_cache_is_built_without_lerobot(tmp_path: Path) -> None:
    teacher = Teacher()
    cache = build(teacher, tmp_path / "parent" / "cache", numbers)
    batch = cache.batch([2, 7])
    assert batch.inputs.keys() == {"x"}
    assert torch.equal(batch.inputs["x"], torch.tensor([[2.0, -4.0], [7.0, -14.0]]))
    torch.testing.assert_close(batch.teacher.output, teacher.layer(batch.inputs["x"])[:, None])


@pytest.mark.parametrize("fail_at", [1, 3])
def test_nothing_is_left_when_the_teacher_fails(tmp_path: Path, fail_at: int) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        build(Teacher(fail_at), tmp_path / "cache", numbers)
    assert list(tmp_path.iterdir()) == []
    assert len(build(Teacher(), tmp_path / "cache", numbers)) == 12  # and the next attempt succeeds


def test_a_constant_feature_is_refused_and_leaves_no_cache(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="output is the same for all anchors: leave it out, or take more of them"):
        build(Teacher(), tmp_path / "cache", lambda rows: {"x": torch.ones(len(rows), 2)})
    assert list(tmp_path.iterdir()) == []
    assert len(build(Teacher(), tmp_path / "cache", numbers)) == 12


def test_an_existing_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="delete it, or choose another folder"):
        build(Teacher(), tmp_path / "cache", numbers)
    assert (tmp_path / "cache" / "mine").read_text() == "precious"
