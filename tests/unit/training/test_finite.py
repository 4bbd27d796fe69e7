"""What is finite: the sum of large terms is not, and they are."""

import math

import pytest
import torch
from torch import nn

from craft_trainer.training.finite import require_finite_run


class Args:
    output_dir = "nowhere"


class State:
    global_step = 3


def require(values, dtype):
    model = nn.Linear(4, 1, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values]))
    require_finite_run(Args(), State(), model=model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_weights_are_finite(dtype):
    """Their sum is not."""
    require([torch.finfo(dtype).max] * 4, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("values", [(0, math.nan, 0, 0), (math.inf, 0, 0, 0), (0, 1, -math.inf, math.inf)])
def test_one_that_is_not_is_named(values, dtype):
    with pytest.raises(FloatingPointError, match=r"step 3: weight is not finite any more"):
        require(list(values), dtype)
