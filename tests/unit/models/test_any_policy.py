"""A LeRobot policy type without a file of its own: VQ-BeT, whose layers are found and tried."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.tdmpc.configuration_tdmpc import TDMPCConfig
from lerobot.policies.tdmpc.modeling_tdmpc import TDMPCPolicy
from policies import statistics
from runs import BASE
from torch import Tensor

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.models.any_policy import layers
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.policies.family import known_families

HISTORY, AHEAD, CHUNK, STATES, ACTIONS = 2, 2, 3, 5, 3
NUM_ANCHORS = 8


@pytest.fixture
def model(make_twin: Callable[..., PolicyModel]) -> PolicyModel:
    return make_twin("vqbet")


def samples(rows: list[int]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    num, steps = 32, HISTORY + AHEAD + CHUNK - 2
    batch = {
        "observation.state": torch.randn(num, HISTORY, STATES, generator=generator),
        "observation.images.front": torch.randint(256, (num, HISTORY, 3, 32, 32), generator=generator) / 255,
        "action": torch.randn(num, steps, ACTIONS, generator=generator),
    }
    return {key: value[rows] for key, value in batch.items()} | {"task": ["push"] * len(rows)}


def build(teacher: PolicyModel, folder: Path, path: str, **options: Any) -> AnchorCache:
    return build_anchor_cache(
        teacher,
        samples,
        folder,
        rows=range(NUM_ANCHORS),
        groups=["old"] * NUM_ANCHORS,
        specs=[FeatureSpec(path, "mean_masked")],
        batch_size=4,
        source={"dataset": "toy", "frames": NUM_ANCHORS},
        teacher_path="toy",
        **{"output": False} | options,
    )


def test_the_layers_are_those_of_the_largest_stack(model: PolicyModel) -> None:
    assert "vqbet" not in known_families()
    where = "policy.vqbet.policy.transformer.h"
    assert [model.module_path(layer) for layer in (0, 1, 2, -1)] == [f"{where}.{index}" for index in (0, 1, 2, 2)]


def test_a_policy_without_a_list_of_layers_is_refused() -> None:
    policy: Any = torch.nn.Sequential(torch.nn.Linear(2, 2))
    policy.config = SimpleNamespace(type="own")
    with pytest.raises(ValueError, match="own has no list of layers: name a module path"):
        layers(policy)


def test_what_it_gives_is_not_known(model: PolicyModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"what a vqbet gives beside its loss is not known, .*cache build --output"):
        build(model, tmp_path / "anchors", model.module_path(-2), output=True)


def test_a_layer_that_is_not_called_is_named(model: PolicyModel, tmp_path: Path) -> None:
    """Before its actions are discretised VQ-BeT trains nothing else."""
    model.policy.vqbet.action_head.vqvae_model.discretized.fill_(False)
    with pytest.raises(ValueError, match=r"no layer ended the pass: hold hidden layers that it calls"):
        build(model, tmp_path / "anchors", model.module_path(-2))


def test_a_layer_that_sees_random_numbers_is_refused(model: PolicyModel, tmp_path: Path) -> None:
    """Seen to fail without the trial: L_retain of the untouched student was that of other noise."""
    layer = model.get_submodule(model.module_path(1))
    layer.register_forward_hook(lambda _module, _inputs, state: state + torch.randn_like(state))
    with pytest.raises(ValueError, match=r"h\.1 depends on the random numbers of a pass, so it cannot be held"):
        build(model, tmp_path / "anchors", model.module_path(1))
    build(model, tmp_path / "anchors", model.module_path(0))


def test_a_layer_that_sees_the_other_samples_is_refused(model: PolicyModel, tmp_path: Path) -> None:

    def mixed(_module: Any, _inputs: Any, state: Tensor) -> Tensor:
        return state + state.mean(dim=0)

    model.get_submodule(model.module_path(0)).register_forward_hook(mixed)
    with pytest.raises(ValueError, match=r"h\.0 depends on the other samples of its batch"):
        build(model, tmp_path / "anchors", model.module_path(0))


def test_samples_must_be_first(model: PolicyModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"for 2 samples, not \(batch, tokens, dim\): choose one of the layers "):
        build(model, tmp_path / "anchors", "policy.vqbet.rgb_encoder.pool")


def test_one_that_learns_from_rewards_says_so_when_the_trainer_is_made(model: PolicyModel, tmp_path: Path) -> None:
    cache = build(model, tmp_path / "anchors", model.module_path(-2))
    features: dict[str, Any] = {
        "input_features": {"observation.state": PolicyFeature(FeatureType.STATE, (STATES,))},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTIONS,))},
    }
    config = TDMPCConfig(**features, device="cpu", push_to_hub=False, latent_dim=8, mlp_dim=8, horizon=2)
    stats = statistics((), STATES, ACTIONS)
    other = PolicyModel(TDMPCPolicy(config), *make_pre_post_processors(config, dataset_stats=stats))
    settings = BASE | {"teacher_mismatch": "allow", "retention_terms": ["hidden"]}
    with pytest.raises(ValueError, match=r"policy type 'tdmpc' cannot be anchored: it has no layers with tokens"):
        CraftTrainer(other, CraftConfig(output_dir=str(tmp_path / "run"), **settings), anchors=cache, train_dataset=[1])
