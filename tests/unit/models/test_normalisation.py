"""A policy keeps its statistics; a dataset far outside them is seen, and replaces them only when it is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from craft_trainer.cli.main import main
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import PolicyDataset, load_metadata
from craft_trainer.models.normalisation import DEVIATIONS, far_outside, replace_statistics

type MakePolicy = Callable[..., PolicyModel]
MAPPING = {"STATE": "MEAN_STD", "ENV": "MIN_MAX", "ACTION": "MEAN_STD"}


@pytest.fixture
def policy(tiny_policy: MakePolicy) -> PolicyModel:
    return tiny_policy(normalization_mapping=MAPPING)


@pytest.fixture
def stats(tiny_dataset: Path) -> dict[str, dict[str, Any]]:
    return {key: dict(value) for key, value in load_metadata(str(tiny_dataset)).stats.items()}


def test_its_own_data_lies_inside(policy: PolicyModel, stats: dict[str, dict[str, Any]]) -> None:
    assert far_outside(policy, stats) == []


def test_a_dimension_far_outside_is_named_with_what_it_reaches(
    policy: PolicyModel, stats: dict[str, dict[str, Any]]
) -> None:
    """State by mean and deviation, environment by minimum and maximum. Seen to fail with the mean for the extremes."""
    state, environment = dict(stats["observation.state"]), dict(stats["observation.environment_state"])
    far = state["mean"] + 12 * state["std"]
    stats["observation.state"] = state | {"max": np.where(np.arange(4) == 2, far, state["max"])}
    width = environment["max"] - environment["min"]
    low = environment["min"] - np.where(np.arange(39) == 7, 2 * width, 0)
    stats["observation.environment_state"] = environment | {"min": low}
    found = {(outside.feature, outside.dimension): outside.reached for outside in far_outside(policy, stats)}
    assert found == {
        ("observation.state", 2): pytest.approx(12, rel=1e-3),
        ("observation.environment_state", 7): pytest.approx(5, rel=1e-3),
    }


def test_a_coordinate_that_never_moved_explodes_at_the_smallest_move(
    tiny_policy: MakePolicy, stats: dict[str, dict[str, Any]]
) -> None:
    """Unless a floor was given for its deviation."""
    policy = tiny_policy(normalization_mapping=MAPPING)
    still = dict(stats["observation.state"])
    still |= {name: np.zeros(4) for name in ("std", "mean", "min", "max")}
    replace_statistics(policy, {"observation.state": still})
    moved = {"observation.state": stats["observation.state"] | {"min": np.zeros(4), "max": np.full(4, 0.01)}}
    assert len(far_outside(policy, moved)) == 4
    replace_statistics(policy, {"observation.state": still}, min_std=0.01)
    assert far_outside(policy, moved) == []


def test_replaced_statistics_are_those_the_policy_sees_and_acts_by(
    policy: PolicyModel, stats: dict[str, dict[str, Any]], tiny_dataset: Path, tmp_path: Path
) -> None:
    """Before and after saving. Seen to fail with the postprocessor left as it was."""
    batch = PolicyDataset(str(tiny_dataset), policy.policy_config).batch([0, 9])
    action = stats["action"] | {"mean": stats["action"]["mean"] + 1, "std": stats["action"]["std"] * 2}
    (line,) = replace_statistics(policy, {"action": action})
    assert line.startswith("action: mean by up to 1, std by up to ")
    policy.save_pretrained(tmp_path)
    for model in (policy, PolicyModel.from_pretrained(tmp_path)):
        seen = model.preprocessor(dict(batch))["action"]
        expected = (batch["action"].numpy() - action["mean"]) / action["std"]
        np.testing.assert_allclose(seen.numpy(), expected, rtol=1e-4, atol=1e-5)
        acted = model.postprocessor(torch.zeros(1, 4))
        np.testing.assert_allclose(acted[0].numpy(), action["mean"], rtol=1e-5)


def train(policy: Path, dataset: Path, folder: Path, *more: str) -> int:
    words = ["--max_steps", "1", "--report_to", "none", "--save_strategy", "no", "--disable_tqdm", "true", "--use_cpu"]
    return main(
        ["train", "--model", str(policy), "--dataset", str(dataset), "--output_dir", str(folder), *words, *more]
    )


def test_training_keeps_the_statistics_and_warns(
    tiny_policy: MakePolicy, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tiny_policy(normalization_mapping=MAPPING)
    still = {"observation.state": {name: np.zeros(4) for name in ("mean", "std", "min", "max")}}
    replace_statistics(policy, still)
    policy.save_pretrained(tmp_path / "policy")
    assert train(tmp_path / "policy", tiny_dataset, tmp_path / "kept") == 0
    text = capsys.readouterr().out
    assert "warning: observation.state[0] of" in text
    assert "4 dimension(s) lie far outside" in text
    kept = PolicyModel.from_pretrained(tmp_path / "kept")
    assert kept.fingerprint()["processors"] == policy.fingerprint()["processors"]
    assert DEVIATIONS == 10


def test_training_replaces_them_only_when_asked(
    tiny_policy: MakePolicy, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tiny_policy(normalization_mapping=MAPPING)
    batch = PolicyDataset(str(tiny_dataset), policy.policy_config).batch([0, 9])
    expected = policy.preprocessor(dict(batch))["observation.state"]
    replace_statistics(policy, {"observation.state": {"mean": np.ones(4), "std": np.ones(4)}})
    policy.save_pretrained(tmp_path / "policy")
    assert train(tmp_path / "policy", tiny_dataset, tmp_path / "new", "--statistics", "dataset") == 0
    assert "statistics replaced: observation.state: mean by up to" in capsys.readouterr().out
    seen = PolicyModel.from_pretrained(tmp_path / "new").preprocessor(dict(batch))["observation.state"]
    torch.testing.assert_close(seen, expected)


def test_other_statistics_and_anchors_exclude_each_other(
    tiny_policy: MakePolicy, tmp_path: Path, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_policy(normalization_mapping=MAPPING).save_pretrained(tmp_path)
    assert train(tmp_path, tiny_dataset, tmp_path / "x", "--statistics", "dataset", "--anchors", "org/a") == 1
    assert "statistics dataset and anchors exclude each other" in capsys.readouterr().err
    assert train(tmp_path, tiny_dataset, tmp_path / "x", "--statistics", "both") == 1
    assert "statistics is 'both': it must be keep or dataset" in capsys.readouterr().err


def without(model: PolicyModel, feature: str, folder: Path) -> Path:
    """A checkpoint of ``model`` whose normalisers have ``feature`` by another name, as of several datasets."""
    for step in (*model.preprocessor.steps, *model.postprocessor.steps):
        if hasattr(step, "stats"):
            step.stats = {f"so100.{name}" if name == feature else name: value for name, value in step.stats.items()}
            step.to()
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("feature", ["observation.state", "observation.environment_state", "action"])
def test_statistics_that_are_missing_are_refused_and_can_be_given(
    policy: PolicyModel, stats: dict[str, dict[str, Any]], feature: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    """LeRobot's steps hand through what they have no statistics of. Even those that were asked for were not taken."""
    folder = without(policy, feature, tmp_path)
    with pytest.raises(ValueError, match=rf"{feature} is to be normalised .* lack its .*so100\.{feature}.*--adapt_to"):
        PolicyModel.from_pretrained(folder)
    adapted = PolicyModel.from_pretrained(folder, adapt_to=load_metadata(str(tiny_dataset)))
    replaced = PolicyModel.from_pretrained(folder, whole_statistics=False)
    with pytest.raises(ValueError, match=f"{feature} is to be normalised"):
        replace_statistics(replaced, {})
    assert f"{feature}: it had none" in replace_statistics(replaced, stats)
    raw = PolicyDataset(str(tiny_dataset), policy.policy_config).batch([0, 9])
    for name in stats.keys() & raw.keys() & {feature}:
        seen = [model.preprocessor(dict(raw))[name] for model in (adapted, replaced)]
        torch.testing.assert_close(*seen)
        assert not torch.equal(seen[0], raw[name])


def test_what_has_no_statistics_cannot_be_drawn_or_perturbed(policy: PolicyModel) -> None:
    for step in policy.preprocessor.steps:
        if hasattr(step, "stats"):
            step.stats = {}
    with pytest.raises(ValueError, match=r"has no statistics of observation\..*take another source, without views"):
        policy.observed_moments()


def test_a_dataset_without_quantiles_is_refused_by_name(tiny_policy: MakePolicy, tiny_dataset: Path) -> None:
    """Also for a new policy. It was ``KeyError: 'q01'``."""
    meta = load_metadata(str(tiny_dataset))
    for values in meta.stats.values():
        values.pop("q99")
    mapping = MAPPING | {"ACTION": "QUANTILES"}
    with pytest.raises(ValueError, match=r"action is to be normalised \(QUANTILES\).* lack its q99 .*augment_dataset"):
        PolicyModel.from_config("act", meta, {"use_vae": False, "device": "cpu", "normalization_mapping": mapping})
