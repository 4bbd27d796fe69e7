"""Examples with images as tokens and pixels, by the processor of a vision-language model."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from craft_trainer.evaluation.choices.images import OF_TOKENS, PLACEHOLDERS, TEXT_OPTIONS, opened
from craft_trainer.evaluation.encoding import begins
from craft_trainer.evaluation.question_rows import BadRowError
from craft_trainer.language.chat import Chat
from craft_trainer.language.encoding import Encoded, EncodingSettings, TextEncoder, padded
from craft_trainer.language.examples import Example
from craft_trainer.models.causality import PREFIX_LM
from craft_trainer.models.general import base_model

FROM_PROCESSOR = (ValueError, TypeError, IndexError, KeyError)  # what processors raise on what they do not take


def placeholder_of(model: Any, processor: Any) -> str:
    """The placeholder of an image in a text; "" for a model that sees none."""
    if not hasattr(processor, "image_processor"):
        return ""
    base: Any = base_model(model)
    return PLACEHOLDERS.get(base.config.model_type) or str(processor.image_token)


class ImageEncoder(TextEncoder):
    """Examples as a vision-language model reads them.

    Pixels are made when a batch is: a dataset of images as numbers would be many times larger.

    Args:
        model: only its configuration, its embeddings and the arguments of its ``forward`` are read.
        processor: the model's.
    """

    def __init__(self, model: Any, processor: Any, chat: Chat, settings: EncodingSettings) -> None:
        super().__init__(model, processor, chat, settings)
        base: Any = base_model(model)
        self.processor = processor
        self._is_prefix_lm = base.config.model_type in PREFIX_LM
        self._takes = set(inspect.signature(type(base).forward).parameters)
        named = (getattr(base.config, key, None) for key in ("image_token_id", "video_token_id"))
        self.picture_tokens = {token for token in named if token is not None}
        placeholder = self._tokens(placeholder_of(model, processor), has_marks=True)
        self._marks = self.picture_tokens | set(placeholder)  # what stands for an image before and after it is expanded

    def whole(self, example: Example) -> tuple[list[int], list[bool]]:
        """All tokens, those of images included, and which of them are learned."""
        try:
            made = self._processed([example])
        except FROM_PROCESSOR as error:
            raise BadRowError(f"the processor does not take it: {error}") from error
        ids = made["input_ids"][0].tolist()
        if self._is_prefix_lm:
            return ids, (made["labels"][0] != -100).tolist()
        written, learned = self.written(example)
        return ids, aligned(written, learned, ids, self._marks)

    def check_cut(self, ids: Sequence[int], limit: int) -> None:
        """An image stays whole; a BadRowError if it would not."""
        if self.picture_tokens & set(ids[limit:]):
            raise BadRowError(f"its {len(ids)} tokens would be cut inside of an image: raise max_length ({limit})")

    def batch(self, examples: Sequence[Example], encoded: Sequence[Encoded]) -> dict[str, Tensor]:
        """Make the inputs of the model's ``forward``: tokens, pixels and labels, filled up on the right.

        Raises:
            ValueError: a picture has changed since the samples were encoded.
        """
        made = self._processed(examples)
        for example, one, ids in zip(examples, encoded, made["input_ids"], strict=True):
            if ids[: len(one.input_ids)].tolist() != list(one.input_ids):
                names = ", ".join(str(image) for image in example.images if isinstance(image, Path))
                raise ValueError(
                    f"the sample {example.text[:60]!r} no longer has the tokens it was encoded with: has its picture "
                    f"({names or 'in the data'}) changed since the run began? Start the run anew"
                )
        lengths = torch.tensor([len(one.input_ids) for one in encoded])
        longest = int(lengths.max())
        inside = torch.arange(longest) < lengths[:, None]
        for key in made.keys() & {"input_ids", *OF_TOKENS}:
            made[key] = made[key][:, :longest]
        made["attention_mask"] = made["attention_mask"] * inside
        made["input_ids"] = made["input_ids"].masked_fill(made["attention_mask"] == 0, self.padding)
        made["labels"] = padded([one.labels for one in encoded], -100, longest)
        return {key: value for key, value in made.items() if key in self._takes}

    def _processed(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Process texts with their images; all examples have some, or none has."""
        if self._is_prefix_lm:
            texts, more = self._prompts_and_suffixes(examples)
        else:
            end = self.tokenizer.eos_token or ""
            texts = [one.text if one.has_marks or one.text.endswith(end) else one.text + end for one in examples]
            begun = examples[0].has_marks or all(begins(self.tokenizer, one) for one in texts)
            more = {"add_special_tokens": not begun}
        if "mm_token_type_ids" in self._takes:
            more["return_mm_token_type_ids"] = True
        made = self.processor(
            text=texts,
            images=[[opened(image) for image in one.images] for one in examples] if examples[0].images else None,
            **TEXT_OPTIONS,
            **more,
        )
        return dict(made)

    def _prompts_and_suffixes(self, examples: Sequence[Example]) -> tuple[list[str], dict[str, Any]]:
        """PaliGemma's way: image and prompt see each other whole, what is learned stands behind them."""
        texts, suffixes = [], []
        for one in examples:
            if one.prompt is None or one.has_marks:
                raise BadRowError(
                    "this model sees its whole prompt at once, so learning it would teach nothing: give prompt and "
                    "completion, as text"
                )
            texts.append(one.prompt)
            suffixes.append(one.text[len(one.prompt) :].strip())
        return texts, {"suffix": suffixes}


def aligned(written: Sequence[int], learned: Sequence[bool], ids: Sequence[int], pictures: set[int]) -> list[bool]:
    """Mark the learned ``ids``: ``learned`` marks ``written``, where images are still placeholders.

    What is behind the last placeholder is at the end of both. Of a part between two placeholders what lies between its
    first and its last learned token is looked for from the right.

    Raises:
        BadRowError: a learned part is not in ``ids``.
    """
    found, end = [False] * len(ids), len(ids)
    places = [-1, *(place for place, token in enumerate(written) if token in pictures), len(written)]
    for before, after in zip(places[-2::-1], places[:0:-1], strict=True):
        chosen = [place for place in range(before + 1, after) if learned[place] and written[place] not in pictures]
        if not chosen:
            continue
        first, last = chosen[0], chosen[-1] + 1
        span = list(written[first:last])
        starts = range(end - len(span), -1, -1) if after < len(written) else [len(ids) - (len(written) - first)]
        start = next((at for at in starts if at >= 0 and list(ids[at : at + len(span)]) == span), None)
        if start is None:
            raise BadRowError("the processor writes what is learned otherwise than its tokenizer does alone")
        found[start : start + len(span)] = learned[first:last]
        end = start
    return found
