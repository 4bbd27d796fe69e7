"""Open a checkpoint of any family, a folder or a Hub repository, as a reader of choices."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from craft_trainer.anchors.features import evaluating
from craft_trainer.evaluation.scoring import ChoiceModel
from craft_trainer.models.causal_lm import base_model
from craft_trainer.models.choices.images import ImageChoices, PrefixChoices
from craft_trainer.models.choices.text import TextChoices
from craft_trainer.models.places import CHECKPOINTS, fetched

PREFIX_LM = {"paligemma"}  # whose prompt sees itself whole
DTYPES = ("float32", "bfloat16", "float16", "float64")
OTHER_FORMATS = ("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.tflite", "original/*", *CHECKPOINTS)  # not downloaded
LEROBOT_TYPES = ("pi0_fast", "smolvla")


def open_choices(
    name: str, *, revision: str | None = None, dtype: str | None = None, device: str | None = None
) -> ChoiceModel:
    """The model called ``name``, ready to score choices.

    Args:
        name: a folder, or a Hub repository ``org/name``, or ``org/name@revision``: a HuggingFace causal or
            vision-language model, a PEFT adapter of one, or a LeRobot policy of type pi0_fast or smolvla.
        revision: branch, tag or commit of a Hub repository.
        dtype: of the weights (``float32``, ``bfloat16``, …); as saved by default.
        device: ``cpu``, ``cuda``, …; the first accelerator by default.

    Raises:
        FileNotFoundError: there is no model of that name.
        ValueError: it is of a type that scores no choices, or there is no such ``dtype``.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: choose {', '.join(DTYPES)}, or leave it out")
    folder = fetched(name, revision=revision, without=OTHER_FORMATS)
    config = _read(folder / "config.json")
    if device is None:
        device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder, dtype, device)
    if "type" in config and "model_type" not in config:
        return _policy(folder, config["type"], dtype, device)
    if not config:
        raise FileNotFoundError(f"{name} holds no config.json and no adapter_config.json: it is not a model")
    return _reader(_load(folder, dtype).to(device), folder)


def reader(model: nn.Module, processor: Any) -> TextChoices:
    """``model`` with its processor (or tokenizer, of a language model), in the way of its family.

    Args:
        model: a ``PreTrainedModel`` or a ``PeftModel`` of one.
        processor: what turns text, and images, into its inputs.
    """
    base: Any = base_model(model)
    if not hasattr(processor, "image_processor"):
        return TextChoices(model, processor)
    return (PrefixChoices if base.config.model_type in PREFIX_LM else ImageChoices)(model, processor)


@contextmanager
def reader_of(model: nn.Module, processor: Any) -> Iterator[ChoiceModel]:
    """``model`` in evaluation mode inside, as a reader of choices; every module's own mode is restored afterwards.

    Args:
        model: as for :func:`reader`, or a ``PolicyModel`` of a type with a language model in it.
        processor: of a model that is not a policy.
    """
    with evaluating(model):
        yield reader(model, processor) if processor is not None else policy_reader(model)


def policy_reader(model: Any) -> ChoiceModel:
    """A ``PolicyModel`` of type pi0_fast or smolvla.

    Raises:
        ValueError: it is of another type.
    """
    kind = getattr(getattr(model, "policy_config", None), "type", type(model).__name__)
    if kind == "pi0_fast":
        from craft_trainer.models.choices.pi0_fast import PI0FastChoices

        return PI0FastChoices(model)
    if kind == "smolvla":
        vlm = model.policy.model.vlm_with_expert
        return reader(vlm.vlm, vlm.processor)
    raise ValueError(f"{kind} has no words to choose from; of LeRobot's policies {' and '.join(LEROBOT_TYPES)} have")


def _reader(model: Any, *folders: str | Path) -> TextChoices:
    """``model`` with the processor in the first of ``folders`` that has one."""
    base: Any = base_model(model)
    sees = base.config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    errors = []
    for folder in folders:
        try:
            processor = (AutoProcessor if sees else AutoTokenizer).from_pretrained(folder)
        except (OSError, ValueError) as error:
            errors.append(f"{folder}: {error}")
            continue
        if _is_whole(processor, sees):
            return reader(model, processor)
        errors.append(f"{folder}: no vocabulary or no image processor")
    kind = "processor" if sees else "tokenizer"
    raise FileNotFoundError(f"no {kind} for the model, save it beside the weights ({'; '.join(errors)})")


def _is_whole(processor: Any, sees: bool) -> bool:
    """Without its files transformers makes a tokenizer of special tokens alone, and no error."""
    tokenizer = getattr(processor, "tokenizer", processor)
    return len(tokenizer) > len(tokenizer.added_tokens_decoder) and (not sees or hasattr(processor, "image_processor"))


def _load(folder: str | Path, dtype: str | None) -> Any:
    """The model in ``folder``, with a head of tokens."""
    config = AutoConfig.from_pretrained(folder)
    sees = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=dtype or "auto")


def _adapter(folder: Path, dtype: str | None, device: str) -> TextChoices:
    """A PEFT adapter on its base model."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError(f"{folder} is a PEFT adapter: pip install 'craft-trainer[peft]'") from error
    settings = _read(folder / "adapter_config.json")
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{folder / 'adapter_config.json'}: base_model_name_or_path is missing")
    place = fetched(base, revision=settings.get("revision"), without=OTHER_FORMATS)
    model = PeftModel.from_pretrained(_load(place, dtype), str(folder)).to(device)
    return _reader(model, folder, place)


def _policy(folder: Path, kind: str, dtype: str | None, device: str) -> ChoiceModel:
    """A LeRobot policy with a language model in it."""
    from craft_trainer.models.lerobot import PolicyModel

    if kind not in LEROBOT_TYPES:
        raise ValueError(
            f"{folder} is a LeRobot policy of type {kind}, which has no words to choose from; "
            f"{' and '.join(LEROBOT_TYPES)} have"
        )
    model = PolicyModel.from_pretrained(
        folder, device=device, options={"dtype": dtype} if dtype and kind == "pi0_fast" else {}
    )
    if dtype and kind == "smolvla":
        vlm: Any = model.policy.model
        vlm.vlm_with_expert.vlm.to(getattr(torch, dtype))
    return policy_reader(model)


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, empty if there is no such file."""
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
