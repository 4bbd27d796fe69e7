"""Pooling against loops, hidden states against a forward pass by hand, and what a forward pass leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from craft_trainer.anchors.features import FeatureSpec, capture, evaluating, extract, teacher_features
from craft_trainer.models.base import TokenLayout
from craft_trainer.models.pooling import POOLINGS, pool

if TYPE_CHECKING:
    from craft_trainer.models.lerobot import PolicyModel

HIDDEN = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
VALID = torch.tensor(
    [[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0], [1, 0, 1, 0, 1, 0]],  # right, left, scattered padding
    dtype=torch.bool,
)
IMAGE = torch.tensor(
    [[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 0, 1]],  # the last: only padding
    dtype=torch.bool,
)


def pool_by_loop(hidden: Tensor, pooling: str, valid: list[list[bool]], image: list[list[bool]] | None) -> Tensor:
    """The oracle: token by token, number by number."""
    pooled = []
    for sample, sample_valid, sample_image in zip(hidden.tolist(), valid, image or valid, strict=True):
        kept = [token for token, ok in zip(sample, sample_valid, strict=True) if ok]
        images = [t for t, ok, img in zip(sample, sample_valid, sample_image, strict=True) if ok and img]
        match pooling:
            case "none":
                pooled.append([t if ok else [0.0] * len(t) for t, ok in zip(sample, sample_valid, strict=True)])
            case "mean_masked":
                pooled.append([sum(column) / len(kept) for column in zip(*kept, strict=True)])
            case "mean_image_tokens":
                columns = zip(*images, strict=True) if images else [[0.0]] * len(sample[0])
                pooled.append([sum(column) / max(1, len(images)) for column in columns])
            case "last_token":
                pooled.append(kept[-1])
            case "cls_token":
                pooled.append(sample[0])
    return torch.tensor(pooled, dtype=torch.float64)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("padded", [True, False])
def test_pooling_equals_a_loop(pooling: str, padded: bool) -> None:
    valid = VALID if padded else torch.ones_like(VALID)
    layout = TokenLayout(valid=VALID if padded else None, image=IMAGE)
    expected = pool_by_loop(HIDDEN, pooling, valid.tolist(), IMAGE.tolist())
    torch.testing.assert_close(pool(HIDDEN, pooling, layout), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pooling", ["none", "mean_masked", "mean_image_tokens", "last_token"])
def test_padding_never_enters(pooling: str) -> None:
    layout = TokenLayout(valid=VALID, image=IMAGE)
    garbage = torch.where(VALID[..., None], HIDDEN, 1e9)
    assert torch.equal(pool(garbage, pooling, layout), pool(HIDDEN, pooling, layout))


def test_image_tokens_of_a_layer_without_images_are_refused() -> None:
    with pytest.raises(ValueError, match="sees no image tokens"):
        pool(HIDDEN, "mean_image_tokens", TokenLayout())


def test_an_unknown_pooling_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'max' is not one of none, mean_masked, mean_image_tokens, last_token"):
        pool(HIDDEN, "max", TokenLayout())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_differentiable(pooling: str) -> None:
    hidden = HIDDEN.clone().requires_grad_()
    layout = TokenLayout(valid=VALID, image=IMAGE)
    assert torch.autograd.gradcheck(lambda h: pool(h, pooling, layout), hidden)


class Chain(nn.Module):
    """Three layers and a head; sequence first, dropout between; an ``AnchoredModel`` as far as ``extract`` goes."""

    def __init__(self, image: Tensor | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(3, 2)
        self.image = image

    @property
    def network(self) -> nn.Module:
        return self

    output_kind = "numbers"

    def predict(self, batch: dict[str, Any]) -> Tensor:
        hidden = batch["x"].movedim(1, 0)
        for layer in self.layers:
            hidden = torch.tanh(layer(self.dropout(hidden)))
        return self.head(hidden).movedim(0, 1)

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch

    def token_layout(self, path: str, inputs: dict[str, Any], shape: torch.Size) -> TokenLayout:
        return TokenLayout(batch_dim=1, image=self.image)


SPECS = [FeatureSpec("layers.0", "none"), FeatureSpec("layers.1", "mean_masked")]


def count_calls(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_hidden_states_equal_a_forward_pass_by_hand() -> None:
    model, x = Chain(), HIDDEN.float()
    first = x @ model.layers[0].weight.T + model.layers[0].bias
    second = torch.tanh(first) @ model.layers[1].weight.T + model.layers[1].bias
    third = torch.tanh(second) @ model.layers[2].weight.T + model.layers[2].bias
    output = torch.tanh(third) @ model.head.weight.T + model.head.bias
    for mode in (True, False):
        model.train(mode)
        features = extract(model, {"x": x}, SPECS, output=True)
        assert set(features.hidden) == {"hidden/layers.0/none", "hidden/layers.1/mean_masked"}
        torch.testing.assert_close(features.hidden["hidden/layers.0/none"], first)
        torch.testing.assert_close(features.hidden["hidden/layers.1/mean_masked"], second.mean(dim=1))
        torch.testing.assert_close(features.output, output)


def test_without_output_the_pass_ends_at_the_deepest_layer() -> None:
    model = Chain()
    calls = {name: count_calls(model.get_submodule(name)) for name in ("layers.0", "layers.1", "layers.2", "head")}
    features = extract(model, {"x": HIDDEN.float()}, SPECS, output=False)
    assert features.output is None
    assert {name: len(made) for name, made in calls.items()} == {"layers.0": 1, "layers.1": 1, "layers.2": 0, "head": 0}


def test_what_is_extracted_does_not_depend_on_the_early_end() -> None:
    model, batch = Chain(), {"x": HIDDEN.float()}
    full, ended = (extract(model, batch, SPECS, output=output) for output in (True, False))
    assert all(torch.equal(full.hidden[name], ended.hidden[name]) for name in full.hidden)


def test_the_output_alone_captures_nothing() -> None:
    model, batch = Chain().eval(), {"x": HIDDEN.float()}
    features = extract(model, batch, [], output=True)
    assert features.hidden == {}
    assert torch.equal(features.output, model.predict(batch))


def test_a_teacher_of_actions_gives_its_hidden_states_and_its_output_without_gradients() -> None:
    model, batch = Chain(), {"x": HIDDEN.float()}
    features, expected = teacher_features(model, batch, SPECS), extract(model, batch, SPECS, output=True)
    assert features.tokens is None
    assert torch.equal(features.output, expected.output)
    assert all(torch.equal(features.hidden[name], expected.hidden[name]) for name in expected.hidden)
    assert not any(value.requires_grad for value in (features.output, *features.hidden.values()))


def test_gradients_reach_the_layers_below_and_none_above() -> None:
    model = Chain()
    features = extract(model, {"x": HIDDEN.float()}, SPECS, output=False)
    features.hidden["hidden/layers.1/mean_masked"].square().sum().backward()
    assert [layer.weight.grad is not None for layer in model.layers] == [True, True, False]


@pytest.mark.parametrize("output", [True, False])
def test_modes_and_hooks_are_as_before(output: bool) -> None:
    model = Chain().train()
    model.layers[1].eval()  # a submodule frozen on its own
    model.dropout.train()
    modes = {name: module.training for name, module in model.named_modules()}
    extract(model, {"x": HIDDEN.float()}, SPECS, output=output)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_modes_and_hooks_are_as_before_after_an_error() -> None:
    model = Chain().train()
    with pytest.raises(KeyError):
        extract(model, {}, SPECS, output=True)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_evaluating_is_evaluation_inside() -> None:
    model = Chain().train()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())


def test_the_first_of_several_outputs_is_captured() -> None:
    module = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 1)})
    x, states = torch.randn(3, 2, 4), {}
    with capture(module, {"attention"}, states, stop=False):
        expected, _ = module["attention"](x, x, x)
    assert torch.equal(states["attention"], expected)


def act_batch(**inputs: Tensor) -> dict[str, Any]:
    return {**inputs, "task": ["push the puck"] * len(next(iter(inputs.values())))}


def test_an_act_policys_decoder_feeds_its_action_head(tiny_policy: Callable[..., PolicyModel]) -> None:
    """The cached decoder state, put through the head by hand, is the action chunk the policy makes in evaluation."""
    policy = tiny_policy().train()
    batch = act_batch(**{"observation.state": torch.randn(3, 4), "observation.environment_state": torch.randn(3, 39)})
    spec = FeatureSpec(policy.module_path(-1), "none")
    features = extract(policy, batch, [spec], output=True)
    head = policy.policy.model.action_head
    torch.testing.assert_close(features.hidden[spec.column] @ head.weight.T + head.bias, features.output)
    policy.eval()
    assert torch.equal(features.output, policy.predict(policy.prepare(batch)))


def test_an_act_policys_action_head_does_not_run_for_hidden_features(tiny_policy: Callable[..., PolicyModel]) -> None:
    policy = tiny_policy()
    batch = act_batch(**{"observation.state": torch.randn(3, 4), "observation.environment_state": torch.randn(3, 39)})
    calls = {name: count_calls(policy.get_submodule(f"policy.model.{name}")) for name in ("decoder", "action_head")}
    extract(policy, batch, [FeatureSpec(policy.module_path(0), "none")], output=False)
    assert {name: len(made) for name, made in calls.items()} == {"decoder": 0, "action_head": 0}


def test_mean_image_tokens_of_act_are_those_of_its_feature_map(image_policy: PolicyModel) -> None:
    """The number of image tokens is read off the backbone's feature map; they are the last tokens of the encoder."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    batch = act_batch(**{"observation.state": torch.randn(2, 4), "observation.images.front": images})
    path = image_policy.module_path(0)
    raw: list[Tensor] = []
    handle = image_policy.get_submodule(path).register_forward_hook(lambda _m, _i, output: raw.append(output))
    with torch.no_grad():
        feature_map = image_policy.policy.model.backbone(images)["feature_map"]
        spec = FeatureSpec(path, "mean_image_tokens")
        pooled = extract(image_policy, batch, [spec], output=True).hidden[spec.column]
    handle.remove()
    num_image_tokens = feature_map.shape[2] * feature_map.shape[3]
    tokens = raw[0]  # (tokens, batch, dim): latent, state, images
    assert len(tokens) == 2 + num_image_tokens
    torch.testing.assert_close(pooled, tokens[-num_image_tokens:].mean(dim=0))


def test_a_larger_image_has_more_image_tokens(image_policy: PolicyModel) -> None:
    images = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(2))  # a 3 × 2 feature map
    batch = act_batch(**{"observation.state": torch.randn(2, 4), "observation.images.front": images})
    layout = image_policy.token_layout(
        image_policy.module_path(0), image_policy.prepare(batch), torch.Size([2 + 3 * 2, 2, 16])
    )
    assert layout.batch_dim == 1
    assert layout.image.tolist() == [[False, False] + [True] * 6] * 2


def test_image_tokens_of_a_policy_without_cameras_are_refused(tiny_policy: Callable[..., PolicyModel]) -> None:
    policy = tiny_policy()
    batch = act_batch(**{"observation.state": torch.randn(3, 4), "observation.environment_state": torch.randn(3, 39)})
    with pytest.raises(ValueError, match="sees no image tokens"):
        extract(policy, batch, [FeatureSpec(policy.module_path(0), "mean_image_tokens")], output=False)
