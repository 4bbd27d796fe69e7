"""L2-SP against autograd by hand."""

import pytest
import torch
from toy import ToyModel
from toy_run import anchors, gradients, moved

from craft_trainer.losses.l2sp import L2SPLoss


def test_l2_pulls_to_where_the_run_started() -> None:
    """½ Σ (θ − θ₀)², so its gradient is θ − θ₀: of all parameters, those the loss does not reach included."""
    start, model = ToyModel().state_dict(), ToyModel()
    penalty = L2SPLoss(model)
    assert penalty(model, anchors()).item() == 0
    moved(model)
    loss = penalty(model, anchors())
    loss.sum().backward()
    differences = {name: (value - start[name]).detach() for name, value in model.named_parameters()}
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(sum(d.double().square().sum().item() for d in differences.values()) / 2)
    for name, difference in differences.items():
        torch.testing.assert_close(gradients(model)[name], difference)


def test_the_start_does_not_move_with_the_model() -> None:
    """It is a copy. Seen to fail with references."""
    model = ToyModel()
    penalty = L2SPLoss(model)
    moved(model)
    assert penalty(model, anchors()).item() > 0.01


def test_frozen_parameters_are_left_out() -> None:
    """Of the penalty, and of what is copied."""
    model = ToyModel()
    model.encoder.requires_grad_(False)
    penalty = L2SPLoss(model)
    with torch.no_grad():
        model.encoder.weight += 100.0
    assert penalty(model, anchors()).item() == 0
    assert set(penalty._start) == {"head.weight", "head.bias", "unused_by_retention"}


def test_a_parameter_that_is_trained_later_is_refused_by_name() -> None:
    """Seen to fail with a KeyError."""
    model = ToyModel()
    model.encoder.requires_grad_(False)
    penalty = L2SPLoss(model)
    model.encoder.requires_grad_(True)
    with pytest.raises(ValueError, match=r"encoder\.\w+ was frozen when the run began and is trained now"):
        penalty(model, anchors())
