"""Language and vision-language models as they are trained and as they teach: weights, adapter, tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from craft_trainer.hub.resolve_path import parse
from craft_trainer.models import pretrained
from craft_trainer.models.embeddings import Embeddings
from craft_trainer.models.precision import warn_if_emulated
from craft_trainer.models.quantization import checked_quantization, method_of, record, refuse_twice, require_adapter


class Checkpoint(NamedTuple):
    """A model with what turns text, and images, into its inputs."""

    model: Any
    processor: Any


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter to be trained (Hu et al. 2021, arXiv 2106.09685): W + (alpha / rank)·B·A.

    Attributes:
        rank: of the update of a weight matrix; ≥ 1.
        alpha: numerator of its scale; twice the rank if None.
        targets: names of the modules that get one, or ``all-linear``.
        dropout: of the adapter's input.
    """

    rank: int
    alpha: int | None = None
    targets: Sequence[str] = ("all-linear",)
    dropout: float = 0.0

    def wrapped(self, model: Any, revision: str | None, quantization: str | None = None) -> Any:
        """``model`` with a fresh adapter, the only part of it that is trained; it remembers the ``quantization``.

        Raises:
            ImportError: PEFT is not installed.
            ValueError: no module has such a name, or the rank is below 1.
        """
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ImportError("a LoRA adapter needs PEFT: pip install 'craft-trainer[peft]'") from error
        if self.rank < 1:
            raise ValueError(f"lora_rank is {self.rank}: it must be at least 1")
        named = list(self.targets)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=2 * self.rank if self.alpha is None else self.alpha,
            lora_dropout=self.dropout,
            target_modules=named[0] if named == ["all-linear"] else named,
            task_type="CAUSAL_LM",
            revision=revision,
            auto_mapping=record(quantization),
        )
        return get_peft_model(model, config)


def load_checkpoint(
    name: str,
    *,
    dtype: str | None,
    device: str | None = None,
    lora: Lora | None = None,
    trainable: bool = False,
    quantization: str | None = None,
) -> Checkpoint:
    """The language or vision-language model called ``name`` with its tokenizer or processor.

    Args:
        name: a folder, or a Hub repository ``org/name`` or ``org/name@revision``; a PEFT adapter comes on its base.
        dtype: of the weights; as saved if None.
        device: where to; it stays on the CPU if None.
        lora: a fresh adapter to put on it.
        trainable: whether it is to be trained, the adapter of a PEFT checkpoint included.
        quantization: of the weights, by bitsandbytes: 4bit or 8bit; as saved if None, or as the base of a PEFT adapter
            was when that was trained.

    Raises:
        FileNotFoundError: there is no such model, or it has no tokenizer.
        ImportError: bitsandbytes is needed, and not installed.
        ValueError: it is a LeRobot policy, has an adapter already and is to get another, or could not be saved, or its
            quantised weights are to be trained.
    """
    pretrained.checked_dtype(dtype)
    checked_quantization(quantization)
    place = parse(name)
    folder = pretrained.checkpoint_folder(name)
    if pretrained.is_adapter(folder):
        if lora is not None:
            raise ValueError(f"{name} is a PEFT adapter, which goes on being trained: leave lora_rank out")
        model, base = pretrained.load_adapter(folder, dtype, trainable=trainable, quantization=quantization)
        model.loaded_from = str(folder)
        return Checkpoint(_placed(model, device), pretrained.load_processor(model, folder, base))
    saved = method_of(pretrained.json_of(folder / pretrained.CONFIG_FILE))
    refuse_twice(name, saved, quantization)
    if trainable and lora is None:
        require_adapter(name, quantization or saved)
    try:
        model = pretrained.load_model(folder, dtype, quantization=quantization)
    except ValueError as error:
        raise ValueError(
            f"{name} is no language or vision-language model of HuggingFace, and no policy is taken here: {error}"
        ) from error
    processor = pretrained.load_processor(model, folder)
    if trainable and lora is None:
        _require_savable(model, processor, name)
    # what an adapter calls its base model: not the folder of the download
    name, revision = (str(place.resolve()), None) if isinstance(place, Path) else place
    model.name_or_path, model.loaded_from = name, str(folder)
    adapted = lora.wrapped(model, revision, quantization) if lora else model
    return Checkpoint(_placed(adapted, device), processor)


def _require_savable(model: Any, processor: Any, name: str) -> None:
    """Refuse, before the training, what ``save_pretrained`` refuses, or ``from_pretrained`` afterwards.

    Trainer writes the numbers of special tokens into config.json, even of one that has no row.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    try:
        model.generation_config.validate(strict=True)
        Embeddings.of(model).check([0, *(token for token in special if token is not None)], tokenizer)
    except ValueError as error:
        raise ValueError(
            f"what is trained from {name} could not be saved and loaded again. Correct its generation_config.json or "
            f"its tokenizer, or train an adapter (lora_rank), which needs neither: {error}"
        ) from error


def _placed(model: Any, device: str | None) -> Any:
    """``model`` on ``device``, where it is computed; None if that is decided later."""
    if device is not None:
        warn_if_emulated(model.to(device))
    return model
