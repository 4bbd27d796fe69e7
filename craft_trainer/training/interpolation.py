"""The weights between a teacher and what was tuned from it: θ(α) = θ_A + α·(θ_B − θ_A)."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from craft_trainer.models.base import COPY

SCALED = re.compile(r"\.(lora_B|lora_embedding_B)\.")  # the factor of a low-rank update that α multiplies
KEPT = re.compile(r"\.(lora_A|lora_embedding_A)\.")
MERGE_ADAPTERS = (
    "Make whole models of both, by PeftModel.from_pretrained(base, ADAPTER).merge_and_unload() and save_pretrained, "
    "and merge those"
)


class Ends(NamedTuple):
    """One tensor of the teacher (α = 0) and the same of the tuned model (α = 1)."""

    teacher: Tensor
    tuned: Tensor


class WeightLine:
    """The line from a teacher's weights to those of a tuned model, walked in the memory of the tuned model.

    Every tensor of numbers is θ_A + α·(θ_B − θ_A), running means included. A buffer of integers, such as a counter of
    batches, is the tuned model's unless α = 0. At α = 0 and α = 1 all tensors are copies, without arithmetic.

    Of a LoRA adapter on the teacher the update is what grows with α: W + α·s·B·A, so B is multiplied by α, and A stays.
    A copied head (``modules_to_save``) is interpolated from the teacher's own.
    """

    def __init__(self, teacher: nn.Module, tuned: nn.Module) -> None:
        """Begin at α = 1; the line reads ``teacher`` and writes into ``tuned``.

        Raises:
            ValueError: the two have no line between them; it names the tensor and the way out.
        """
        if hasattr(teacher, "peft_config"):
            raise ValueError(f"the teacher is a PEFT adapter: A and B of a product have no line. {MERGE_ADAPTERS}")
        self._tuned = tuned
        if hasattr(tuned, "peft_config"):
            self._ends = _adapter_ends(teacher.state_dict(), tuned)
        else:
            self._ends = _whole_ends(teacher.state_dict(), tuned)

    @torch.no_grad()
    def move(self, alpha: float) -> None:
        """Give the tuned model the weights at ``alpha``, in [0, 1]."""
        state = self._tuned.state_dict()
        for name, (teacher, tuned) in self._ends.items():
            state[name].copy_(_between(teacher, tuned, alpha))


def _between(teacher: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    if alpha in (0.0, 1.0) or not tuned.is_floating_point():
        return teacher if alpha == 0.0 else tuned
    low = teacher.to(torch.promote_types(teacher.dtype, torch.float32))
    return low + alpha * (tuned.to(low.dtype) - low)


def _whole_ends(teacher: Mapping[str, Tensor], tuned: nn.Module) -> dict[str, Ends]:
    state = tuned.state_dict()
    if alone := sorted(teacher.keys() ^ state.keys()):
        raise ValueError(
            f"{alone[0]} is in one of the two models only, so their architectures differ: give the checkpoint that "
            "the tuned model was trained from"
        )
    for name, tensor in state.items():
        _require_alike(name, teacher[name], tensor)
    for name, part in (*tuned.named_parameters(), *tuned.named_buffers()):
        if name in teacher and not part.is_floating_point() and isinstance(part, nn.Parameter):
            raise ValueError(f"{name} holds {part.dtype}: quantised weights have no line between them: dequantise both")
        part.data = part.data.to(teacher[name].dtype) if name in teacher else part.data  # wider: exact
    return {name: Ends(teacher[name], tensor.clone()) for name, tensor in tuned.state_dict().items()}


def _require_alike(name: str, teacher: Tensor, tuned: Tensor) -> None:
    if teacher.shape != tuned.shape:
        raise ValueError(
            f"{name} is {list(teacher.shape)} in the teacher and {list(tuned.shape)} in the tuned model: give the "
            "checkpoint that the tuned model was trained from"
        )
    if torch.promote_types(teacher.dtype, tuned.dtype) != teacher.dtype:
        raise ValueError(
            f"{name} is {teacher.dtype} in the teacher and {tuned.dtype} in the tuned model, whose weights would be "
            "rounded: build the cache with the tuned model's type (cache build --teacher_dtype), or save it in the "
            "teacher's"
        )


def _adapter_ends(teacher: Mapping[str, Tensor], tuned: nn.Module) -> dict[str, Ends]:
    config: Any = tuned.active_peft_config
    if config.peft_type != "LORA":
        raise ValueError(
            f"the adapter is {config.peft_type.value}, of which α cannot scale the update. {MERGE_ADAPTERS}"
        )
    ends, state = {}, tuned.state_dict()
    for name, tensor in state.items():
        if SCALED.search(name):
            ends[name] = Ends(torch.zeros_like(tensor), tensor.clone())
        elif COPY.search(name):
            ends[name] = Ends(state[COPY.sub(".original_module.", name)].to(tensor.dtype), tensor.clone())
        elif not KEPT.search(name):
            _require_of_base(name, tensor, teacher)
    return ends


def _require_of_base(name: str, tensor: Tensor, teacher: Mapping[str, Tensor]) -> None:
    """Everything that is not the adapter's is the teacher's: so is no magnitude of DoRA, no bias, no other base."""
    plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")
    own = teacher.get(plain)
    if own is None or not torch.equal(own, tensor):
        raise ValueError(
            f"without the low-rank update, {name} is not the teacher's: the adapter is one on another base, or it "
            f"changes its base (DoRA, PiSSA, a trained bias). Give its base as the teacher. Or: {MERGE_ADAPTERS}"
        )
