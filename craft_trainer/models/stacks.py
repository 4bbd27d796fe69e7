"""Stacks of layers in a HuggingFace model, and which input says what of their tokens is padding."""

import inspect
from typing import Any, NamedTuple

from torch import nn


class Stack(NamedTuple):
    """Layers that one sequence of tokens goes through.

    Attributes:
        module: that they are in: an encoder, a decoder, a tower.
        config: how many there are.
        tokens: whose they are: of the ``input`` with its attention mask, of the ``decoder``, or of ``pixels``.
    """

    module: nn.Module
    config: Any
    tokens: str

    def layers(self) -> list[str]:
        """Their paths inside of ``module``, first to last: the first list of as many modules as the configuration says.

        Empty if there is none, as where one layer runs many times.
        """
        for path, module in self.module.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) == getattr(self.config, "num_hidden_layers", None):
                return [f"{path}.{index}" for index in range(len(module))]
        return []


def stacks_of(model: Any) -> list[Stack]:
    """The stacks of a ``PreTrainedModel``, in the order in which they run; none if it is not known what they see."""
    if has_decoder(model):
        encoder, decoder = model.get_encoder(), model.get_decoder()
        reads = "pixels" if model.main_input_name == "pixel_values" else "input"
        return [
            Stack(encoder, encoder.config.get_text_config(encoder=True), reads),
            Stack(decoder, decoder.config.get_text_config(decoder=True), "decoder"),
        ]
    if has_two_towers(model):
        text, vision = model.text_model, model.vision_model
        return [Stack(text, model.config.text_config, "input"), Stack(vision, model.config.vision_config, "pixels")]
    return [Stack(model, model.config, "input")] if model.config.get_text_config() is model.config else []


def has_decoder(model: Any) -> bool:
    """True if it is an encoder–decoder: of some the encoder alone is a model too, with the same configuration."""
    return "decoder_input_ids" in arguments(model) and bool(model.config.is_encoder_decoder)


def has_two_towers(model: Any) -> bool:
    """True if it compares a text with a picture, each seen by a tower of its own, as CLIP does."""
    return "return_loss" in arguments(model) and hasattr(model, "text_model") and hasattr(model, "vision_model")


def arguments(model: Any) -> list[str]:
    """The names of what its ``forward`` takes."""
    named = inspect.signature(type(model).forward).parameters.values()
    return [parameter.name for parameter in named if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
