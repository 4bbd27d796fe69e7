"""Take gradients out of a model, compare them, and put their combination back. The only file that touches ``.grad``."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

Gradients = list[Tensor | None]


def take(parameters: Sequence[nn.Parameter]) -> Gradients:
    """Move every ``.grad`` out of ``parameters``, leaving None; nothing is copied."""
    gradients: Gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients


def put(parameters: Sequence[nn.Parameter], gradients: Gradients) -> None:
    """Set every ``.grad``; the inverse of :func:`take`."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def gramian(task: Gradients, retain: Gradients) -> Float[Tensor, "2 2"]:
    """Inner products ``[[<t,t>, <t,r>], [<t,r>, <r,r>]]`` of two gradients, as float64 on the CPU.

    Each parameter's products are summed in float32, those of all parameters in float64. A parameter without a gradient
    counts as zero. One transfer from the device, whatever the number of parameters.
    """
    both = [(t, r) for t, r in zip(task, retain, strict=True) if t is not None and r is not None]
    rows = (
        [_dot(t, t) for t in task if t is not None],
        [_dot(t, r) for t, r in both],
        [_dot(r, r) for r in retain if r is not None],
    )
    zero = torch.zeros((), dtype=torch.float64)
    tt, tr, rr = (torch.stack(row).double().sum().cpu() if row else zero for row in rows)
    return torch.stack([tt, tr, tr, rr]).view(2, 2)


def combine(task: Gradients, retain: Gradients, task_weight: float, retain_weight: float) -> Gradients:
    """``task_weight · task + retain_weight · retain`` per parameter, in the memory of its first operand.

    A parameter touched by one loss only keeps that loss's weighted gradient.
    """
    return [_weighted_sum(t, task_weight, r, retain_weight) for t, r in zip(task, retain, strict=True)]


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return torch.dot(left.detach().flatten().float(), right.detach().flatten().float())


def _weighted_sum(
    task: Tensor | None, task_weight: float, retain: Tensor | None, retain_weight: float
) -> Tensor | None:
    if task is None:
        return None if retain is None else retain.mul_(retain_weight)
    scaled = task if task_weight == 1.0 else task.mul_(task_weight)
    return scaled if retain is None else scaled.add_(retain, alpha=retain_weight)
