"""A policy as a module: a fingerprint that is its behaviour, errors that name the way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors
from torch import nn

from craft_trainer.models import any_policy
from craft_trainer.models.base import AnchoredModel, weights_digest
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import PolicyDataset, load_metadata
from craft_trainer.models.pretrained import is_policy

type MakePolicy = Callable[..., PolicyModel]


def observations(num: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "observation.state": torch.randn(num, 4, generator=generator),
        "observation.environment_state": torch.randn(num, 39, generator=generator),
        "task": ["push the puck"] * num,
    }


def test_lerobot_loads_a_checkpoint_and_acts_identically(tiny_policy: MakePolicy, tmp_path: Path) -> None:
    model = tiny_policy().eval()
    model.save_pretrained(tmp_path)
    policy = ACTPolicy.from_pretrained(tmp_path)
    preprocess, postprocess = make_pre_post_processors(
        PreTrainedConfig.from_pretrained(tmp_path), pretrained_path=str(tmp_path)
    )
    model.reset()
    policy.reset()
    with torch.no_grad():
        for _ in range(6):  # past the end of a chunk of four
            expected = postprocess(policy.select_action(preprocess(observations())))
            assert torch.equal(model.select_action(observations()), expected)


def test_actions_are_in_the_datasets_units(tiny_policy: MakePolicy, tiny_dataset: Path) -> None:
    """select_action = mean + std · (first of the normalised chunk), with LeRobot's statistics of the dataset."""
    model = tiny_policy().eval()
    stats = load_metadata(str(tiny_dataset)).stats["action"]
    model.reset()
    with torch.no_grad():
        normalised = model.predict(model.prepare(observations()))[:, 0].double().numpy()
        action = model.select_action(observations())
    np.testing.assert_allclose(action.numpy(), stats["mean"] + stats["std"] * normalised, rtol=1e-4, atol=1e-6)


def test_the_task_loss_is_the_masked_l1_of_normalised_actions(tiny_policy: MakePolicy, tiny_dataset: Path) -> None:
    model = tiny_policy().eval()
    batch = PolicyDataset(str(tiny_dataset), model.policy_config).batch([0, 10, 20, 25])
    assert batch["action_is_pad"].any()
    stats = load_metadata(str(tiny_dataset)).stats["action"]
    target = (batch["action"].double().numpy() - stats["mean"]) / stats["std"]
    with torch.no_grad():
        error = (
            np.abs(model.predict(model.prepare(batch)).double().numpy() - target)
            * ~batch["action_is_pad"].numpy()[..., None]
        )
        loss = model(**batch)["loss"].item()
    num_valid = (~batch["action_is_pad"]).sum().item() * 4
    assert loss == pytest.approx(error.sum() / num_valid, rel=1e-4)


def test_predict_ignores_targets(tiny_policy: MakePolicy) -> None:
    model = tiny_policy().eval()
    with_targets = observations() | {"action": torch.zeros(3, 8, 4), "action_is_pad": torch.zeros(3, 8).bool()}
    assert torch.equal(model.predict(model.prepare(with_targets)), model.predict(model.prepare(observations())))


def test_the_fingerprint_survives_save_and_load(tiny_policy: MakePolicy, tmp_path: Path) -> None:
    model = tiny_policy()
    model.save_pretrained(tmp_path)
    assert PolicyModel.from_pretrained(tmp_path).fingerprint() == model.fingerprint()
    assert PolicyModel.from_pretrained(tmp_path, device="cpu").fingerprint() == model.fingerprint()


def test_the_fingerprint_does_not_depend_on_the_mode(tiny_policy: MakePolicy) -> None:
    assert tiny_policy().train().fingerprint() == tiny_policy().eval().fingerprint()


def test_a_weight_changes_the_weights_digest_alone(tiny_policy: MakePolicy) -> None:
    model = tiny_policy()
    before = model.fingerprint()
    with torch.no_grad():
        list(model.parameters())[-1].view(-1)[-1] += 1e-3
    after = model.fingerprint()
    assert after["weights"] != before["weights"]
    assert after["processors"] == before["processors"]


@pytest.mark.parametrize("processor", ["preprocessor", "postprocessor"])
def test_a_statistic_changes_the_processors_digest_alone(tiny_policy: MakePolicy, processor: str) -> None:
    model = tiny_policy()
    before = model.fingerprint()
    (step,) = [step for step in getattr(model, processor).steps if hasattr(step, "_tensor_stats")]
    step._tensor_stats["action"]["mean"][0] += 1e-3
    after = model.fingerprint()
    assert after["weights"] == before["weights"]
    assert after["processors"] != before["processors"]


def test_the_weights_digest_sees_names_types_and_shapes() -> None:
    def module(name: str, tensor: torch.Tensor) -> nn.Module:
        holder = nn.Module()
        holder.register_buffer(name, tensor)
        return holder

    variants = [
        module("a", torch.zeros(4)),
        module("b", torch.zeros(4)),
        module("a", torch.zeros(2, 2)),
        module("a", torch.zeros(4, dtype=torch.int32)),
        module("a", torch.tensor([0.0, 0.0, 0.0, 1.0])),
    ]
    assert len({weights_digest(variant) for variant in variants}) == len(variants)
    assert weights_digest(module("a", torch.zeros(8)[::2])) == weights_digest(variants[0])  # not the memory layout


def test_min_std_is_a_floor_for_observations_alone(tiny_policy: MakePolicy, tiny_dataset: Path) -> None:
    stats = load_metadata(str(tiny_dataset)).stats
    assert (stats["action"]["std"] < 0.7).any()  # the floor would touch the actions
    assert (stats["observation.state"]["std"] > 0.7).any()  # and not all of the observations
    (step,) = [step for step in tiny_policy(min_std=0.7).preprocessor.steps if hasattr(step, "_tensor_stats")]
    for key in ("observation.state", "observation.environment_state"):
        expected = np.maximum(stats[key]["std"], 0.7)
        np.testing.assert_allclose(step._tensor_stats[key]["std"].numpy(), expected, rtol=1e-6)
        np.testing.assert_allclose(step._tensor_stats[key]["mean"].numpy(), stats[key]["mean"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(step._tensor_stats["action"]["std"].numpy(), stats["action"]["std"], rtol=1e-6)


def test_load_checkpoint_restores_weights_in_place(tiny_policy: MakePolicy, tmp_path: Path) -> None:
    saved, model = tiny_policy(seed=1), tiny_policy(seed=2)
    saved.save_pretrained(tmp_path)
    before = [parameter.data_ptr() for parameter in model.parameters()]
    model.load_checkpoint(tmp_path)
    assert [parameter.data_ptr() for parameter in model.parameters()] == before
    assert model.fingerprint() == saved.fingerprint()


def test_save_pretrained_writes_the_state_dict_it_is_given(tiny_policy: MakePolicy, tmp_path: Path) -> None:
    model = tiny_policy()
    doubled = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, doubled)
    loaded = PolicyModel.from_pretrained(tmp_path)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, doubled[name]), name


def test_a_checkpoint_without_weights_is_named(tiny_policy: MakePolicy, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no model.safetensors: it is not a checkpoint to resume from"):
        tiny_policy().load_checkpoint(tmp_path)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config.json: it is not a LeRobot checkpoint"):
        PolicyModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "options", [{"chunk_sise": 8}, {"chunk_size": "eight"}, {"chunk_size": 4, "n_action_steps": 8}]
)
def test_a_wrong_option_is_a_value_error(tiny_dataset: Path, options: dict[str, Any]) -> None:
    meta = load_metadata(str(tiny_dataset))
    with pytest.raises(ValueError, match=r"chunk_si[zs]e|[Cc]hunk size"):
        PolicyModel.from_config("act", meta, {"device": "cpu", **options})


def test_an_unknown_policy_type_is_a_value_error(tiny_dataset: Path) -> None:
    with pytest.raises(ValueError, match="'actt'"):
        PolicyModel.from_config("actt", load_metadata(str(tiny_dataset)), {})


def test_layers_by_index_run_from_the_first_encoder_layer_to_the_decoder(tiny_policy: MakePolicy) -> None:
    model = tiny_policy(n_encoder_layers=2, n_decoder_layers=3)
    paths = [model.module_path(layer) for layer in range(5)]
    assert paths == [
        "policy.model.encoder.layers.0",
        "policy.model.encoder.layers.1",
        "policy.model.decoder.layers.0",
        "policy.model.decoder.layers.1",
        "policy.model.decoder",
    ]
    assert [model.module_path(layer) for layer in range(-5, 0)] == paths
    for path in paths:
        model.get_submodule(path)


@pytest.mark.parametrize("layer", [2, -3])
def test_a_layer_out_of_range_lists_the_layers(tiny_policy: MakePolicy, layer: int) -> None:
    with pytest.raises(ValueError, match=rf"hidden layer {layer} of act: it has 2: .*model.decoder"):
        tiny_policy().module_path(layer)


def test_a_layer_may_be_a_module_path(tiny_policy: MakePolicy) -> None:
    model = tiny_policy()
    assert model.module_path("model.encoder") == model.module_path("policy.model.encoder") == "policy.model.encoder"
    with pytest.raises(ValueError, match=r"act has no module 'model.enkoder'; its layers are"):
        model.module_path("model.enkoder")


def test_a_policy_type_that_cannot_be_anchored_says_why(tiny_policy: MakePolicy, monkeypatch: Any) -> None:
    monkeypatch.setattr("craft_trainer.models.policies.family.known_families", lambda: ["other"])
    monkeypatch.setitem(any_policy.UNLIKE, "act", "it dreams")
    model = tiny_policy()
    for ask in (lambda: model.prepare(observations()), lambda: model.module_path(-1)):
        with pytest.raises(ValueError, match=r"'act' cannot be anchored: it dreams \(known: other\)"):
            ask()


def test_a_policy_is_an_anchored_model_as_it_is(tiny_policy: MakePolicy) -> None:
    model = tiny_policy()
    assert isinstance(model, AnchoredModel)
    assert as_anchored_model(model) is model
    assert model.network is model
    assert model.output_kind == "numbers"


def test_the_folder_around_a_checkpoint_is_told_from_it(tiny_policy: MakePolicy, tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path / "last/pretrained_model")
    with pytest.raises(FileNotFoundError, match=r"last holds no config.json.*; .*last/pretrained_model is one"):
        PolicyModel.from_pretrained(tmp_path / "last")
    tiny_policy().save_pretrained(tmp_path / "run/checkpoints/last/pretrained_model")
    for find in (PolicyModel.from_pretrained, is_policy):  # seen to fail: only the folder itself was looked into
        with pytest.raises(FileNotFoundError, match=r"run holds no .*; .*run/checkpoints/last/pretrained_model is one"):
            find(tmp_path / "run")
    (tmp_path / "last/pretrained_model/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model.safetensors: it is not a whole LeRobot checkpoint"):
        PolicyModel.from_pretrained(tmp_path / "last/pretrained_model")
