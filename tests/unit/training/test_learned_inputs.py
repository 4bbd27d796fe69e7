"""The trap: a teacher's answers held on the inputs that are learned. What is refused, warned of and let pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Subset

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.anchors.joining import join_caches
from craft_trainer.models.lerobot_dataset import PolicyDataset
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.learned_inputs import learned_rows, may_hold_what_is_learned, refuse_learned_inputs

REFUSED = r"anchors have the inputs that are to be learned, so holding the teacher's answers to them \(output\) forbids"


@pytest.fixture(scope="module")
def policy(tiny_policy: Any) -> Any:
    return tiny_policy()


@pytest.fixture(scope="module")
def data(policy: Any, tiny_dataset: Path) -> PolicyDataset:
    return PolicyDataset.of(policy, str(tiny_dataset))


class Build:
    """Builds caches of ``rows`` of the data: other sentences or states, its fingerprint or another."""

    def __init__(self, policy: Any, data: PolicyDataset, folder: Path) -> None:
        self.policy, self.data, self.folder, self.number = policy, data, folder, 0

    def __call__(
        self, *, known: bool = False, sentence: str = "", moved: float = 0.0, labels: str = "own", **options: Any
    ) -> AnchorCache:
        rows = options.pop("rows", list(range(0, len(self.data), 4)))
        prompts = options.pop("prompts", {})
        self.number += 1

        def load(chosen: list[int]) -> dict[str, Any]:
            batch = self.data.batch(chosen)
            if sentence:
                batch["task"] = [sentence] * len(chosen)
            batch["observation.state"] = batch["observation.state"] + moved * (torch.tensor(chosen) % 8 > 0)[:, None]
            if labels == "teacher":
                with torch.no_grad():
                    inputs = self.policy.prepare({k: batch[k] for k in self.policy.input_keys()})
                    chunk = self.policy.eval().predict(inputs)
                batch["action"] = self.unnormalised(chunk)
            return batch

        fingerprint = self.data.fingerprint() if known else f"{self.number}"
        source = {"dataset": "data", "frames": len(self.data), "fingerprint": fingerprint, **prompts}
        common: dict[str, Any] = {"rows": rows, "groups": ["old"] * len(rows), "batch_size": 8}
        specs = [FeatureSpec(self.policy.module_path(-1), "mean_masked")]
        common |= {"specs": specs, "source": source, "teacher_path": "tiny"}
        return build_anchor_cache(self.policy, load, self.folder / f"{self.number}", **common | options)

    def unnormalised(self, chunk: torch.Tensor) -> torch.Tensor:
        return self.policy.postprocessor(chunk.flatten(0, 1)).view(chunk.shape)


@pytest.fixture
def build(policy: Any, data: PolicyDataset, tmp_path: Path) -> Build:
    return Build(policy, data, tmp_path)


def settings(tmp_path: Path, **changes: Any) -> Any:
    return CraftConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **changes)


def test_anchors_of_the_dataset_that_is_learned_are_refused(build: Build, data: PolicyDataset, tmp_path: Path) -> None:
    """Seen to fail with the fingerprint left out, where a cache of references has no inputs to compare."""
    references = build(known=True, inputs="reference")
    for learned, share in ((data, len(references)), (Subset(data, range(3)), 1)):
        with pytest.raises(ValueError, match=REFUSED) as error:
            refuse_learned_inputs(references, learned, settings(tmp_path))
        assert f"{share} of {len(references)} anchors" in str(error.value)
        assert "retention_terms: [hidden]" in str(error.value)
    assert learned_rows(build(inputs="reference"), data) == []


def test_anchors_of_episodes_that_are_held_out_are_not_learned(
    build: Build, data: PolicyDataset, tmp_path: Path
) -> None:
    """Seen to fail: every one of them was said to be learned, because the dataset is the same."""
    held_out = data.rows_of(0.34, learned=False) or []
    learned = Subset(data, data.rows_of(0.34, learned=True) or [])
    assert len(held_out)
    assert len(learned)
    apart = [build(known=True, rows=held_out[place::2], inputs="reference") for place in (0, 1)]
    embedded = build(known=True, rows=held_out)
    joined = [
        join_caches(parts, tmp_path / f"joined{number}", num_anchors=10**6, seed=0)
        for number, parts in enumerate((apart, [embedded, build(known=True, rows=held_out[::2])]))
    ]
    for cache in (apart[0], embedded, *joined):
        refuse_learned_inputs(cache, learned, settings(tmp_path))
        with pytest.raises(ValueError, match=f"{len(cache)} of {len(cache)} anchors"):
            refuse_learned_inputs(cache, data, settings(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"learned_inputs": "allow"},
        {"retention_terms": ["hidden"]},
        {"retention_terms": ["hidden", "task"]},
        {"retention_terms": ["hidden", "output"], "retention_weights": [1.0, 0.0]},
        {"method": "replay"},
        {"method": "plain"},
        {"method": "weighted_sum", "multiplier_init": 0.0},
    ],
)
def test_what_holds_no_answers_passes(
    build: Build, data: PolicyDataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    refuse_learned_inputs(build(known=True), data, settings(tmp_path, **changes))


def test_anchors_that_nobody_chose_are_never_what_is_learned(build: Build, tmp_path: Path) -> None:
    """A run whose constraint is not met names that cause, but not where `anchors: auto` made them."""
    chosen, own = build(), build(prompts={"chosen": "auto"})
    assert may_hold_what_is_learned(chosen, settings(tmp_path))
    assert not may_hold_what_is_learned(own, settings(tmp_path))
    assert not may_hold_what_is_learned(chosen, settings(tmp_path, retention_terms=["hidden"]))


def test_data_that_cannot_be_compared_passes(build: Build, tmp_path: Path) -> None:
    refuse_learned_inputs(build(known=True), [{"x": 1}], settings(tmp_path))
    refuse_learned_inputs(build(known=True), None, settings(tmp_path))


def test_the_same_frames_of_another_dataset_are_found_by_state_and_sentence(
    build: Build, data: PolicyDataset, tmp_path: Path
) -> None:
    """A part of the data, or a copy of it, has another fingerprint."""
    with pytest.raises(ValueError, match=REFUSED):
        refuse_learned_inputs(build(), data, settings(tmp_path))
    assert learned_rows(build(sentence="an old instruction"), data) == []
    assert learned_rows(build(moved=1e-3), data) == list(range(0, len(range(0, len(data), 4)), 2))


def test_old_instructions_on_the_frames_that_are_learned_are_not_the_trap(
    build: Build, data: PolicyDataset, tmp_path: Path
) -> None:
    """Their data has the fingerprint of what is learned; ``prompts`` says that its sentences are others."""
    prompts = {"prompts": ["an old instruction"]}
    told = build(known=True, sentence="an old instruction", prompts=prompts)
    refuse_learned_inputs(told, data, settings(tmp_path))
    with pytest.raises(ValueError, match=REFUSED):  # the old instructions are those that are learned
        refuse_learned_inputs(build(known=True, prompts=prompts), data, settings(tmp_path))


@pytest.fixture
def one_of_21(build: Build, data: PolicyDataset) -> AnchorCache:
    """Frame 0 of what is learned, among frames that were moved; of labels nothing is known."""
    rows = [0, *[row for row in range(len(data)) if row % 8][:20]]
    return build(rows=rows, groups=["one"] * 2 + ["two"] * 19, moved=1e-3, output=False)


def test_an_overlap_is_refused_when_epsilon_has_no_room_for_it(
    one_of_21: AnchorCache, data: PolicyDataset, tmp_path: Path
) -> None:
    """So was the share of the run that never learned its new task."""
    assert learned_rows(one_of_21, data) == [0]
    with pytest.raises(ValueError, match="1 of 21 anchors"):
        refuse_learned_inputs(one_of_21, data, settings(tmp_path))
    refuse_learned_inputs(one_of_21, data, settings(tmp_path, epsilon=0.05))


def test_a_group_with_a_constraint_of_its_own_has_no_room_in_others(
    one_of_21: AnchorCache, data: PolicyDataset, tmp_path: Path
) -> None:
    """It is half of its group."""
    with pytest.raises(ValueError, match="1 of 21 anchors"):
        refuse_learned_inputs(one_of_21, data, settings(tmp_path, epsilon=0.05, constraints="per_group"))


@pytest.mark.parametrize("schedule", ["linear", "exponential"])
def test_an_epsilon_that_falls_has_no_room_where_it_ends(
    one_of_21: AnchorCache, data: PolicyDataset, tmp_path: Path, schedule: str
) -> None:
    """At the start there is room for 1 of 21. Seen to fail: the start alone was looked at, so nothing was refused."""
    falling = {"epsilon_schedule": schedule, "epsilon": 0.2}
    for end in ({"epsilon_final": 0.04}, {"retention": 0.99}):
        with pytest.raises(ValueError, match="1 of 21 anchors"):
            refuse_learned_inputs(one_of_21, data, settings(tmp_path, **falling, **end))
    refuse_learned_inputs(one_of_21, data, settings(tmp_path, **falling, epsilon_final=0.05))


def test_a_group_is_compared_with_its_own_epsilon(one_of_21: AnchorCache, data: PolicyDataset, tmp_path: Path) -> None:
    """It is half of group one, and none of group two. Seen to fail: an ε of 0.6 for group one was refused."""
    own = {"constraints": "per_group", "epsilon": 0.2}
    for epsilons in ({"one": 0.4}, {"two": 0.6}):
        with pytest.raises(ValueError, match="1 of 21 anchors"):
            refuse_learned_inputs(one_of_21, data, settings(tmp_path, **own, epsilon_per_group=epsilons))
    refuse_learned_inputs(one_of_21, data, settings(tmp_path, **own, epsilon_per_group={"one": 0.6, "two": 0.01}))
    with pytest.raises(ValueError, match="1 of 21 anchors"):
        refuse_learned_inputs(
            one_of_21, data, settings(tmp_path, **own | {"epsilon": 0.6}, epsilon_per_group={"one": 0.4})
        )


def test_labels_that_are_the_teachers_answers_are_no_conflict(
    build: Build, data: PolicyDataset, tmp_path: Path
) -> None:
    """More of what the teacher was trained on: a student that learns it stays within ε."""
    cache = build(known=True, labels="teacher")
    assert cache.task_losses(range(len(cache))).max() < 1e-4
    refuse_learned_inputs(cache, data, settings(tmp_path))
    with pytest.raises(ValueError, match=REFUSED):  # nothing is known of labels without the teacher's loss on them
        refuse_learned_inputs(build(known=True, output=False), data, settings(tmp_path, epsilon_probe_steps=5))
    refuse_learned_inputs(build(known=True), data, settings(tmp_path, epsilon=1e3))


def test_joined_anchors_are_compared_by_their_inputs(build: Build, data: PolicyDataset, tmp_path: Path) -> None:
    """Some of two caches, one of which is of what is learned: of which it is known by the inputs."""
    parts = [build(known=True), build(sentence="an old instruction")]
    joined = join_caches(parts, tmp_path / "joined", num_anchors=10**6, seed=0)
    assert learned_rows(joined, data) == list(range(len(parts[0])))


def test_parts_of_several_sources_are_compared_and_joined(build: Build, data: PolicyDataset, tmp_path: Path) -> None:
    """A cache of several sources has their data by name. Seen to fail in joining, which expected a list."""
    new_task = {"dataset": "new", "frames": 2, "fingerprint": "own"}
    of_several = {"frames": 1, "fingerprint": "several", "parts": {"new_task": new_task}}
    parts = [build(prompts=of_several), build(sentence="an old instruction")]
    assert learned_rows(parts[0], data) == list(range(len(parts[0])))
    joined = join_caches(parts, tmp_path / "joined", num_anchors=10**6, seed=0)
    assert [part["fingerprint"] for part in joined.provenance.data["parts"]] == ["own", "2"]
