"""Noise that a policy starts to denoise from: drawn for each row of a dataset, then an input like others."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from craft_trainer.models.base import Batch

OWN_ACTIONS = 2**32  # added to a row: what its own actions start from is not what is added to them afterwards
NOISE = "noise/"  # prefix of the keys of a batch that hold what a policy denoises


def forked_rng(device: torch.device) -> AbstractContextManager[None]:
    """Inside, draws of torch's generators, of the CPU and of ``device``, are undone at the end."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def noise_of_rows(rows: Sequence[int], draw: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """``draw()`` for each row, stacked: torch's CPU generator is seeded with the row, and put back afterwards."""
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for row in rows:
            torch.default_generator.manual_seed(row)
            drawn.append(draw())
    return {name: torch.stack([sample[name] for sample in drawn]) for name in drawn[0]}


def noise_beside(actions: Tensor, batch: Batch) -> dict[str, Tensor]:
    """The ``noise`` and ``time`` that came with a batch, where ``actions`` are; a ValueError if it holds none."""
    if NOISE + "noise" not in batch:
        raise ValueError("this policy denoises its actions: add the model's noise(rows) to the batch")
    return {name: batch[NOISE + name].to(actions.device) for name in ("noise", "time")}
