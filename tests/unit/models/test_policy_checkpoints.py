"""Checkpoints of every policy family: what was saved is what is loaded, or an error says why not."""

import pytest
import torch
from policies import ACTIONS, CHUNK, SIZE, batch_of
from safetensors.torch import load_file, save_file

from craft_trainer.anchors.features import extract
from craft_trainer.models.lerobot import PolicyModel

KINDS = sorted(SIZE)
PI = ["pi0", "pi05", "pi0_fast"]
BFLOAT16 = {"dtype": "bfloat16"}


@pytest.mark.parametrize(("kind", "options"), [(kind, {}) for kind in KINDS] + [(kind, BFLOAT16) for kind in PI])
def test_a_checkpoint_survives_save_and_load(make_twin, kind, options, tmp_path):
    """Fails with LeRobot's own preprocessor settings of PI0-FAST, and if a head overwrites tied embeddings."""
    model = make_twin(kind, **options)
    model.save_pretrained(tmp_path)
    loaded = PolicyModel.from_pretrained(tmp_path)
    assert not loaded.policy.training
    assert loaded.fingerprint() == model.fingerprint()
    batch = batch_of(model)
    assert torch.equal(*(extract(each, batch, [], output=True).output for each in (model, loaded)))
    losses = []
    for each in (model, loaded):
        torch.manual_seed(0)
        losses.append(each(**batch)["loss"])
    assert torch.equal(*losses)


@pytest.mark.parametrize(("place", "revision"), [("org/x@v1", None), ("org/x@v1", "v1"), ("org/x", "v1")])
def test_a_policy_of_the_hub_knows_its_origin(tiny_policy, place, revision, tmp_path, monkeypatch):
    """Seen to fail: a revision that is given twice was in it twice."""
    tiny_policy().save_pretrained(tmp_path / "downloaded")
    monkeypatch.setattr("craft_trainer.models.lerobot.resolve_path", lambda *_, **__: tmp_path / "downloaded")
    assert PolicyModel.from_pretrained(place, revision=revision).origin == "org/x@v1"


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_loaded_in_place(make_twin, kind, tmp_path):
    """Of tied weights a checkpoint holds one."""
    saved, model = make_twin(kind, seed=1), make_twin(kind, seed=2)
    saved.save_pretrained(tmp_path)
    before = [parameter.data_ptr() for parameter in model.parameters()]
    model.load_checkpoint(tmp_path)
    assert [parameter.data_ptr() for parameter in model.parameters()] == before
    assert model.fingerprint() == saved.fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_state_dict_is_written(make_twin, kind, tmp_path):
    model = make_twin(kind)
    model.save_pretrained(tmp_path, {name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert PolicyModel.from_pretrained(tmp_path).fingerprint() == model.fingerprint()


@pytest.mark.parametrize("kind", PI)
def test_weights_of_another_shape_are_not_replaced_by_random_ones(make_twin, kind, tmp_path):
    """LeRobot's own loader prints a warning and returns what it initialised."""
    model = make_twin(kind)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if name.endswith("mlp.up_proj.weight"))
    save_file({name: tensor for name, tensor in weights.items() if name != lost}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"other weights than its config.json says: [^$]*{lost}"):
        PolicyModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model.safetensors: it is not a whole LeRobot checkpoint"):
        PolicyModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("config.json", "[]"),
        ("config.json", "{"),
        ("config.json", '{"type": "act", "chunk_size": "many"}'),
        ("config.json", '{"type": "act", "no_such_field": 1}'),
        ("config.json", '{"type": 5}'),
        ("policy_preprocessor.json", "[]"),
        ("policy_preprocessor.json", '{"steps": [{"registry_name": "no_such_step"}]}'),
        ("policy_preprocessor.json", '{"steps": 5}'),
        ("model.safetensors", "no tensors"),
        ("model.safetensors", ""),
    ],
)
def test_a_damaged_file_is_named(tiny_policy, file, written, tmp_path):
    """Draccus' DecodingError, SafetensorError, KeyError and AttributeError were tracebacks."""
    tiny_policy().save_pretrained(tmp_path)
    (tmp_path / file).write_text(written)
    with pytest.raises((ValueError, OSError, ImportError), match=str(tmp_path)):
        PolicyModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", PI)
def test_an_older_checkpoint_is_loaded(make_twin, kind, tmp_path):
    """Its names lack the policy's prefix, and its embeddings are those of the head."""
    model = make_twin(kind)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    embeddings = next((name for name in weights if name.endswith("language_model.embed_tokens.weight")), None)
    older = {name.removeprefix("model."): tensor for name, tensor in weights.items() if name != embeddings}
    save_file(older, tmp_path / "model.safetensors")
    loaded = PolicyModel.from_pretrained(tmp_path)
    paligemma = loaded.policy.model.paligemma_with_expert.paligemma
    assert torch.equal(paligemma.model.language_model.embed_tokens.weight, paligemma.lm_head.weight)
    for name, tensor in loaded.policy.state_dict().items():
        assert torch.equal(tensor, model.policy.state_dict()[name]) or name == embeddings, name


def test_the_action_tokenizer_comes_back_as_it_was(make_twin, tmp_path):
    """Fails without preprocessor_overrides: LeRobot's step would ask the Hub for PaliGemma's tokenizer."""
    model = make_twin("pi0_fast")
    model.save_pretrained(tmp_path)
    loaded = PolicyModel.from_pretrained(tmp_path)
    (step,) = [step for step in loaded.preprocessor.steps if hasattr(step, "fast_skip_tokens")]
    assert step.fast_skip_tokens == model.policy_config.fast_skip_tokens == 5
    assert step.paligemma_tokenizer_name == model.policy_config.text_tokenizer_name


def test_action_tokens_mean_the_actions(make_twin):
    """Encoded by LeRobot's preprocessor, decoded by its policy: equal but for rounding each of the DCT's numbers."""
    model = make_twin("pi0_fast")
    inputs = model.prepare(batch_of(model))
    normalised = model.preprocessor(batch_of(model))["action"]
    spoken = inputs["action_tokens"][:, 1:]  # without the first, <bos>
    decoded = model.policy.detokenize_actions(spoken, CHUNK, ACTIONS)
    scale = model.policy.action_tokenizer.scale
    assert decoded.shape == normalised.shape
    assert 0 < (decoded - normalised).norm(dim=1).max() <= 0.5 / scale * CHUNK**0.5
    assert inputs["action_masks"].sum(dim=1).unique().numel() > 1  # the encoding compresses
    assert inputs["action_masks"].sum(dim=1).max() < CHUNK * ACTIONS + 4
