"""Take gradients out of a model, compare them, and put their combination back. The only file that touches ``.grad``."""

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

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


def gramians(task: Gradients, retain: Gradients, blocks: Sequence[Sequence[int]]) -> Float[Tensor, "blocks 2 2"]:
    """Inner products ``[[<t,t>, <t,r>], [<t,r>, <r,r>]]`` of two gradients per block of parameters, float64 on the CPU.

    ``blocks`` are disjoint and hold the index of every parameter.

    Each parameter's products are summed in float32, those of several parameters in float64. A parameter without a
    gradient counts as zero. Sharded gradients (DTensor) are summed over their shards: one all-reduce of three numbers
    per parameter, and one transfer from the device, whatever the number of parameters.
    """
    either = [r if t is None else t for t, r in zip(task, retain, strict=True)]
    products = sum_over_shards(_products(task, retain), either).cpu().double()
    block_of = torch.empty(len(products), dtype=torch.long)
    for number, block in enumerate(blocks):
        block_of[list(block)] = number
    tt, tr, rr = products.new_zeros(len(blocks), 3).index_add_(0, block_of, products).unbind(dim=1)
    return torch.stack([tt, tr, tr, rr], dim=1).view(-1, 2, 2)


def combine(task: Gradients, retain: Gradients, task_weight: float, retain_weight: float) -> Gradients:
    """``task_weight · task + retain_weight · retain`` per parameter, in the memory of its first operand.

    A parameter touched by one loss only keeps that loss's weighted gradient; by ``retain`` of weight 0 alone, none.
    """
    return [_weighted_sum(t, task_weight, r, retain_weight) for t, r in zip(task, retain, strict=True)]


def average(gradients: Gradients, parameters: Sequence[nn.Parameter]) -> Gradients:
    """Mean over all processes of gradients that each made from its own samples: one all-reduce of one flat buffer.

    A parameter that some processes left untouched counts as zero there; one that all left untouched stays None.
    """
    touched = torch.tensor([gradient is not None for gradient in gradients], device=parameters[0].device).int()
    dist.all_reduce(touched)
    averaged: Gradients = list(gradients)
    buffers: dict[torch.dtype, list[int]] = defaultdict(list)
    for index, anywhere in enumerate(touched.tolist()):
        if anywhere:
            buffers[parameters[index].dtype].append(index)
    for indices in buffers.values():
        parts = [_or_zeros(gradients[index], parameters[index]) for index in indices]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for index, part, mean in zip(indices, parts, torch.split(flat, [part.numel() for part in parts]), strict=True):
            averaged[index] = mean.view_as(part)
    return averaged


def sum_over_shards(
    products: Float[Tensor, "parameters n"], tensors: Sequence[Tensor | None]
) -> Float[Tensor, "parameters n"]:
    """Rows of ``products`` that belong to a sharded tensor (DTensor), summed over the holders of its shards."""
    rows: dict[dist.ProcessGroup, list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        if isinstance(tensor, DTensor):
            for dim, placement in enumerate(tensor.placements):
                if placement.is_shard():
                    rows[tensor.device_mesh.get_group(dim)].append(index)
    for group, indices in rows.items():
        part = products[indices]
        dist.all_reduce(part, group=group)
        products[indices] = part
    return products


def local(tensor: Tensor) -> Tensor:
    """The local part of a tensor: its shard of a DTensor, otherwise the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _products(task: Gradients, retain: Gradients) -> Float[Tensor, "parameters 3"]:
    """<t,t>, <t,r>, <r,r> of what this process holds of every parameter."""
    device = next((gradient.device for gradient in (*task, *retain) if gradient is not None), torch.device("cpu"))
    zero = torch.zeros((), device=device)
    products = [
        product
        for t, r in zip(map(_flat, task), map(_flat, retain), strict=True)
        for product in (
            zero if t is None else torch.dot(t, t),
            zero if t is None or r is None else torch.dot(t, r),
            zero if r is None else torch.dot(r, r),
        )
    ]
    return torch.stack(products).view(-1, 3) if products else zero.new_zeros(0, 3)


def _flat(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else local(gradient.detach()).flatten().float()


def _weighted_sum(
    task: Tensor | None, task_weight: float, retain: Tensor | None, retain_weight: float
) -> Tensor | None:
    if task is None:
        return None if retain is None or retain_weight == 0 else retain.mul_(retain_weight)  # a zero would be decayed
    scaled = task if task_weight == 1.0 else task.mul_(task_weight)
    return scaled if retain is None else scaled.add_(retain, alpha=retain_weight)


def _or_zeros(gradient: Tensor | None, parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient
