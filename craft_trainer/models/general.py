"""HuggingFace models of most shapes, as the anchors see them: encoders, encoder–decoders, SentenceTransformers."""

import re
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.utils.generic import find_labels

from craft_trainer.models.base import AT_INPUT, Batch, PlainInputs, TokenLayout, weights_digest
from craft_trainer.models.configuration import configuration_digest, module_configurations
from craft_trainer.models.pooling import pool
from craft_trainer.models.quantization import keep_layout, method_of
from craft_trainer.models.stacks import Stack, arguments, has_decoder, has_two_towers, stacks_of
from craft_trainer.models.task_loss import UNLEARNED, TaskLoss, token_losses

# Arguments of ``forward`` that are no part of a sample: what is left over from a pass before, or how to run it.
NOT_OF_A_SAMPLE = {
    *("cache_position", "image_hidden_states", "inputs_embeds", "interpolate_pos_encoding", "logits_to_keep", "self"),
    *("output_attentions", "output_hidden_states", "past_key_values", "position_ids", "return_dict", "rope_deltas"),
    *("decoder_inputs_embeds", "decoder_position_ids", "encoder_outputs", "return_loss", "use_cache"),
}
IN_A_LAYER = re.compile(r"\.\d+\.")
# Models whose labels are one for each position of their logits, with −100 where none is learned.
LABELS_IN_PLACE = {
    name
    for names in (
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    )
    for one in names.values()
    for name in ([one] if isinstance(one, str) else one)
}


class GeneralModel(PlainInputs):
    """A view of a HuggingFace model; the model itself is what Trainer trains and saves.

    A batch holds arguments of the model's ``forward``: tokens with their ``attention_mask``, or pixels, and for a
    decoder the ``labels`` that it is to write, or ``decoder_input_ids``. The output is the distribution at every
    position where the head has one: over the vocabulary (of a decoder, of masked tokens) or over the classes of a
    token. Otherwise it is one vector of a sample: the logits of its head, the embedding of a ``SentenceTransformer``,
    those of a text and of its picture, or, without a head, the mean of the last hidden state over its tokens. Of a PEFT
    model it shows the base model with the adapters in it, so that layers have the names they have without PEFT.

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
        """Logits at every position are a distribution; those of a sample's classes, and embeddings, are numbers."""
        at_tokens = type(self._encoder).__name__.endswith("ForTokenClassification")
        return "logits" if at_tokens or self._encoder.get_output_embeddings() is not None else "numbers"

    def prepare(self, batch: Batch) -> Batch:
        """Fill what the attention mask leaves out with the model's own padding token.

        By it Llama with a head of classes finds the end of a sample, and RoBERTa counts positions, while a batch of
        anchors is filled up with zeros.

        Raises:
            ValueError: there is nothing that a decoder would read.
        """
        if self._writes and not {"labels", "decoder_input_ids"} & set(batch):
            raise ValueError(
                f"{type(self._model).__name__} needs what its decoder reads: give labels (old targets, or what the "
                "teacher generates), or decoder_input_ids with their decoder_attention_mask"
            )
        token, mask = self._padding_token(), batch.get("attention_mask")
        if token is None or mask is None or "input_ids" not in batch:
            return batch
        return {**batch, "input_ids": batch["input_ids"].masked_fill(mask == 0, token)}

    def predict(self, inputs: Batch) -> Float[Tensor, "batch *rest"]:
        """Compute logits at every position, or one vector for every sample.

        A decoder takes the labels, of which the model makes its inputs itself, as in training.

        Raises:
            ValueError: the model gives neither.
        """
        targets = [] if self._writes else self.label_keys()
        read = {key: inputs[key] for key in self.input_keys() if key in inputs and key not in targets}
        if self._encoder is not self._model:
            found = self.wrapper(read)
        else:
            found = self.wrapper(**read, **({"use_cache": False} if has_decoder(self._encoder) else {}))
        output = self._output_of(found, inputs)
        if output is None or output.ndim != (3 if self.output_kind == "logits" else 2):
            shape = ", ".join(found) if output is None else f"logits of shape {tuple(output.shape)}"
            wanted = "logits of every token" if self.output_kind == "logits" else "one vector per sample"
            raise ValueError(
                f"{type(self._model).__name__} gives {shape}, not {wanted}: hold hidden layers alone, "
                "with build_anchor_cache(…, output=False)"
            )
        return output

    def module_path(self, layer: int | str) -> str:
        """The module path of layer ``layer``; a ValueError if there is none."""
        if isinstance(layer, str) and layer.removesuffix(AT_INPUT) in dict(self._model.named_modules()):
            self._stack_at(layer)
            return layer
        layers = self._layers()
        if isinstance(layer, int) and -len(layers) <= layer < len(layers):
            return layers[layer]
        raise ValueError(f"{type(self._model).__name__} has no layer {layer!r}; it has {len(layers)}: {layers}")

    def token_layout(self, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
        """Hidden states are (batch, tokens, dim); the attention mask says which tokens are padding.

        In a decoder these are the positions with a label, or without labels, those in ``decoder_attention_mask``.
        """
        tokens = self._stack_at(path).tokens
        if tokens == "decoder" and self._writes and "labels" in inputs:
            return TokenLayout(valid=inputs["labels"] != UNLEARNED)
        mask = inputs.get("decoder_attention_mask") if tokens == "decoder" else inputs.get("attention_mask")
        if tokens == "decoder" and not self._writes and "decoder_input_ids" not in inputs:
            mask = inputs.get("attention_mask")  # it reads the input again, one place later
        return TokenLayout(valid=None if mask is None or tokens == "pixels" else mask.bool())

    def input_keys(self) -> list[str]:
        """Arguments of the model's ``forward`` that make up a sample."""
        return [key for key in arguments(self._encoder) if key not in NOT_OF_A_SAMPLE]

    def label_keys(self) -> list[str]:
        """Arguments of the model's ``forward`` that it computes a loss from."""
        named: list[str] = find_labels(type(self._encoder))
        return named

    @property
    def task_loss(self) -> TaskLoss | None:
        """The cross-entropy of the labels where each is of one position; else only the loss of a batch is known."""
        if not LABELS_IN_PLACE & {owner.__name__ for owner in type(self._encoder).__mro__}:
            return None
        return TaskLoss(lambda inputs, logits: token_losses(inputs["labels"], logits), "mean entropy")

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the weights and of the configuration; a tokenizer or processor is not part of the model.

        Of quantised weights it says how (4bit, 8bit, another method) as well.
        """
        configuration, method = configuration_digest(self._configuration()), method_of(self._encoder.config)
        quantised = {} if method is None else {"quantization": method}
        return {"weights": weights_digest(self._model), "processors": "", "configuration": configuration} | quantised

    def _configuration(self) -> dict[str, Any]:
        """The configuration that decides the output, with the padding token and how tokens become one embedding.

        Of a decoder also the token before the first label.
        """
        parts: list[Any] = [] if self._encoder is self._model else list(self._model.children())[1:]
        more = {"after": [[type(part).__name__, part.get_config_dict()] for part in parts]}
        if has_decoder(self._encoder):
            more["first token"] = self._encoder.config.decoder_start_token_id
        return module_configurations(self._model) | {"padding token": self._padding_token()} | more

    def _padding_token(self) -> Any:
        return getattr(self._encoder.config, "pad_token_id", None)

    @property
    def _writes(self) -> bool:
        """True if its labels are what a decoder is to write, and so its inputs too."""
        return has_decoder(self._encoder) and self.output_kind == "logits"

    def _output_of(self, found: Any, inputs: Batch) -> Tensor | None:
        if has_two_towers(self._encoder):
            return torch.cat([found["text_embeds"], found["image_embeds"]], dim=-1)
        output: Tensor | None = found.get("sentence_embedding", found.get("logits"))
        if output is None and "last_hidden_state" in found:
            states = found["last_hidden_state"]
            output = pool(states, "mean_masked", self.token_layout("", inputs, states.shape))
        return output

    @cached_property
    def _stacks(self) -> dict[str, Stack]:
        """The layers, by the path of the module that they are in."""
        paths = {id(module): path for path, module in self._model.named_modules()}
        return {paths[id(stack.module)]: stack for stack in self._find_stacks()}

    def _find_stacks(self) -> list[Stack]:
        return stacks_of(self._encoder)

    def _stack_at(self, path: str) -> Stack:
        """The stack that ``path`` is in, of several; that of the output (path "") is the last.

        Raises:
            ValueError: it is in none, or in the midst of a decoder's layer, where it may see the encoder's tokens.
        """
        *_, last = stacks = self._stacks.items()
        if len(stacks) == 1 or not path:
            return last[1]
        for place, stack in stacks:
            inside = path.removesuffix(AT_INPUT).removeprefix(place)
            if path.startswith(place) and inside[:1] in ("", "."):
                if stack.tokens == "decoder" and IN_A_LAYER.search(inside):
                    break
                return stack
        raise ValueError(
            f"what the tokens at {path!r} are is not known: choose one of the layers {', '.join(self._layers())}"
        )

    def _layers(self) -> list[str]:
        """Paths of the layers of all stacks, first to last."""
        found = {place: stack.layers() for place, stack in self._stacks.items()}
        for place, stack in self._stacks.items():
            if not found[place]:
                count = getattr(stack.config, "num_hidden_layers", None)
                raise ValueError(f"{type(self._model).__name__} has no list of {count} layers: name a module path")
        return [f"{place}.{layer}".removeprefix(".") for place, layers in found.items() for layer in layers]


def can_be_general(model: nn.Module) -> bool:
    """True if :class:`GeneralModel` knows what ``model`` reads and gives."""
    return isinstance(model, PreTrainedModel) and bool(stacks_of(model))


def encoder_of(model: nn.Module) -> nn.Module:
    """The HuggingFace model in a ``SentenceTransformer`` of texts; ``model`` itself if there is none."""
    if sentence_transformers_class(model) != "SentenceTransformer":
        return model
    first, *others = model.children()
    with_prompts = all(getattr(part, "include_prompt", True) for part in others)  # anchors do not know of prompts
    reads_text = with_prompts and "text" in getattr(first, "modality_config", {})
    return next((part for part in first.children() if reads_text and isinstance(part, PreTrainedModel)), model)


def sentence_transformers_class(model: nn.Module) -> str | None:
    """The sentence-transformers class of ``model``, found by its name: the library is not imported for that."""
    owners = (owner for owner in type(model).__mro__ if owner.__module__.startswith("sentence_transformers."))
    return next((owner.__name__ for owner in owners), None)


def base_model(model: nn.Module) -> nn.Module:
    """``model``, or the model inside of a ``PeftModel``."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()
