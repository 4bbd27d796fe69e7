"""A LoRA adapter on the language model that costs are measured on, in full precision or quantised."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from craft_trainer.costs.llama import Size, language_model
from craft_trainer.models.pretrained import load_model

RANK = 8


def can_quantize() -> bool:
    """True if bitsandbytes and PEFT are installed."""
    return all(map(find_spec, ("bitsandbytes", "peft")))


def adapted(size: Size, folder: Path, quantization: str | None) -> Any:
    """The same random weights whatever the ``quantization``, in ``folder`` and from there, under a fresh adapter."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    language_model(size).save_pretrained(folder)
    model = load_model(folder, "float32", quantization=quantization)
    return get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))


def base_bytes(model: Any) -> int:
    """The size of what ``model`` holds below its adapter: weights, and the constants that they were quantised by."""
    state = {name: tensor for name, tensor in model.get_base_model().state_dict().items() if ".lora_" not in name}
    once = {tensor.data_ptr(): tensor for tensor in state.values()}  # tied weights have two names
    return sum(tensor.numel() * tensor.element_size() for tensor in once.values())
