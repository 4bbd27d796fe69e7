"""Which tokens of a policy's hidden states are padding and which are images, against the model's own embeddings."""

import pytest
import torch
from policies import batch_of

from craft_trainer.anchors.features import FeatureSpec, extract

CAMERAS = ("wrist", "front")  # the first is declared and never delivered: an empty camera
VLAS = [
    ("pi0", {}),
    ("pi05", {}),
    ("pi0_fast", {}),
    ("pi0_fast", {"empty_cameras": 1}),
    ("smolvla", {"empty_cameras": 1}),
    ("smolvla", {"empty_cameras": 1, "add_image_special_tokens": True}),
    ("smolvla", {"empty_cameras": 1, "prefix_length": 40, "add_image_special_tokens": True}),
    ("smolvla", {"empty_cameras": 2, "pad_language_to": "max_length"}),
]


def embedded(model, inputs):
    """The backbone's embeddings and which of them are not padding, as the model makes them."""
    names = ["images", "image_masks", "tokens", "token_masks"]
    names += {"pi0_fast": ["action_tokens", "action_masks"], "smolvla": ["state"]}.get(model.policy_config.type, [])
    model_ = model.policy.model
    embed = model_.embed_prefix_fast if model.policy_config.type == "pi0_fast" else model_.embed_prefix
    embeddings, valid, *_ = embed(*(inputs[name] for name in names))
    return embeddings, valid


@pytest.mark.parametrize(("kind", "options"), VLAS)
@torch.no_grad()
def test_tokens_are_known_with_padded_text_and_empty_cameras(make_twin, kind, options):
    """Image tokens are those that other pixels change. Fails if cameras, special tokens or padding are misplaced."""
    model = make_twin(kind, cameras=CAMERAS, **options)
    inputs = model.prepare(batch_of(model, cameras=("front",)))
    embeddings, valid = embedded(model, inputs)
    repainted, _ = embedded(model, {**inputs, "images": [image * 0.5 + 0.3 for image in inputs["images"]]})
    layout = model.token_layout(model.module_path(0), inputs, embeddings.shape)
    assert torch.equal(layout.valid, valid)
    assert torch.equal(layout.image, (embeddings != repainted).any(dim=-1))
    assert (layout.image & ~layout.valid).any()  # the empty camera's
    assert (~layout.image & ~layout.valid).any()  # the text's padding
    assert not layout.channels_first


@pytest.mark.parametrize(("kind", "options"), VLAS)
def test_what_an_empty_camera_shows_changes_nothing(make_twin, kind, options):
    """Fails if an empty camera's tokens are averaged with the others."""
    model = make_twin(kind, cameras=CAMERAS, **options)
    inputs = dict(model.prepare(batch_of(model, cameras=("front",))))
    spec = FeatureSpec(model.module_path(-1 if kind == "pi0_fast" else 2), "mean_image_tokens")
    states = [pooled(model, inputs, spec)]
    inputs["images"] = [
        torch.where(mask[:, None, None, None], image, image * 0.5 + 0.3)
        for image, mask in zip(inputs["images"], inputs["image_masks"], strict=True)
    ]
    states.append(pooled(model, inputs, spec))
    assert torch.equal(*states)


def pooled(model, inputs, spec):
    """The feature of prepared inputs."""
    raw, model.prepare = model.prepare, lambda _batch: inputs
    try:
        return extract(model, {}, [spec], output=False).hidden[spec.column]
    finally:
        model.prepare = raw


@pytest.mark.parametrize(("kind", "num_wrong"), [("pi0", 1), ("pi05", 3), ("pi0_fast", -1), ("smolvla", 2)])
def test_tokens_of_something_else_are_an_error(make_twin, kind, num_wrong):
    """Fails if the number of tokens per camera is taken for granted."""
    cameras = ("front", "wrist")
    model = make_twin(kind, cameras=cameras)
    inputs = model.prepare(batch_of(model, cameras=cameras))
    embeddings, valid = embedded(model, inputs)
    wrong = torch.Size([len(valid), valid.shape[1] + num_wrong, embeddings.shape[2]])
    with pytest.raises(ValueError, match=rf"^{wrong[1]} tokens"):
        model.token_layout(model.module_path(0), inputs, wrong)


@pytest.mark.parametrize("kind", ["pi0", "pi05", "smolvla"])
def test_the_action_expert_sees_no_image_tokens(make_twin, kind):
    model = make_twin(kind)
    with pytest.raises(ValueError, match="sees no image tokens"):
        extract(model, batch_of(model), [FeatureSpec(model.module_path(-1), "mean_image_tokens")], output=False)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("pi0", "model.paligemma_with_expert.paligemma.model.vision_tower"),
        ("pi0_fast", "model.paligemma_with_expert.paligemma.lm_head"),
        ("smolvla", "model.vlm_with_expert.vlm.model.connector"),
    ],
)
def test_modules_whose_tokens_are_not_known_are_refused(make_twin, kind, path):
    """Several cameras pass through a vision tower one by one: only the last would be anchored."""
    model = make_twin(kind)
    with pytest.raises(ValueError, match=r"is not known; choose a layer in model\."):
        model.token_layout(model.module_path(path), {}, torch.Size([1, 2, 3]))


def test_time_steps_are_the_tokens_of_a_u_net(make_twin):
    """Fails without ``channels_first``: then the mean is over channels."""
    model = make_twin("diffusion")
    batch = batch_of(model)
    for layer, num_channels in ((0, 8), (1, 16), (-1, 8)):
        spec = FeatureSpec(model.module_path(layer), "mean_masked")
        states = []
        module = model.get_submodule(spec.path)
        handle = module.register_forward_hook(lambda _module, _inputs, output, states=states: states.append(output))
        feature = extract(model, batch, [spec], output=True).hidden[spec.column]
        handle.remove()
        assert feature.shape == (3, num_channels)
        torch.testing.assert_close(feature, states[0].mean(dim=2))


@pytest.mark.parametrize("kind", ["pi0", "pi05", "pi0_fast", "smolvla", "diffusion"])
def test_what_a_prediction_depends_on_must_be_there(make_twin, kind):
    model = make_twin(kind)
    batch = batch_of(model)
    without = {key: value for key, value in batch.items() if key != "action"}
    with pytest.raises(ValueError, match=f"{kind} predicts depends on demonstrated actions"):
        model.prepare(without)
    if model.noise([0]):
        without = {key: value for key, value in batch.items() if not key.startswith("noise/")}
        with pytest.raises(ValueError, match=r"denoises its actions: add the model's noise\(rows\)"):
            model.prepare(without)
