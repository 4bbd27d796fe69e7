"""Checkpoints that are loaded otherwise than they were saved: how they run, names of cameras, statistics of a robot."""

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from policies import ACTIONS, STATES, batch_of

from craft_trainer.anchors.features import extract
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import PolicyDataset

DATA = "observation.images.top"
POLICY = "observation.images.front"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("robot") / "data"
    features = {
        "observation.state": {"dtype": "float32", "shape": (STATES,), "names": None},
        DATA: {"dtype": "image", "shape": (28, 28, 3), "names": ["height", "width", "channel"]},
        "action": {"dtype": "float32", "shape": (ACTIONS,), "names": None},
    }
    dataset = LeRobotDataset.create("local/data", 10, features, root=root, use_videos=False, video_backend="pyav")
    generator = np.random.default_rng(0)
    for _ in range(12):
        frame = {"observation.state": generator.normal(2, 3, STATES), "action": generator.normal(5, 0.5, ACTIONS)}
        frame = {name: value.astype(np.float32) for name, value in frame.items()}
        frame[DATA] = generator.integers(0, 256, (28, 28, 3), dtype=np.uint8)
        dataset.add_frame(frame | {"task": "push"})
    dataset.save_episode()
    dataset.finalize()
    return dataset


@pytest.fixture
def saved(make_twin, tmp_path):
    make_twin("pi0_fast").save_pretrained(tmp_path)
    return tmp_path


def test_a_checkpoint_runs_as_it_is_told(saved):
    model = PolicyModel.from_pretrained(saved, options={"dtype": "bfloat16", "gradient_checkpointing": True})
    backbone = model.policy.model.paligemma_with_expert.paligemma.model.language_model
    assert backbone.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert backbone.is_gradient_checkpointing
    plain = PolicyModel.from_pretrained(saved, options={"dtype": "bfloat16"})
    assert model.fingerprint() == plain.fingerprint()  # so anchors hold for both
    losses = [each.train()(**batch_of(each))["loss"] for each in (model, plain)]
    assert torch.equal(*losses)
    losses[0].backward()


@pytest.mark.parametrize("name", ["chunk_size", "gradient_chekpointing"])
def test_what_a_checkpoint_has_decided_stays(saved, name):
    with pytest.raises(ValueError, match=rf"{name} of a pi0_fast checkpoint cannot be changed; what can: dtype, grad"):
        PolicyModel.from_pretrained(saved, options={name: 1})


def test_a_camera_by_another_name_is_the_same_camera(saved, tmp_path):
    """Also after saving. Seen to fail where prepare drops what the policy does not call by that name."""
    original, renamed = PolicyModel.from_pretrained(saved), PolicyModel.from_pretrained(saved, rename={DATA: POLICY})
    assert renamed.image_keys() == [DATA]
    assert renamed.image_shape(DATA) == (28, 28)
    assert DATA in renamed.input_keys()
    assert POLICY not in renamed.input_keys()
    batch = batch_of(original)
    elsewhere = {DATA if name == POLICY else name: value for name, value in batch.items()}
    expected = extract(original, batch, [], output=True).output
    assert torch.equal(extract(renamed, elsewhere, [], output=True).output, expected)
    renamed.save_pretrained(tmp_path / "again")
    again = PolicyModel.from_pretrained(tmp_path / "again")
    assert again.fingerprint() == renamed.fingerprint() == original.fingerprint()  # names are the data's, not its
    assert torch.equal(extract(again, elsewhere, [], output=True).output, expected)


def test_cameras_by_other_names_are_refused(saved, data):
    model = PolicyModel.from_pretrained(saved)
    with pytest.raises(ValueError, match=rf"reads the cameras {POLICY}; .* has {DATA}: .*--rename .*top.*: .*front"):
        PolicyDataset.of(model, str(data.root))
    model = PolicyModel.from_pretrained(saved, rename={DATA: POLICY})
    assert len(PolicyDataset.of(model, str(data.root))) == 12


@pytest.mark.parametrize(("cameras", "accepted"), [(("top", "wrist"), True), (("wrist", "front"), False)])
def test_a_vla_does_with_some_of_its_cameras(make_twin, data, cameras, accepted):
    model = make_twin("pi0_fast", cameras=cameras, empty_cameras=1)
    if accepted:
        assert len(PolicyDataset.of(model, str(data.root))) == 12
        return
    with pytest.raises(ValueError, match="pass --rename"):
        PolicyDataset.of(model, str(data.root))


def test_a_policy_that_needs_all_its_cameras_gets_them(make_twin, data):
    with pytest.raises(ValueError, match="reads the cameras"):
        PolicyDataset.of(make_twin("diffusion", cameras=("top", "wrist")), str(data.root))


def test_a_base_checkpoint_takes_the_robots_statistics(saved, data, tmp_path):
    """Seen to fail without the overrides of one processor or the other."""
    rename = {DATA: POLICY}
    model = PolicyModel.from_pretrained(saved, rename=rename, adapt_to=data.meta)
    raw = PolicyDataset.of(model, str(data.root)).batch([0, 5])
    seen = model.preprocessor({**raw})
    mean, std = (torch.from_numpy(data.meta.stats["action"][name]).float() for name in ("mean", "std"))
    torch.testing.assert_close(seen["action"], (raw["action"] - mean) / std, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.postprocessor(torch.zeros(1, ACTIONS))[0], mean, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path / "adapted")
    assert PolicyModel.from_pretrained(tmp_path / "adapted").fingerprint() == model.fingerprint()


def test_a_base_checkpoint_without_features_takes_the_robots(make_twin, data, tmp_path):
    model = make_twin("pi0_fast")
    model.policy_config.input_features, model.policy_config.output_features = {}, {}
    model.save_pretrained(tmp_path)
    model = PolicyModel.from_pretrained(tmp_path, rename={DATA: POLICY}, adapt_to=data.meta)
    assert set(model.policy_config.input_features) == {"observation.state", POLICY}
    assert model.policy_config.action_feature.shape == (ACTIONS,)
    assert model.image_keys() == [DATA]
    assert model(**PolicyDataset.of(model, str(data.root)).batch([0, 5]))["loss"].isfinite()
