"""Shared parts of vision-language-action policies."""

import pytest
import torch
from torch import nn

from craft_trainer.models.vla import head_output


def test_the_pass_ends_at_the_head():
    head, behind = nn.Linear(2, 3), []

    def forward():
        head(torch.zeros(1, 2))
        behind.append("reached")

    assert torch.equal(head_output(head, forward), head(torch.zeros(1, 2)))
    assert behind == []
    assert not head._forward_hooks


def test_a_pass_that_misses_the_head_is_told():
    with pytest.raises(AssertionError, match="did not reach Linear: name the module whose output is held"):
        head_output(nn.Linear(2, 3), lambda: None)
