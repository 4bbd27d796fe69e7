"""HuggingFace models that give vectors, as the anchors see them: encoders with a head or none, SentenceTransformers."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import find_labels

from craft_trainer.models.base import Batch, TokenLayout, weights_digest
from craft_trainer.models.configuration import configuration_digest, module_configurations
from craft_trainer.models.pooling import pool
from craft_trainer.models.quantization import keep_layout, method_of

# Arguments of ``forward`` that are no part of a sample: what is left over from a pass before, or how to run it.
NOT_OF_A_SAMPLE = {
    *("cache_position", "image_hidden_states", "inputs_embeds", "interpolate_pos_encoding", "logits_to_keep", "self"),
    *("output_attentions", "output_hidden_states", "past_key_values", "position_ids", "return_dict", "rope_deltas"),
    "use_cache",
}


class GeneralModel:
    """A view of a HuggingFace model; the model itself is what Trainer trains and saves.

    A batch holds arguments of the model's ``forward``: tokens with their ``attention_mask``, or pixels. The output of a
    sample is one vector: the logits of its head, the embedding of a ``SentenceTransformer``, or, without a head, the
    mean of the last hidden state over its tokens. Of a PEFT model it shows the base model with the adapters in it, so
    that layers have the names they have without PEFT.

    Args:
        model: a ``PreTrainedModel``, a ``PeftModel`` of one, or a ``SentenceTransformer``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.wrapper = model
        self._model = base_model(model)
        self._encoder: Any = encoder_of(self._model)
        keep_layout(self._model)

    @property
    def network(self) -> nn.Module:
        """The model, its adapters included."""
        return self._model

    @property
    def output_kind(self) -> str:
        """The logits of classes, and embeddings, are compared as numbers."""
        return "numbers"

    def prepare(self, batch: Batch) -> Batch:
        """Fill what the attention mask leaves out with the model's own padding token.

        By it Llama with a head of classes finds the end of a sample, and RoBERTa counts positions, while a batch of
        anchors is filled up with zeros.
        """
        token, mask = self._padding_token(), batch.get("attention_mask")
        if token is None or mask is None or "input_ids" not in batch:
            return batch
        return {**batch, "input_ids": batch["input_ids"].masked_fill(mask == 0, token)}

    def predict(self, inputs: Batch) -> Float[Tensor, "batch dim"]:
        """Compute one vector for every sample; a ValueError if the model does not give one."""
        targets = self.label_keys()
        read = {key: inputs[key] for key in self.input_keys() if key in inputs and key not in targets}
        found = self.wrapper(**read) if self._encoder is self._model else self.wrapper(read)
        vectors: Tensor | None = found.get("sentence_embedding", found.get("logits"))
        if vectors is None and "last_hidden_state" in found:
            states = found["last_hidden_state"]
            vectors = pool(states, "mean_masked", self.token_layout("", inputs, states.shape))
        if vectors is None or vectors.ndim != 2:
            shape = ", ".join(found) if vectors is None else f"logits of shape {tuple(vectors.shape)}"
            raise ValueError(
                f"{type(self._model).__name__} gives {shape}, not one vector per sample: hold hidden layers alone, "
                "with build_anchor_cache(…, output=False)"
            )
        return vectors

    def module_path(self, layer: int | str) -> str:
        """The module path of layer ``layer``; a ValueError if there is none."""
        if isinstance(layer, str) and layer in dict(self._model.named_modules()):
            return layer
        layers = self._layers()
        if isinstance(layer, int) and -len(layers) <= layer < len(layers):
            return layers[layer]
        raise ValueError(f"{type(self._model).__name__} has no layer {layer!r}; it has {len(layers)}: {layers}")

    def token_layout(self, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
        """Hidden states are (batch, tokens, dim); the attention mask says which tokens are padding."""
        mask = inputs.get("attention_mask")
        return TokenLayout(valid=None if mask is None else mask.bool())

    def input_keys(self) -> list[str]:
        """Arguments of the model's ``forward`` that make up a sample."""
        named = inspect.signature(type(self._encoder).forward).parameters.values()
        keys = [parameter.name for parameter in named if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        return [key for key in keys if key not in NOT_OF_A_SAMPLE]

    def label_keys(self) -> list[str]:
        """Arguments of the model's ``forward`` that it computes a loss from."""
        named: list[str] = find_labels(type(self._encoder))
        return named

    def image_keys(self) -> list[str]:
        """Pixels have gone through the processor: they are numbers, no longer images of 8 bits a colour."""
        return []

    def noise(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Nothing random goes into it."""
        return {}

    def packed(self, batch: Batch) -> dict[str, list[int]]:
        """Every tensor has one entry per sample."""
        return {}

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the weights and of the configuration; a tokenizer or processor is not part of the model.

        Of quantised weights it says how (4bit, 8bit, another method) as well.
        """
        configuration, method = configuration_digest(self._configuration()), method_of(self._encoder.config)
        quantised = {} if method is None else {"quantization": method}
        return {"weights": weights_digest(self._model), "processors": "", "configuration": configuration} | quantised

    def _configuration(self) -> dict[str, Any]:
        """What beside the weights decides the output: the padding token too, and how tokens become one embedding."""
        parts: list[Any] = [] if self._encoder is self._model else list(self._model.children())[1:]
        after = [[type(part).__name__, part.get_config_dict()] for part in parts]
        return module_configurations(self._model) | {"padding token": self._padding_token(), "after": after}

    def _padding_token(self) -> Any:
        return getattr(self._encoder.config, "pad_token_id", None)

    def _layers(self) -> list[str]:
        """Paths of the layers: in the tower, the first list of as many modules as the configuration says."""
        num_layers = getattr(self._encoder.config.get_text_config(), "num_hidden_layers", None)
        tower = self._tower_path()
        for path, module in self._model.get_submodule(tower).named_modules(prefix=tower):
            if isinstance(module, nn.ModuleList) and len(module) == num_layers:
                return [f"{path}.{index}" for index in range(len(module))]
        raise ValueError(f"{type(self._model).__name__} has no list of {num_layers} layers: name a module path")

    def _tower_path(self) -> str:
        """Where the layers are."""
        tower = self._tower()
        return str(next(path for path, module in self._model.named_modules() if module is tower))

    def _tower(self) -> Any:
        return self._encoder


def encoder_of(model: nn.Module) -> nn.Module:
    """The HuggingFace model in a ``SentenceTransformer`` of texts; ``model`` itself if there is none."""
    if sentence_transformers_class(model) != "SentenceTransformer":
        return model
    first, *others = model.children()
    with_prompts = all(getattr(part, "include_prompt", True) for part in others)  # anchors do not know of prompts
    reads_text = with_prompts and "text" in getattr(first, "modality_config", {})
    return next((part for part in first.children() if reads_text and isinstance(part, PreTrainedModel)), model)


def sentence_transformers_class(model: nn.Module) -> str | None:
    """Which class of sentence-transformers ``model`` is of, by its name: the library is not imported for that."""
    owners = (owner for owner in type(model).__mro__ if owner.__module__.startswith("sentence_transformers."))
    return next((owner.__name__ for owner in owners), None)


def base_model(model: nn.Module) -> nn.Module:
    """``model``, or the model inside of a ``PeftModel``."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()
