"""A policy's fingerprint sees what decides its outputs, and nothing that only says how or where it runs."""

import json

import pytest
from policies import batch_of

from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.policies.family import known_families


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("pi0", {"image_resolution": (14, 14)}),
        ("pi05", {"min_period": 1e-2}),
        ("pi0_fast", {"empty_cameras": 1}),
        ("smolvla", {"resize_imgs_with_padding": (16, 16)}),
        ("smolvla", {"self_attn_every_n_layers": 3}),
        ("diffusion", {"crop_shape": (16, 16)}),
    ],
    ids=str,
)
def test_a_policy_with_another_field_is_another_teacher(make_twin, kind, options):
    before, after = make_twin(kind).fingerprint(), make_twin(kind, **options).fingerprint()
    assert after["configuration"] != before["configuration"]


def test_the_order_of_cameras_counts(make_twin):
    """ACT and others see their tokens in that order."""
    one, other = (make_twin("pi0_fast", cameras=cameras) for cameras in (("left", "right"), ("right", "left")))
    assert one.fingerprint()["weights"] == other.fingerprint()["weights"]
    assert one.fingerprint()["configuration"] != other.fingerprint()["configuration"]


@pytest.mark.parametrize("kind", sorted(set(known_families()) - {"act"}))
def test_a_policy_that_was_saved_is_the_same(make_twin, tmp_path, kind):
    """However it runs from then on. ACT is in ``test_policy_model``."""
    model = make_twin(kind, cameras=("wrist", "front"))
    before = model.fingerprint()
    model(**batch_of(model, cameras=("wrist", "front")))["loss"].backward()
    assert model.train().fingerprint() == before
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    saved = json.loads(file.read_text())
    others = {"optimizer_lr": 1.0, "n_action_steps": 2, "push_to_hub": True, "repo_id": "a/b", "license": "mit"}
    file.write_text(json.dumps(saved | others))
    assert PolicyModel.from_pretrained(tmp_path, device="cpu").fingerprint() == before
    changed = {"beta_end": 0.5} if kind == "diffusion" else {"chunk_size": 7, "n_action_steps": 2}
    file.write_text(json.dumps(saved | changed))
    assert PolicyModel.from_pretrained(tmp_path, device="cpu").fingerprint()["configuration"] != before["configuration"]


def test_the_dtype_of_a_policy_is_not_its_configuration(make_twin, tmp_path):
    make_twin("pi0_fast").save_pretrained(tmp_path)
    plain = PolicyModel.from_pretrained(tmp_path)
    other = PolicyModel.from_pretrained(tmp_path, options={"dtype": "bfloat16", "gradient_checkpointing": True})
    assert plain.fingerprint()["configuration"] == other.fingerprint()["configuration"]


def test_a_policy_with_another_backbone_is_another_teacher(make_twin):
    """SmolVLA takes the configuration of its backbone from elsewhere. Seen to fail with the policy's own alone."""
    model = make_twin("smolvla")
    before = model.fingerprint()["configuration"]
    model.policy.model.vlm_with_expert.config.text_config.rms_norm_eps = 0.5
    assert model.fingerprint()["configuration"] != before
