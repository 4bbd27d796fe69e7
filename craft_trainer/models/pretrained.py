"""HuggingFace checkpoints as they were saved: models and adapters, with their tokenizers or processors."""

import json
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from craft_trainer.hub.resolve_path import CHECKPOINTS, resolve_path
from craft_trainer.models.causal_lm import base_model

DTYPES = ("float32", "bfloat16", "float16", "float64")
OTHER_FORMATS = ("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.tflite", "original/*", *CHECKPOINTS)  # not downloaded


def checked_dtype(dtype: str | None) -> str | None:
    """``dtype`` if it is one, or None.

    Raises:
        ValueError: it is none.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: choose {', '.join(DTYPES)}, or leave it out")
    return dtype


def checkpoint_folder(name: str, revision: str | None = None) -> Path:
    """Resolve ``name`` as :func:`craft_trainer.hub.resolve_path.resolve_path` does, without other formats."""
    return resolve_path(name, revision=revision, without=OTHER_FORMATS)


def json_of(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, empty if there is no such file."""
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds a PEFT adapter."""
    return (folder / "adapter_config.json").is_file()


def load_model(folder: str | Path, dtype: str | None) -> Any:
    """The model in ``folder``, with a head of tokens; ``dtype`` of its weights, as saved if None."""
    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForImageTextToText if _sees(config) else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=dtype or "auto")


def load_adapter(folder: Path, dtype: str | None, *, trainable: bool = False) -> tuple[Any, Path]:
    """The PEFT adapter in ``folder`` on its base model, and the folder of the latter.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: the adapter does not say what its base model is.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError(f"{folder} is a PEFT adapter: pip install 'craft-trainer[peft]'") from error
    settings = json_of(folder / "adapter_config.json")
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{folder / 'adapter_config.json'}: base_model_name_or_path is missing")
    place = checkpoint_folder(base, settings.get("revision"))
    model = load_model(place, dtype)
    model.name_or_path = base
    return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable), place


def load_processor(model: nn.Module, *folders: str | Path) -> Any:
    """The processor (or tokenizer, of a language model) of ``model``, in the first of ``folders`` that has one.

    Raises:
        FileNotFoundError: none of them has.
    """
    base: Any = base_model(model)
    sees = _sees(base.config)
    errors = []
    for folder in folders:
        try:
            processor = (AutoProcessor if sees else AutoTokenizer).from_pretrained(folder)
        except (OSError, ValueError) as error:
            errors.append(f"{folder}: {error}")
            continue
        if _is_whole(processor, sees):
            return processor
        errors.append(f"{folder}: no vocabulary or no image processor")
    kind = "processor" if sees else "tokenizer"
    raise FileNotFoundError(f"no {kind} for the model, save it beside the weights ({'; '.join(errors)})")


def _sees(config: Any) -> bool:
    return config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def _is_whole(processor: Any, sees: bool) -> bool:
    """Without its files transformers makes a tokenizer of special tokens alone, and no error."""
    tokenizer = getattr(processor, "tokenizer", processor)
    return len(tokenizer) > len(tokenizer.added_tokens_decoder) and (not sees or hasattr(processor, "image_processor"))
