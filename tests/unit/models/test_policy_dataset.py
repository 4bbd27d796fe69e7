"""A gathered batch equals LeRobot's own items, collated, for every key and at the ends of episodes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from torch.utils.data import DataLoader, default_collate

from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import PolicyDataset, collate, load_metadata


def lerobot_items(root: Path, config: object, rows: list[int]) -> dict[str, object]:
    """The oracle: LeRobot's dataset, made and indexed as LeRobot's own training script does, then collated."""
    meta = load_metadata(str(root))
    deltas = resolve_delta_timestamps(config, meta)
    dataset = LeRobotDataset("local/tiny", root=root, delta_timestamps=deltas, video_backend="pyav")
    return default_collate([dataset[row] for row in rows])


def assert_equal_batches(actual: dict[str, object], expected: dict[str, object]) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert actual[key].dtype == value.dtype, key
            assert torch.equal(actual[key], value), key
        else:
            assert actual[key] == value, key


def test_every_frame_equals_lerobots_own(tiny_dataset: Path, tiny_policy: Callable[..., PolicyModel]) -> None:
    dataset = PolicyDataset(str(tiny_dataset), tiny_policy().policy_config)
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    expected = lerobot_items(tiny_dataset, tiny_policy().policy_config, rows)
    assert expected["action"].shape == (len(dataset), 8, 4)
    assert expected["action_is_pad"].any()  # the rows reach the ends of episodes
    assert_equal_batches(dataset.__getitems__(rows), expected)
    assert_equal_batches(dataset.batch(rows), expected)


def test_windows_into_the_past_stop_at_the_first_frame(tiny_dataset: Path) -> None:
    config = DiffusionConfig(
        n_obs_steps=3,
        horizon=8,
        n_action_steps=4,
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (39,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
        push_to_hub=False,
        device="cpu",
    )
    dataset = PolicyDataset(str(tiny_dataset), config)
    rows = list(range(60))
    expected = lerobot_items(tiny_dataset, config, rows)
    assert expected["observation.state"].shape == (60, 3, 4)
    assert expected["observation.state_is_pad"].any()
    assert_equal_batches(dataset.batch(rows), expected)


def test_a_dataloader_yields_the_same_batches(tiny_dataset: Path, tiny_policy: Callable[..., PolicyModel]) -> None:
    config = tiny_policy().policy_config
    loader = DataLoader(PolicyDataset(str(tiny_dataset), config), batch_size=16, collate_fn=collate)
    assert_equal_batches(next(iter(loader)), lerobot_items(tiny_dataset, config, list(range(16))))


def test_one_item_is_lerobots_item(tiny_dataset: Path, tiny_policy: Callable[..., PolicyModel]) -> None:
    config = tiny_policy().policy_config
    sample = PolicyDataset(str(tiny_dataset), config)[3]
    assert_equal_batches(default_collate([sample]), lerobot_items(tiny_dataset, config, [3]))


def test_task_of_frame_is_the_sentence_of_each_item(
    tiny_dataset: Path, tiny_policy: Callable[..., PolicyModel]
) -> None:
    dataset = PolicyDataset(str(tiny_dataset), tiny_policy().policy_config)
    assert dataset.task_of_frame == [dataset.frames[row]["task"] for row in range(len(dataset))]
    assert set(dataset.task_of_frame) == {"push the puck", "open the door"}


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path, tiny_policy: Callable[..., PolicyModel]) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no meta/info.json: it is not a LeRobot dataset"):
        load_metadata(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        PolicyDataset(str(tmp_path), tiny_policy().policy_config)


@pytest.mark.parametrize("size", [100, 2**25])
def test_another_video_of_the_same_size_is_another_dataset(
    tiny_dataset: Path, tiny_policy: Callable[..., PolicyModel], tmp_path: Path, size: int
) -> None:
    """One that was encoded again differs all over. Seen to fail with the names and sizes of videos."""
    folder = shutil.copytree(tiny_dataset, tmp_path / "data")
    samples = PolicyDataset(str(folder), tiny_policy().policy_config)
    fingerprints = []
    for seed in (0, 0, 1):
        video = folder / "videos" / "observation.images.top" / "file-000.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        video.write_bytes(np.random.default_rng(seed).bytes(size))
        fingerprints.append(samples.fingerprint())
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
