"""Elastic weight consolidation, and its Fisher information, against autograd by hand."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from toy import ToyModel
from toy_run import GENERATOR, SCALES, SPECS, Dropped, X, Y, anchors, gradients, moved, oracle_fisher

from craft_trainer.anchors.features import AnchorBatch
from craft_trainer.losses.ewc import FISHER_ANCHORS, EWCLoss, fisher_information
from craft_trainer.losses.loss import TrainingStart
from craft_trainer.training.config import CraftConfig


def test_ewc_weighs_every_parameter_by_its_fisher_information() -> None:
    """½ Σ F (θ − θ₀)² and its gradient F (θ − θ₀)."""
    start, model = ToyModel().state_dict(), ToyModel()
    fisher = {name: torch.rand(p.shape, generator=GENERATOR) for name, p in model.named_parameters()}
    penalty = EWCLoss(model, fisher)
    moved(model)
    loss = penalty(model, anchors())
    loss.sum().backward()
    expected = sum((fisher[n] * (p - start[n]).square()).sum() for n, p in model.named_parameters()) / 2
    torch.testing.assert_close(loss.sum(), expected)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients(model)[name], fisher[name] * (parameter - start[name]).detach())


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


def test_frozen_parameters_are_left_out() -> None:
    """Of the Fisher information, and of the penalty."""
    model = ToyModel()
    model.encoder.requires_grad_(False)
    fisher = fisher_information(model, [anchors(row) for row in range(6)])
    assert fisher.keys() == {"head.weight", "head.bias", "unused_by_retention"}
    penalty = EWCLoss(model, fisher)
    with torch.no_grad():
        model.encoder.weight += 100.0
    assert penalty(model, anchors()).item() == 0


def test_a_parameter_the_loss_does_not_reach_has_no_information() -> None:
    model = ToyModel()
    model.idle = nn.Parameter(torch.ones(3))
    fisher = fisher_information(model, [anchors(0)])
    assert fisher["idle"].tolist() == [0.0] * 3
    assert model.idle.grad is None


def test_the_information_is_of_some_anchors_spread_over_all() -> None:
    """Seen to fail with the first 128."""
    asked: list[int] = []

    def read(rows: list[int]) -> AnchorBatch:
        asked.extend(rows)
        return anchors(0)

    settings = CraftConfig(output_dir="unused", use_cpu=True)
    EWCLoss.begin(TrainingStart(ToyModel(), SPECS, lambda: SCALES, 300, read, settings, False))
    assert len(set(asked)) == len(asked) == FISHER_ANCHORS
    assert (asked[0], asked[-1]) == (0, 299)
    assert max(later - earlier for earlier, later in pairwise(asked)) <= 3
