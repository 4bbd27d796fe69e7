"""Check by the headers of its files that a saved checkpoint can be loaded: no tensor is read."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from craft_trainer.models.pretrained import ADAPTER_WEIGHTS, WEIGHTS_FILE, load_model, require_whole


def require_loadable(folder: Path, model: nn.Module) -> None:
    """Make sure that ``folder`` holds every tensor of ``model``: a LeRobot policy, a HuggingFace model or an adapter.

    Raises:
        OSError: a file is missing.
        ValueError: a file is damaged, or a tensor is missing or has another shape.
    """
    adapted = getattr(model, "peft_model", None) or model
    if isinstance(model, PreTrainedModel):
        load_model(folder, None, device="meta")
    elif hasattr(adapted, "peft_config"):
        from peft import get_peft_model_state_dict

        _require_tensors(folder / ADAPTER_WEIGHTS, get_peft_model_state_dict(adapted, save_embedding_layers=False))
    else:
        saved = model.state_dict().keys()
        parts = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
        tensors = {name.removeprefix("policy."): tensor for name, tensor in parts if name in saved}
        _require_tensors(folder / WEIGHTS_FILE, tensors)


def _require_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Of tensors that are one, like tied weights, one name is enough."""
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 no mapping
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    held = {id(tensor) for name, tensor in tensors.items() if name in shapes}
    missing = [name for name, tensor in tensors.items() if id(tensor) not in held]
    both = [(name, shapes[name], list(tensor.shape)) for name, tensor in tensors.items() if name in shapes]
    others = [f"{name} ({saved} instead of {ours})" for name, saved, ours in both if saved != ours]
    require_whole(file.parent, {"missing": missing, "of another shape": others})
