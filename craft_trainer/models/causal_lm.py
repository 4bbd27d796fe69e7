"""HuggingFace causal language models, with or without PEFT adapters, as the anchors see them."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from craft_trainer.models.base import Batch, TokenLayout, weights_digest
from craft_trainer.models.configuration import configuration_digest, module_configurations


class CausalLM:
    """A view of a causal LM; the model itself is what Trainer trains and saves.

    A batch holds ``input_ids`` and ``attention_mask`` [batch tokens], and ``labels`` where there is a task loss. Of a
    PEFT model it shows the base model with the adapters in it, so that layers have the names they have without PEFT.

    Args:
        model: a ``PreTrainedModel`` with a language-modelling head, or a ``PeftModel`` of one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.wrapper = model
        self._model = base_model(model)

    @property
    def network(self) -> nn.Module:
        """The language model, its adapters included."""
        return self._model

    @property
    def output_kind(self) -> str:
        """A language model's output are token logits."""
        return "logits"

    def prepare(self, batch: Batch) -> Batch:
        """Samples are tokens already."""
        return batch

    def predict(self, inputs: Batch) -> Float[Tensor, "batch tokens vocabulary"]:
        """Logits of the next token at every position."""
        logits: Tensor = self.wrapper(
            input_ids=inputs["input_ids"], attention_mask=inputs.get("attention_mask"), use_cache=False
        ).logits
        return logits

    def module_path(self, layer: int | str) -> str:
        """The module path of decoder layer ``layer``.

        Raises:
            ValueError: no such layer.
        """
        layers = self._layers()
        if isinstance(layer, int) and -len(layers) <= layer < len(layers):
            return layers[layer]
        if isinstance(layer, str) and layer in dict(self._model.named_modules()):
            return layer
        raise ValueError(f"{type(self._model).__name__} has no layer {layer!r}; it has {len(layers)}: {layers}")

    def token_layout(self, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
        """Hidden states are (batch, tokens, dim); the attention mask says which tokens are padding."""
        del path, shape
        mask = inputs.get("attention_mask")
        return TokenLayout(valid=None if mask is None else mask.bool())

    def input_keys(self) -> list[str]:
        """Keys of a sample that the model reads."""
        return ["input_ids", "attention_mask", "labels"]

    def image_keys(self) -> list[str]:
        """A language model sees no images."""
        return []

    def noise(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Nothing random goes into it."""
        del rows
        return {}

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the weights and of the configuration; a tokenizer is not part of the model."""
        configuration = configuration_digest(module_configurations(self._model))
        return {"weights": weights_digest(self._model), "processors": "", "configuration": configuration}

    def packed(self, batch: Batch) -> dict[str, list[int]]:
        """Every tensor has one entry per sample."""
        del batch
        return {}

    def _layers(self) -> list[str]:
        """Paths of the decoder layers: in the decoder, the first list of as many modules as the configuration says."""
        config: Any = self._model.config
        num_layers = config.get_text_config().num_hidden_layers
        decoder = self._decoder_path()
        for path, module in self._model.get_submodule(decoder).named_modules(prefix=decoder):
            if isinstance(module, torch.nn.ModuleList) and len(module) == num_layers:
                return [f"{path}.{index}" for index in range(num_layers)]
        raise ValueError(f"{type(self._model).__name__} has no list of {num_layers} layers: name a module path")

    def _decoder_path(self) -> str:
        """Where the decoder of tokens is: a model may have a tower for images beside it, with as many layers."""
        model: Any = self._model
        decoder: nn.Module = model.get_decoder()
        where: str = next(path for path, module in self._model.named_modules() if module is decoder)
        return where


def base_model(model: nn.Module) -> nn.Module:
    """``model``, or the model inside of a ``PeftModel``."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()
