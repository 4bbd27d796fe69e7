"""The angle between what the optimizer did and what retention asked for."""

from collections.abc import Sequence
from itertools import accumulate, count

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from craft_trainer.optim.gradients import local, sum_over_shards

SAMPLED_NUMBERS = 2**16


class UpdateAngle:
    """The cosine of an optimizer step Δθ and the retention gradient, ⟨Δθ, g_r⟩/(|Δθ|·|g_r|), over all parameters.

    Positive means that the step raises L_retain to first order, whatever surgery did to the gradient: the optimizer's
    momentum, preconditioner and weight decay come after it. Up to 2¹⁶ numbers the cosine is exact; of larger models
    every p-th number of all parameters in a row is compared, p a prime that divides no row length. That is right to
    about 1/√2¹⁶ = 0.004 and takes half a megabyte whatever their size.

    Made before the optimizer steps, from the parameters as they are then.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        sizes = [local(parameter).numel() for parameter in parameters]
        self._stride = _stride(sum(sizes) // SAMPLED_NUMBERS, [p.shape[-1] for p in parameters if p.ndim])
        self._first = [-start % self._stride for start in accumulate(sizes[:-1], initial=0)]
        self._samples = [self._sample(index, parameter) for index, parameter in enumerate(parameters)]  # views
        self._before = torch.cat(self._samples)
        self._retain: dict[int, Tensor] = {}

    def keep(self, index: int, gradient: Tensor) -> None:
        """Remember parameter ``index``'s part of g_retain."""
        self._retain[index] = self._sample(index, gradient).clone()

    def cosine(self) -> float:
        """The cosine after the optimizer's step, and forget g_retain; 0 if nothing moved or nothing was kept."""
        if not self._retain:
            return 0.0
        moved = torch.cat(self._samples).float() - self._before.float()
        retain = torch.cat([self._retain.get(i, torch.zeros_like(sample)) for i, sample in enumerate(self._samples)])
        if any(isinstance(parameter, DTensor) for parameter in self._parameters):
            sizes = [len(sample) for sample in self._samples]
            pairs = zip(torch.split(moved, sizes), torch.split(retain.float(), sizes), strict=True)
            products = torch.stack([_products(*pair) for pair in pairs])
            sums = sum_over_shards(products, self._parameters).double().sum(dim=0)
        else:
            sums = _products(moved, retain.float())
        dd, dr, rr = sums.tolist()
        self._retain = {}
        return max(-1.0, min(1.0, dr / dd**0.5 / rr**0.5)) if dd > 0 and rr > 0 else 0.0

    def _sample(self, index: int, tensor: Tensor) -> Tensor:
        return local(tensor.detach()).flatten()[self._first[index] :: self._stride]


def _products(moved: Tensor, retain: Tensor) -> Float[Tensor, " 3"]:
    """<Δθ,Δθ>, <Δθ,g_r>, <g_r,g_r> of samples."""
    return torch.stack([moved.dot(moved), moved.dot(retain), retain.dot(retain)])


def _stride(least: int, row_lengths: Sequence[int]) -> int:
    """The smallest prime of at least ``least`` that divides no row length, so that all columns are sampled; or 1."""
    if least <= 1:
        return 1
    return next(
        candidate
        for candidate in count(least)
        if all(candidate % divisor for divisor in range(2, int(candidate**0.5) + 1))
        and all(length % candidate for length in row_lengths)
    )
