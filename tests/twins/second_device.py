"""A second device on a machine that has one: its tensors compute on the CPU, and may not meet tensors of the CPU.

The device is called ``meta``, the only one beside the CPU whose backward pass needs no driver. It follows CUDA's rules:
a tensor of the CPU without dimensions may meet it, CPU indices may index it, ``copy_`` and ``to`` cross over.
Values and random numbers are the CPU's, so that a run on it must give what the CPU gives, bit for bit.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from transformers import TrainingArguments

SECOND = torch.device("meta")
CPU = torch.device("cpu")
CROSS = {"_to_copy", "copy_", "_copy_from", "set_"}
INDEX = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


class OnSecond(Tensor):
    """A tensor of the second device."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "OnSecond":
        found = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=SECOND,
        )
        found.values = values
        return found

    def __repr__(self) -> str:
        return f"OnSecond({self.values!r})"

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of the second device to numpy: copy it to the CPU first")

    def tolist(self) -> Any:
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(operation, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While it is entered, ``device="meta"`` makes tensors of the second device."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(operation, args, kwargs or {})


class MadeOfNumbers(TorchFunctionMode):
    """``torch.tensor`` reaches no dispatcher: make it on the CPU, then move it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") in (SECOND, SECOND.type):
            return function(*mapped(values, args), **kwargs | {"device": CPU}).to(SECOND)
        return function(*args, **kwargs)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Everything inside may use the second device, and accelerate trains on it."""
    asked = property(lambda args: args._setup_devices and SECOND)
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # or tied weights, when moved, are tied no more
    try:
        with (
            patch.dict(os.environ, ACCELERATE_TORCH_DEVICE=SECOND.type),
            patch.object(TrainingArguments, "device", asked),
            patch.object(torch.accelerator, "synchronize"),
            MadeOfNumbers(),
            SecondDevice(),
        ):
            yield SECOND
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        AcceleratorState._reset_state(reset_partial_state=True)


def dispatch(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute ``operation`` on the CPU, with the result where it belongs.

    Raises:
        RuntimeError: tensors of both devices meet.
    """
    name = operation.overloadpacket.__name__
    tensors = list[Tensor]()
    mapped(tensors.append, (*args, *kwargs.values()))
    second = any(isinstance(one, OnSecond) for one in tensors)
    if second and name not in CROSS:
        met = tensors[:1] if name in INDEX else tensors
        if any(not isinstance(one, OnSecond) and one.dim() > 0 for one in met) or (
            name in INDEX and not isinstance(tensors[0], OnSecond)
        ):
            raise RuntimeError(f"Expected all tensors to be on the same device: {operation} of cpu and second device")
    device = kwargs.get("device")
    if device is not None:
        kwargs = kwargs | {"device": CPU}
        second = torch.device(device).type == SECOND.type
    if name == "copy_":
        second = isinstance(args[0], OnSecond)
    found = operation(*mapped(values, args), **{key: mapped(values, value) for key, value in kwargs.items()})
    if not second:
        return found
    return return_and_correct_aliasing(operation, args, kwargs, mapped(OnSecond, found))


def values(one: Tensor) -> Tensor:
    """What a tensor of the second device holds; another tensor as it is."""
    return one.values if isinstance(one, OnSecond) else one


def mapped(how: Callable[[Tensor], Any], part: Any) -> Any:
    """``how`` of every tensor of an operation's arguments or result, which are not nested deeper than lists.

    ``torch.utils._pytree`` does this for any nesting, and far more slowly.
    """
    if isinstance(part, Tensor):
        return how(part)
    return type(part)(mapped(how, one) for one in part) if isinstance(part, list | tuple) else part
