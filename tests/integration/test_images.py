"""A policy that sees: image dataset → teacher → anchors pooled over image tokens → CRaFT steps."""

import numpy as np
import pytest
import torch

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import extract
from craft_trainer.cli.main import main

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (4,), "names": None},
    "observation.images.front": {"dtype": "image", "shape": (32, 32, 3), "names": ["height", "width", "channel"]},
    "action": {"dtype": "float32", "shape": (4,), "names": None},
}
POLICY = (
    '{"chunk_size": 4, "n_action_steps": 4, "dim_model": 16, "n_heads": 2, "dim_feedforward": 32, '
    '"n_encoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 4, "pretrained_backbone_weights": null}'
)
TRAIN = (
    "--use_cpu --max_steps 2 --report_to none --save_strategy no --disable_tqdm true --per_device_train_batch_size 4"
)


@pytest.fixture(scope="module")
def image_dataset(tmp_path_factory):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root = tmp_path_factory.mktemp("images") / "data"
    dataset = LeRobotDataset.create("local/images", 10, FEATURES, root=root, use_videos=False, video_backend="pyav")
    generator = np.random.default_rng(0)
    for _ in range(2):
        for _ in range(8):
            dataset.add_frame(
                {
                    "observation.state": generator.normal(size=4).astype(np.float32),
                    "observation.images.front": generator.integers(0, 256, (32, 32, 3), dtype=np.uint8),
                    "action": generator.normal(size=4).astype(np.float32),
                    "task": "look",
                }
            )
        dataset.save_episode()
    dataset.finalize()
    return root


@pytest.fixture(scope="module")
def teacher(image_dataset, tmp_path_factory):
    """Folder of a policy that sees."""
    folder = tmp_path_factory.mktemp("sees") / "teacher"
    train = ["train", "--dataset", str(image_dataset), *TRAIN.split(), "--output_dir", str(folder)]
    assert main([*train, "--policy_type", "act", "--policy_options", POLICY]) == 0
    return folder


def test_anchors_over_image_tokens_are_built_and_held(image_dataset, teacher, tmp_path):
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    anchors, craft = (tmp_path / name for name in ("anchors", "craft"))
    train = ["train", "--dataset", str(image_dataset), *TRAIN.split()]
    cache = ["cache", "build", "--teacher", str(teacher), "--dataset", str(image_dataset), "--output_dir", str(anchors)]
    assert main([*cache, "--anchors", "6", "--layers", "0", "--pooling", "mean_image_tokens"]) == 0

    opened = AnchorCache(anchors)
    assert [spec.pooling for spec in opened.specs] == ["mean_image_tokens"]
    batch = opened.batch(range(6))
    model = PolicyModel.from_pretrained(teacher)
    frames = PolicyDataset(str(image_dataset), model.policy_config)
    pixels = batch.inputs["observation.images.front"]
    assert any(torch.equal(pixels[0], frames[index]["observation.images.front"]) for index in range(len(frames)))
    live = extract(model, batch.inputs, opened.specs, output=True)
    torch.testing.assert_close(live.hidden[opened.specs[0].column], batch.teacher.hidden[opened.specs[0].column])
    assert batch.teacher.hidden[opened.specs[0].column].shape == (6, 16)

    held = [
        "--model",
        str(teacher),
        "--anchors",
        str(anchors),
        "--output_dir",
        str(craft),
        "--retention_batch_size",
        "4",
        "--learned_inputs",
        "allow",  # the same data is known and learned
    ]
    assert main([*train, *held]) == 0
    assert len((craft / "lambda_history.csv").read_text().splitlines()) == 3


def test_states_from_statistics_see_noise_with_the_colours_of_the_new_task(image_dataset, teacher, tmp_path):
    asked = ["--source", "statistics", "--new_dataset", str(image_dataset), "--anchors", "6"]
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        words = [*asked, "--output_dir", str(folder)]
        assert main(["cache", "build", "--teacher", str(teacher), *words]) == 0
    assert main(["cache", "verify", "--cache", str(folders[0]), "--teacher", str(teacher)]) == 0
    first, second = (AnchorCache(folder).batch(range(6)).inputs for folder in folders)
    assert all(torch.equal(first[key], second[key]) for key in first if isinstance(first[key], torch.Tensor))
    seen = first["observation.images.front"]
    assert len({picture.numpy().tobytes() for picture in seen}) > 3
    assert AnchorCache(folders[0]).provenance.data["pictures"] == "noise"


def test_states_without_pictures_are_refused(teacher, tmp_path, capsys):
    cache = ["cache", "build", "--teacher", str(teacher), "--anchors", "6", "--output_dir", str(tmp_path / "cache")]
    assert main([*cache, "--source", "statistics"]) == 1
    assert "e.g. that of the new task, by --new_dataset" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
