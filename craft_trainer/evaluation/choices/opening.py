"""Open a checkpoint of any family, a folder or a Hub repository, as a reader of choices."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from craft_trainer.anchors.features import evaluating
from craft_trainer.evaluation.choices.images import ImageChoices, PrefixChoices
from craft_trainer.evaluation.choices.text import TextChoices
from craft_trainer.evaluation.scoring import ChoiceModel
from craft_trainer.models.causality import PREFIX_LM
from craft_trainer.models.general import base_model
from craft_trainer.models.precision import warn_if_emulated
from craft_trainer.models.pretrained import (
    CONFIG_FILE,
    checked_dtype,
    checkpoint_folder,
    is_adapter,
    is_policy,
    json_of,
    load_adapter,
    load_model,
    load_processor,
)
from craft_trainer.models.quantization import checked_quantization

LEROBOT_TYPES = ("pi0_fast", "smolvla")


def open_choices(
    name: str,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    quantization: str | None = None,
) -> ChoiceModel:
    """The model called ``name``, ready to score choices.

    Args:
        name: a folder, or a Hub repository ``org/name``, or ``org/name@revision``: a HuggingFace causal or
            vision-language model, a PEFT adapter of one, or a LeRobot policy of type pi0_fast or smolvla.
        revision: branch, tag or commit of a Hub repository.
        dtype: of the weights (``float32``, ``bfloat16``, …); as saved by default.
        device: ``cpu``, ``cuda``, …; the first accelerator by default.
        quantization: of the weights, by bitsandbytes: ``4bit`` or ``8bit``; by default as saved, or as the base of an
            adapter was when that was trained.

    Raises:
        FileNotFoundError: there is no model of that name.
        ImportError: bitsandbytes is needed, and not installed.
        ValueError: it is of a type that scores no choices, or there is no such ``dtype`` or ``quantization``.
    """
    checked_dtype(dtype)
    checked_quantization(quantization)
    folder = checkpoint_folder(name, revision)
    if device is None:
        device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
    if is_policy(folder):  # or an adapter of one
        if quantization is not None:
            raise ValueError(f"quantization is for language models, and {name} is a policy: leave it out")
        return _policy(folder, json_of(folder / CONFIG_FILE)["type"], dtype, device)
    if is_adapter(folder):
        model, base = load_adapter(folder, dtype, quantization=quantization)
    else:
        model, base = load_model(folder, dtype, quantization=quantization), folder
    warn_if_emulated(model.to(device))
    return reader(model, load_processor(model, folder, base))


def reader(model: nn.Module, processor: Any) -> TextChoices:
    """``model`` with its processor (or tokenizer, of a language model), in the way of its family."""
    base: Any = base_model(model)
    if not hasattr(processor, "image_processor"):
        return TextChoices(model, processor)
    return (PrefixChoices if base.config.model_type in PREFIX_LM else ImageChoices)(model, processor)


@contextmanager
def reader_of(model: nn.Module, processor: Any) -> Iterator[ChoiceModel]:
    """``model`` (a policy has no ``processor``) as a reader, in evaluation mode; modules' modes are restored after."""
    with evaluating(model):
        yield reader(model, processor) if processor is not None else policy_reader(model)


def policy_reader(model: Any) -> ChoiceModel:
    """The reader of a ``PolicyModel`` of type pi0_fast or smolvla; ValueError for one of another type."""
    kind = getattr(getattr(model, "policy_config", None), "type", type(model).__name__)
    if kind == "pi0_fast":
        from craft_trainer.evaluation.choices.pi0_fast import PI0FastChoices

        return PI0FastChoices(model)
    if kind == "smolvla":
        vlm = model.policy.model.vlm_with_expert
        return reader(vlm.vlm, vlm.processor)
    raise ValueError(f"{kind} has no words to choose from; of LeRobot's policies {' and '.join(LEROBOT_TYPES)} have")


def _policy(folder: Path, kind: str, dtype: str | None, device: str) -> ChoiceModel:
    """A LeRobot policy with a language model in it."""
    from craft_trainer.models.lerobot import PolicyModel

    if kind not in LEROBOT_TYPES:
        raise ValueError(
            f"{folder} is a LeRobot policy of type {kind}, which has no words to choose from; "
            f"{' and '.join(LEROBOT_TYPES)} have"
        )
    options = {"dtype": dtype} if dtype and kind == "pi0_fast" else {}
    model = PolicyModel.from_pretrained(folder, device=device, options=options, whole_statistics=False)  # it only reads
    if dtype and kind == "smolvla":
        vlm: Any = model.policy.model
        vlm.vlm_with_expert.vlm.to(getattr(torch, dtype))
    warn_if_emulated(model)
    return policy_reader(model)
