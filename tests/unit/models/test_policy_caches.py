"""An anchor cache of every policy family holds what the policy says of its anchors: features, output, tokens, noise."""

from types import SimpleNamespace

import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from policies import SIZE, batch_of

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec, extract, teacher_features
from craft_trainer.anchors.relabelling import relabel_cache

CAMERAS = ("front", "wrist")
NUM_ANCHORS = 9


@pytest.fixture(params=sorted(SIZE))
def model(request, make_twin):
    empty = {} if request.param == "diffusion" else {"empty_cameras": 1}
    return make_twin(request.param, cameras=CAMERAS, **empty)


@pytest.fixture
def cache(model, tmp_path):
    batches = [batch_of(model, CAMERAS, seed=seed) for seed in range(NUM_ANCHORS // 3)]

    def load_batch(rows):
        chosen = [(batches[row // 3], row % 3) for row in rows]
        return {
            key: [batch[key][row] for batch, row in chosen]
            if key == "task"
            else torch.stack([batch[key][row] for batch, row in chosen])
            for key in batches[0]
            if not key.startswith("noise/")
        }

    specs = [FeatureSpec(model.module_path(-2), "mean_masked"), FeatureSpec(model.module_path(-1), "none")]
    if model.policy_config.type != "diffusion":
        specs.append(FeatureSpec(model.module_path(0), "mean_image_tokens"))
    build_anchor_cache(
        model,
        load_batch,
        tmp_path / "cache",
        rows=list(range(NUM_ANCHORS)),
        groups=["old"] * NUM_ANCHORS,
        specs=specs,
        batch_size=5,
        source={"dataset": "toy", "frames": NUM_ANCHORS},
        teacher_path="toy",
    )
    return AnchorCache(tmp_path / "cache")


def test_cached_features_are_those_of_the_policy(model, cache):
    """Fails if noise is not stored beside the features: each epoch would ask for another output."""
    batch = cache.batch([1, 4, 8])
    noise = model.noise([1, 4, 8])
    assert all(torch.equal(batch.inputs[name], value) for name, value in noise.items())
    live = teacher_features(model, batch.inputs, cache.specs)
    for spec in cache.specs:
        torch.testing.assert_close(live.hidden[spec.column], batch.teacher.hidden[spec.column], rtol=1e-4, atol=1e-5)
    if model.output_kind == "numbers":
        torch.testing.assert_close(live.output, batch.teacher.output, rtol=1e-4, atol=1e-5)
    else:
        assert torch.equal(live.tokens.indices, batch.teacher.tokens.indices)
        assert torch.equal(live.tokens.valid, batch.teacher.tokens.valid)


def test_a_student_that_moved_is_told_from_its_teacher(model, cache):
    batch = cache.batch([0, 5])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    moved = extract(model, batch.inputs, cache.specs, output=False)
    for spec in cache.specs:
        assert not torch.allclose(moved.hidden[spec.column], batch.teacher.hidden[spec.column], rtol=1e-3)


def test_a_policy_that_reads_other_inputs_does_not_become_the_teacher(
    tiny_anchors, tiny_policy, image_policy, tmp_path
):
    """Seen to fail with a KeyError, and with sizes of tensors that did not match."""
    features = {"observation.state": PolicyFeature(FeatureType.STATE, (4,))}
    past = DiffusionConfig(n_obs_steps=2, horizon=8, input_features=features, push_to_hub=False, device="cpu")
    for teacher, said in (
        (image_policy, "observation.images.front is missing"),
        (tiny_policy(chunk_size=4, n_action_steps=4), r"action is of shape \(8, 4\) instead of \(4, 4\)"),
        (SimpleNamespace(policy_config=past), r"observation.state is of shape \(4,\) instead of \(2, 4\)"),
    ):
        with pytest.raises(
            ValueError, match=f"other cannot become the teacher of .*{said}.*: build a cache anew by that"
        ):
            relabel_cache(tiny_anchors, teacher, tmp_path / "again", teacher_path="other")
    assert not list(tmp_path.iterdir())
