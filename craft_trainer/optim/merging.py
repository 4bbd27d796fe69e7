"""One gradient out of two: g_task is set aside, g_retain arrives, blocks of parameters are merged by a surgery rule."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from craft_trainer.optim import gradients
from craft_trainer.optim.blocks import Blocks
from craft_trainer.optim.surgery import Surgery, cosine

BlockRule = Callable[[Float[Tensor, "2 2"]], Surgery]
OnRetain = Callable[[int, Tensor], None]
UNDEFINED = Surgery(math.nan, math.nan, math.nan, conflict=False)  # of a gradient that is not finite


class Merged(NamedTuple):
    """Measurements and effects of a merge, over all blocks."""

    gram: Float[Tensor, "2 2"]  # of the whole gradients
    cosine: float  # of the whole gradients
    conflict: float  # fraction of the blocks that conflict, of those that both losses reach
    projected_energy: float  # Σ |change of g_task|² / Σ |g_task|² over the blocks
    retain_weight: float  # mean over the blocks, weighted by their <g_r, g_r>
    finite: bool


class Merge:
    """The two gradients of one optimizer step become one.

    Entering takes g_task out of ``.grad``; the backward pass inside leaves g_retain there; :meth:`finish` puts the
    merged gradient back. With ``as_ready`` every block is merged as soon as its part of g_retain is complete, so that
    only blocks with a parameter that g_retain does not reach are held until the end; otherwise g_retain is held whole,
    one copy of the gradients.

    Args:
        rule: a block's Gramian → its weights.
        on_retain: called with the index of every parameter and its part of g_retain before it is merged.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        blocks: Blocks,
        rule: BlockRule,
        *,
        as_ready: bool = False,
        on_retain: OnRetain | None = None,
    ) -> None:
        self._parameters = parameters
        self._blocks = blocks
        self._rule = rule
        self._on_retain = on_retain
        self._as_ready = as_ready
        self._grams: list[Float[Tensor, "2 2"]] = []
        self._surgeries: list[Surgery] = []
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self._task = gradients.take(self._parameters)
        if self._as_ready:
            self._missing = [set(block) for block in self._blocks]
            for number, block in enumerate(self._blocks):
                for index in block:
                    self._hooks.append(self._watch(index, number))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def finish(self, *, average: bool = False) -> Merged:
        """Merge what is left and put the merged gradient into ``.grad``.

        Where an inner product is not finite, every gradient becomes NaN, so that an fp16 scaler skips the step.

        Args:
            average: take the mean of g_retain over all processes first (not together with ``as_ready``).
        """
        retain = gradients.take(self._parameters)
        if average:
            retain = gradients.average(retain, self._parameters)
        left = [block for number, block in enumerate(self._blocks) if not self._as_ready or self._missing[number]]
        self._merge(left, {index: retain[index] for block in left for index in block})
        total = torch.stack(self._grams).sum(dim=0)
        finite = bool(total.isfinite().all())
        if not finite:
            nothing: gradients.Gradients = [None] * len(self._task)
            self._task = gradients.combine(self._task, nothing, math.nan, math.nan)
        gradients.put(self._parameters, self._task)
        return self._summary(total, finite=finite)

    def _watch(self, index: int, number: int) -> RemovableHandle:
        def ready(_parameter: Tensor) -> None:
            if index not in self._missing[number]:
                raise RuntimeError(
                    "a parameter got its retention gradient twice: use gradient_checkpointing_kwargs="
                    "{'use_reentrant': False}, or granularity model"
                )
            self._missing[number].remove(index)
            if not self._missing[number]:
                self._merge_ready(self._blocks[number])

        parameter: Any = self._parameters[index]
        handle: RemovableHandle = parameter.register_post_accumulate_grad_hook(ready)
        return handle

    def _merge_ready(self, block: Sequence[int]) -> None:
        retain = gradients.take([self._parameters[index] for index in block])
        self._merge([block], dict(zip(block, retain, strict=True)))

    def _merge(self, blocks: Sequence[Sequence[int]], retain: Mapping[int, Tensor | None]) -> None:
        """Merge ``blocks`` in place: the memory of g_task becomes that of the merged gradient."""
        indices = list(retain)
        for index, gradient in retain.items():
            if gradient is not None and self._on_retain is not None:
                self._on_retain(index, gradient)
        place = {index: number for number, index in enumerate(indices)}
        grams = gradients.gramians(
            [self._task[index] for index in indices],
            list(retain.values()),
            [[place[index] for index in block] for block in blocks],
        )
        for block, gram in zip(blocks, grams, strict=True):
            surgery = self._rule(gram) if gram.isfinite().all() else UNDEFINED
            self._grams.append(gram)
            self._surgeries.append(surgery)
            merged = gradients.combine(
                [self._task[index] for index in block],
                [retain[index] for index in block],
                surgery.task_weight,
                surgery.retain_weight,
            )
            for index, gradient in zip(block, merged, strict=True):
                self._task[index] = gradient

    def _summary(self, total: Float[Tensor, "2 2"], *, finite: bool) -> Merged:
        t, r = total[0, 0].item(), total[1, 1].item()
        shared = [s for gram, s in zip(self._grams, self._surgeries, strict=True) if gram[0, 0] > 0 and gram[1, 1] > 0]
        pairs = [(gram[1, 1].item(), s) for gram, s in zip(self._grams, self._surgeries, strict=True)]
        return Merged(
            total,
            cosine(total) if finite else math.nan,
            conflict=sum(s.conflict for s in shared) / max(1, len(shared)),
            projected_energy=sum(s.projection**2 * gram_r for gram_r, s in pairs) / t if t > 0 else 0.0,
            retain_weight=sum(s.retain_weight * gram_r for gram_r, s in pairs) / r if r > 0 else 0.0,
            finite=finite,
        )
