"""Clipping a merged gradient whose norm is already known from its Gramian."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import nn

from craft_trainer.optim import gradients
from craft_trainer.optim.merging import Merged


class KnownNorm:
    """The norm of the ``.grad`` that a merge has just put into ``parameters``, for clipping it once.

    Trainer measures the norm of every step's gradient and multiplies it by the factor that clips it, 1 included: two
    passes over the memory. The Gramian holds the norm already, and 1 needs no pass.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], norm: float) -> None:
        self._parameters = parameters
        self._norm = norm
        self._versions = gradients.versions(parameters)

    @classmethod
    def after(cls, merged: Merged, parameters: Sequence[nn.Parameter], frozen: Sequence[nn.Parameter]) -> Self | None:
        """None where Trainer must measure: the merge does not know, one of the ``frozen`` parameters has a gradient
        besides, or float16 may have overflowed in it.
        """
        besides = any(parameter.grad is not None for parameter in frozen)
        half = any(parameter.dtype == torch.float16 for parameter in parameters)
        return None if merged.norm is None or besides or half else cls(parameters, merged.norm)

    def clip(self, maximum: float) -> float | None:
        """Clip to ``maximum`` as torch's ``clip_grad_norm_``: the norm before it, or None if a gradient changed."""
        if gradients.versions(self._parameters) != self._versions:
            return None
        factor = maximum / (self._norm + 1e-6)
        if factor < 1:
            gradients.scale(self._parameters, factor)
        return self._norm
