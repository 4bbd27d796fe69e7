"""A gathered batch equals LeRobot's own items, collated, for every key and at the ends of episodes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.language import language_feature_info
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from torch.utils.data import DataLoader, default_collate

from craft_trainer.cli.compare import frames_of
from craft_trainer.models.fit import require_fit
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import (
    PolicyDataset,
    bytes_of_frames,
    collate,
    first_sentences,
    load_metadata,
)

STATE = "observation.state"
TINY = {"chunk_size": 8, "n_action_steps": 4, "dim_model": 16, "n_heads": 2, "dim_feedforward": 32, "device": "cpu"}
TINY |= {"n_encoder_layers": 1, "n_decoder_layers": 1, "use_vae": False, "dropout": 0.0}


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


def test_more_frames_than_are_held_in_memory_are_read_one_by_one(
    tiny_dataset: Path, tiny_policy: Callable[..., PolicyModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same samples. Seen to fail when every dataset without images was one table."""
    config, rows = tiny_policy().policy_config, [0, 17, 59]
    held = PolicyDataset(str(tiny_dataset), config)
    columns = held._table._columns.values()
    numbers = sum(column.nbytes for column in columns)
    assert bytes_of_frames(held.meta) == numbers
    monkeypatch.setattr("craft_trainer.models.lerobot_dataset.LARGEST_TABLE", numbers - 1)
    read = PolicyDataset(str(tiny_dataset), config)
    assert read._table is None
    assert_equal_batches(read.batch(rows), held.batch(rows))


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


def small_dataset(root: Path, *, state: int = 4, actions: int = 4, texts: bool = False) -> str:
    """Folder of two episodes without cameras; ``texts`` has every kind of column of them."""
    sizes = {"observation.state": state, "observation.environment_state": 39, "action": actions}
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": (size,), "names": None} for name, size in sizes.items()
    }
    note = {"dtype": "string", "shape": (1,), "names": None}
    notes = {"observation.note": note, "annotation.note": note} if texts else {}
    data = LeRobotDataset.create(
        "local/small", fps=80, features=features | notes, root=root, use_videos=False, video_backend="pyav"
    )
    generator = np.random.default_rng(0)
    for _ in range(2):
        for frame in range(9):
            values = {name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()}
            data.add_frame(values | (dict.fromkeys(notes, f"at {frame}") if texts else {}) | {"task": "push"})
        data.save_episode()
    data.finalize()
    if texts:
        annotate(root)
    return str(root)


def annotate(root: Path) -> None:
    """Add the columns of LeRobot's own annotation pipeline, of other lengths in every row."""
    (file,) = root.glob("data/**/*.parquet")
    table = pq.read_table(file)
    said = {"role": "user", "content": "faster", "style": "interjection", "camera": None, "tool_calls": None}
    rows = [[said | {"timestamp": 0.0}] * (1 + index % 3) for index in range(len(table))]
    events = [[said] * (index % 2) for index in range(len(table))]
    table = table.append_column("language_persistent", pa.array(rows)).append_column(
        "language_events", pa.array(events)
    )
    pq.write_table(table.replace_schema_metadata(None), file)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] |= {name: value | {"shape": [1]} for name, value in language_feature_info().items()}
    (root / "meta/info.json").write_text(json.dumps(info))


def test_columns_of_texts_are_left_out_and_one_number_is_a_vector(tmp_path: Path) -> None:
    """A new policy takes neither for what it observes; one action used to be compared with those of other samples."""
    data = small_dataset(tmp_path / "data", actions=1, texts=True)
    model = PolicyModel.from_config("act", load_metadata(data), TINY)
    assert set(model.policy_config.input_features) == {"observation.state", "observation.environment_state"}
    samples = PolicyDataset.of(model, data)
    batch = samples.batch([0, 5, 12])
    assert batch["action"].shape == (3, 8, 1)
    assert not [name for name in batch if "note" in name or "language" in name]
    one_by_one = collate([samples[row] for row in (0, 5, 12)])
    assert_equal_batches(batch, one_by_one)
    expected = (model.predict(model.prepare(batch)) - model.preprocessor(dict(batch))["action"]).abs()
    valid = ~batch["action_is_pad"][..., None]
    torch.testing.assert_close(model(**batch)["loss"], (expected * valid).sum() / valid.sum())


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"state": 6}, r"observation.state is of shape \(6,\) in .*data and of shape \(4,\)"),
        ({"actions": 3}, r"action is of shape \(3,\) .* \(4,\)"),
    ],
)
def test_data_of_another_robot_is_refused(
    tiny_policy: Callable[..., PolicyModel], sizes: dict[str, int], named: str, tmp_path: Path
) -> None:
    """It was `operands could not be broadcast together`, without a name."""
    with pytest.raises(ValueError, match=rf"{named} in the policy: it is another robot's.*--adapt_to .*data"):
        PolicyDataset.of(tiny_policy(), small_dataset(tmp_path / "data", **sizes))


def test_data_without_what_the_policy_reads_is_refused(tiny_policy: Callable[..., PolicyModel], tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data")
    info = json.loads(Path(data, "meta/info.json").read_text())
    del info["features"]["observation.environment_state"]
    named = r"observation.environment_state is missing in data and of shape \(39,\) in the policy.*--rename"
    with pytest.raises(ValueError, match=named):
        require_fit(tiny_policy().policy_config, "data", info["features"], renamed={})


def test_frames_that_lerobot_does_not_train_on_are_left_out(tmp_path: Path) -> None:
    """The oracle is LeRobot's own sampler."""
    data = small_dataset(tmp_path / "data")
    meta = load_metadata(data)
    samples = PolicyDataset(data, DiffusionConfig(device="cpu", drop_n_last_frames=3))
    bounds = meta.episodes["dataset_from_index"], meta.episodes["dataset_to_index"]
    expected = list(EpisodeAwareSampler(*bounds, drop_n_last_frames=3))
    assert [int(index) for row in samples.without_last_frames() for index in [row["index"]]] == expected
    none = PolicyDataset(data, DiffusionConfig(device="cpu", drop_n_last_frames=0))
    assert none.without_last_frames() is none
    with pytest.raises(ValueError, match="no episode has more than drop_n_last_frames = 9 frames"):
        PolicyDataset(data, DiffusionConfig(device="cpu", drop_n_last_frames=9)).without_last_frames()


def test_the_revision_is_that_in_the_name(tiny_dataset: Path, tiny_policy: Callable[..., PolicyModel]) -> None:
    """Seen to fail with v3.0, LeRobot's version of its format, for every folder and for org/data@mine."""
    dataset = PolicyDataset(str(tiny_dataset), tiny_policy().policy_config)
    assert dataset.revision == ""
    dataset.source = "org/data@mine"
    assert dataset.revision == "mine"


def test_the_sentence_of_an_episode_is_that_of_its_first_frame(
    tmp_path: Path, tiny_policy: Callable[..., PolicyModel]
) -> None:
    """LeRobot's table of episodes has their sentences in any order. Seen to fail: `compare` asked for more anchors than
    there were, since it held out other episodes than the cache."""
    features: dict[str, Any] = {name: {"dtype": "float32", "shape": (4,), "names": None} for name in ("action", STATE)}
    made = LeRobotDataset.create("local/x", 10, features, root=tmp_path / "data", use_videos=False)
    for episode in range(10):
        for frame in range(3):
            task = "reach" if episode < 5 or not frame else ("lift" if frame == 1 else "place")
            made.add_frame({name: np.ones(4, np.float32) for name in features} | {"task": task})
        made.save_episode()
    made.finalize()
    assert first_sentences(str(tmp_path / "data")) == ["reach"] * 10
    assert frames_of(str(tmp_path / "data"), 0.1) == (27, 3)
