"""An anchor cache of every policy family holds what the policy says of its anchors: features, output, tokens, noise."""

import pytest
import torch
from policies import SIZE, batch_of

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec, extract, teacher_features

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
