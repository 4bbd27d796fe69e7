"""Replay is the task loss on the anchors."""

import torch
from toy import ToyModel
from toy_run import Dropped, X, Y, anchors, gradients

from craft_trainer.losses.replay import ReplayLoss


def test_replay_is_the_task_loss_on_the_anchors() -> None:
    """Loss and gradient are those of the model called directly."""
    direct, replayed = ToyModel(), ToyModel()
    loss = direct(X, Y)["loss"]
    loss.backward()
    replay = ReplayLoss()
    again = replay(replayed, anchors())
    assert again.shape == (1,)
    assert not replay.per_anchor
    assert again.item() == loss.item()
    again.sum().backward()
    assert gradients(direct).keys() == gradients(replayed).keys() == dict(direct.named_parameters()).keys()
    assert all(torch.equal(gradients(replayed)[name], grad) for name, grad in gradients(direct).items())


def test_replay_runs_in_training_mode_like_the_task() -> None:
    """Seen to fail with ReplayLoss in evaluation mode."""
    model = Dropped().train()
    torch.manual_seed(0)
    expected = model(X, Y)["loss"]
    torch.manual_seed(0)
    assert ReplayLoss()(model, anchors()).item() == expected.item() != Dropped().eval()(X, Y)["loss"].item()
