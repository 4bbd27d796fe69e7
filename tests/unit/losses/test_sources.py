"""What g_retain is the gradient of, for every method: against autograd by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import INPUTS, OUTPUTS, TOKENS, ToyModel

from craft_trainer.anchors.cache import AnchorBatch
from craft_trainer.anchors.features import Features, FeatureSpec, extract
from craft_trainer.losses.sources import FeatureSource, PullSource, TaskSource, fisher_information
from craft_trainer.losses.terms import retention_loss

GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(6, TOKENS, INPUTS, generator=GENERATOR)
Y = torch.randn(6, TOKENS, OUTPUTS, generator=GENERATOR)
SPECS = [FeatureSpec("encoder", "none")]
COLUMN = SPECS[0].column
SCALES = {COLUMN: torch.tensor(0.5), "output": torch.tensor(2.0)}


class Dropped(ToyModel):
    """The toy with dropout, which only training mode has."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, y: Tensor, return_loss: bool = True) -> dict[str, Tensor]:
        return super().forward(self.dropout(x), y)


def anchors(*rows: int, teacher: Features | None = None) -> AnchorBatch:
    chosen = list(rows) or list(range(6))
    return AnchorBatch({"x": X[chosen], "y": Y[chosen]}, teacher or Features({}, None), ["old"] * len(chosen))


def moved(model: ToyModel, by: float = 0.1) -> ToyModel:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=by)
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_replay_is_the_task_loss_on_the_anchors() -> None:
    """Loss and gradient are those of the model called directly."""
    direct, replayed = ToyModel(), ToyModel()
    loss = direct(X, Y)["loss"]
    loss.backward()
    source = TaskSource()
    again = source(replayed, anchors())
    assert again.shape == (1,)
    assert not source.per_anchor
    assert again.item() == loss.item()
    again.sum().backward()
    assert gradients(direct).keys() == gradients(replayed).keys() == dict(direct.named_parameters()).keys()
    assert all(torch.equal(gradients(replayed)[name], grad) for name, grad in gradients(direct).items())


def test_replay_runs_in_training_mode_like_the_task() -> None:
    """Seen to fail with TaskSource in evaluation mode."""
    model = Dropped().train()
    torch.manual_seed(0)
    expected = model(X, Y)["loss"]
    torch.manual_seed(0)
    assert TaskSource()(model, anchors()).item() == expected.item() != Dropped().eval()(X, Y)["loss"].item()


@pytest.mark.parametrize("weights", [{"hidden": 1.0}, {"output": 2.0}, {"hidden": 0.5, "output": 3.0}])
@pytest.mark.parametrize("whole_pass", [False, True])
def test_features_are_the_retention_loss_of_every_anchor(weights: dict[str, float], whole_pass: bool) -> None:
    teacher = extract(ToyModel(), {"x": X}, SPECS, output=True)
    teacher = Features({COLUMN: teacher.hidden[COLUMN].detach()}, teacher.output.detach())
    student = moved(ToyModel())
    source = FeatureSource(SPECS, SCALES, weights=weights, hidden_distance="l1", whole_pass=whole_pass)
    losses = source(student, anchors(teacher=teacher))
    expected = retention_loss(
        extract(student, {"x": X}, SPECS, output=True), teacher, SCALES, weights=weights, hidden_distance="l1"
    )
    assert source.per_anchor
    assert losses.shape == (6,)
    assert torch.equal(losses, expected)


@pytest.mark.parametrize(
    ("weights", "whole_pass", "head_runs"),
    [({"hidden": 1.0}, False, 0), ({"hidden": 1.0}, True, 1), ({"hidden": 1.0, "output": 1.0}, False, 1)],
)
def test_the_head_runs_only_if_its_output_is_held(weights: dict[str, float], whole_pass: bool, head_runs: int) -> None:
    model, calls = ToyModel(), []
    model.head.register_forward_hook(lambda *_: calls.append(1))
    teacher = Features({COLUMN: torch.zeros(6, TOKENS, 5)}, torch.zeros(6, TOKENS, OUTPUTS))
    FeatureSource(SPECS, SCALES, weights=weights, hidden_distance="mse", whole_pass=whole_pass)(
        model, anchors(teacher=teacher)
    )
    assert len(calls) == head_runs


def test_features_that_are_not_held_are_not_captured() -> None:
    """A term without hidden features does not even look for their layers."""
    source = FeatureSource([FeatureSpec("absent", "none")], SCALES, weights={"output": 1.0}, hidden_distance="mse")
    teacher = Features({"hidden/absent/none": torch.zeros(6, 1)}, torch.zeros(6, TOKENS, OUTPUTS))
    assert source(ToyModel(), anchors(teacher=teacher)).shape == (6,)


def test_l2_pulls_to_where_the_run_started() -> None:
    """½ Σ (θ − θ₀)², so its gradient is θ − θ₀: of all parameters, those the loss does not reach included."""
    start, model = ToyModel().state_dict(), ToyModel()
    source = PullSource(model)
    assert source(model, anchors()).item() == 0
    moved(model)
    loss = source(model, anchors())
    loss.sum().backward()
    differences = {name: (value - start[name]).detach() for name, value in model.named_parameters()}
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(sum(d.double().square().sum().item() for d in differences.values()) / 2)
    for name, difference in differences.items():
        torch.testing.assert_close(gradients(model)[name], difference)


def test_the_start_does_not_move_with_the_model() -> None:
    """It is a copy. Seen to fail with references."""
    model = ToyModel()
    source = PullSource(model)
    moved(model)
    assert source(model, anchors()).item() > 0.01


def test_ewc_weighs_every_parameter_by_its_fisher_information() -> None:
    """½ Σ F (θ − θ₀)² and its gradient F (θ − θ₀)."""
    start, model = ToyModel().state_dict(), ToyModel()
    fisher = {name: torch.rand(p.shape, generator=GENERATOR) for name, p in model.named_parameters()}
    source = PullSource(model, fisher)
    moved(model)
    loss = source(model, anchors())
    loss.sum().backward()
    expected = sum((fisher[n] * (p - start[n]).square()).sum() for n, p in model.named_parameters()) / 2
    torch.testing.assert_close(loss.sum(), expected)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients(model)[name], fisher[name] * (parameter - start[name]).detach())


def oracle_fisher(model: ToyModel) -> dict[str, Tensor]:
    """One backward pass per anchor, in float64, through a functional call that never sees ``.grad``."""
    values = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    total = {name: torch.zeros_like(value) for name, value in values.items()}
    for x, y in zip(X.double(), Y.double(), strict=True):
        loss = torch.func.functional_call(model, values, (x[None], y[None]))["loss"]
        for name, grad in zip(values, torch.autograd.grad(loss, list(values.values())), strict=True):
            total[name] += grad.square() / 6
    return total


def test_fisher_information_is_the_mean_squared_gradient_of_single_anchors() -> None:
    """Seen to fail with gradients left to add up from anchor to anchor."""
    model = ToyModel()
    fisher = fisher_information(model, [anchors(row) for row in range(6)])
    expected = oracle_fisher(model)
    assert fisher.keys() == expected.keys()
    for name, value in expected.items():
        assert value.min() > 0
        torch.testing.assert_close(fisher[name].double(), value, rtol=1e-5, atol=1e-9)
        assert not fisher[name].requires_grad


def test_fisher_information_is_of_the_model_as_it_acts() -> None:
    """Without dropout, and the mode is as before."""
    model = Dropped().train()
    expected = oracle_fisher(ToyModel())
    for name, value in fisher_information(model, [anchors(row) for row in range(6)]).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-9)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("present", [True, False])
def test_fisher_information_leaves_gradients_as_they_were(present: bool) -> None:
    """Those of a step under way. Seen to fail without putting them back."""
    model = ToyModel()
    if present:
        model(X, Y)["loss"].backward()
    before = [(p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    fisher_information(model, [anchors(0), anchors(1)])
    for parameter, (grad, copy) in zip(model.parameters(), before, strict=True):
        assert parameter.grad is grad
        assert copy is None or torch.equal(grad, copy)


@pytest.fixture
def frozen() -> ToyModel:
    model = ToyModel()
    model.encoder.requires_grad_(False)
    return model


def test_frozen_parameters_are_left_out(frozen: ToyModel) -> None:
    """Of the Fisher information, of the penalty, and of what is copied."""
    trained = {"head.weight", "head.bias", "unused_by_retention"}
    fisher = fisher_information(frozen, [anchors(row) for row in range(6)])
    assert fisher.keys() == trained
    sources: list[Any] = [PullSource(frozen), PullSource(frozen, fisher)]
    with torch.no_grad():
        frozen.encoder.weight += 100.0
    for source in sources:
        assert source(frozen, anchors()).item() == 0
        assert set(source._start) == trained


def test_a_parameter_the_loss_does_not_reach_has_no_information() -> None:
    model = ToyModel()
    model.idle = nn.Parameter(torch.ones(3))
    fisher = fisher_information(model, [anchors(0)])
    assert fisher["idle"].tolist() == [0.0] * 3
    assert model.idle.grad is None
