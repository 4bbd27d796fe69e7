"""Choices read by a vision-language model, in the format its processor gives."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from craft_trainer.evaluation.choices.text import TextChoices
from craft_trainer.evaluation.encoding import EncodedQuestion
from craft_trainer.evaluation.question_images import UNREADABLE, StoredImage

PLACEHOLDERS = {  # of families whose processor's ``image_token`` is not what one writes in a text
    "gemma3": "<start_of_image>",
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
}
# A processor takes what is not said from the tokenizer_config.json of its checkpoint.
TEXT_OPTIONS = {
    "padding": True,
    "padding_side": "right",
    "pad_to_multiple_of": None,
    "truncation": False,
    "max_length": None,
    "return_tensors": "pt",
}
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")  # of 8 bits a colour
OF_TOKENS = ("attention_mask", "token_type_ids", "mm_token_type_ids")  # one entry for every token


class ImageChoices(TextChoices):
    """A vision-language model and its processor: the prompt goes through the model's own forward, once.

    Raises:
        ValueError: the adapter trains a prompt.
    """

    def __init__(self, model: nn.Module, processor: Any) -> None:
        super().__init__(model, processor.tokenizer)
        if self.num_virtual_tokens:
            raise ValueError(
                f"{self.model.active_peft_config.peft_type.value} puts a trained prompt in front of embedded text, "
                "which has no place for images: ask a vision-language model with LoRA, or without an adapter"
            )
        self.processor = processor
        self.chat_templates = processor if getattr(processor, "chat_template", None) else self.tokenizer
        self.placeholder = PLACEHOLDERS.get(self._base.config.model_type) or str(processor.image_token)
        if self.method == "packed":
            self.method = "prefix"  # images are embedded, and attend to each other, as the model has it
        self._image_tokens: dict[tuple[int, int], int] = {}

    def encode(
        self, prompt: str, continuations: Sequence[str], image: Any = None, *, has_marks: bool = False
    ) -> EncodedQuestion:
        """Prompt and continuation are tokenised together, the :attr:`placeholder` of the image as one token.

        Raises:
            ValueError: the image cannot be decoded, or a text holds what stands for an image.
        """
        self._check_marks(prompt, continuations, image)
        encoded = super().encode(prompt, continuations, has_marks=has_marks)
        if image is None:
            return encoded
        size = opened(image).size
        if size not in self._image_tokens:
            expanded = self._processed([encoded], [image])["input_ids"].shape[1]
            self._image_tokens[size] = expanded - self._behind([encoded]) - len(encoded.prefix) - encoded.num_cut
        return EncodedQuestion(**{**vars(encoded), "image": image, "num_image_tokens": self._image_tokens[size]})

    def positions(self, positions: Int[Tensor, "batch nodes"]) -> Int[Tensor, "*axes batch nodes"]:
        """Text has the same position on every axis."""
        return positions.expand(3, -1, -1) if self._has_axes else positions

    def _inputs(self, questions: Sequence[EncodedQuestion]) -> dict[str, Tensor]:
        """The model's inputs for the prompts, without the tokens that are cut off."""
        if questions[0].image is None:
            inputs = super()._inputs(questions)
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        else:
            inputs = self._processed(questions, [one.image for one in questions])
            cut = torch.tensor([one.num_cut for one in questions]) + self._behind(questions)
            ends = inputs["attention_mask"].sum(dim=1) - cut
            inputs["attention_mask"] *= torch.arange(inputs["input_ids"].shape[1]) < ends[:, None]
            longest = int(ends.max())
            for key in inputs.keys() & {"input_ids", *OF_TOKENS}:
                inputs[key] = inputs[key][:, :longest]
        return {key: value for key, value in inputs.items() if key in self._takes}

    def _processed(self, questions: Sequence[EncodedQuestion], images: Sequence[Any]) -> dict[str, Tensor]:
        """Process prompts with one image each into tensors."""
        given = self.processor(
            text=[one.text for one in questions],
            images=[[opened(image)] for image in images],
            **TEXT_OPTIONS,
            **({"return_mm_token_type_ids": True} if "mm_token_type_ids" in self._takes else {}),
            **({"add_special_tokens": False} if self._all_marked(questions) else {}),
        )
        return {key: value for key, value in given.items() if key != "labels"}

    @staticmethod
    def _all_marked(questions: Sequence[EncodedQuestion]) -> bool:
        """True if the prompts have their special tokens already; a chat template writes them for all or for none."""
        return all(one.has_marks for one in questions)

    def _behind(self, questions: Sequence[EncodedQuestion]) -> int:
        """Count the tokens that the processor adds behind each prompt."""
        return 0 if self._all_marked(questions) else self._num_added_behind

    def _check_marks(self, prompt: str, continuations: Sequence[str], image: Any) -> None:
        """The placeholder stands in the prompt once for an image, and nothing else stands for one."""
        texts = [prompt.replace(self.placeholder, "", 0 if image is None else 1), *continuations]
        for mark in (self.placeholder, str(self.processor.image_token)):
            if any(mark in text for text in texts):
                raise ValueError(f"its text holds {mark!r}, which stands for an image")
        if image is not None and self.placeholder not in prompt:
            raise ValueError(f"its prompt has no {self.placeholder!r} for the image")

    def _prompt_positions(self, inputs: dict[str, Tensor]) -> Int[Tensor, "*axes batch tokens"]:
        """0, 1, 2 … or, of families whose positions have three axes, the model's own."""
        if "image_grid_thw" not in inputs:
            return super()._prompt_positions(inputs)
        named = ("image_grid_thw", "attention_mask", "mm_token_type_ids")
        rope = self._base.model.get_rope_index
        positions: Tensor = rope(inputs["input_ids"], **{key: inputs[key] for key in named})[0]
        return positions

    @property
    def _has_axes(self) -> bool:
        return hasattr(getattr(self._base, "model", None), "get_rope_index")


class PrefixChoices(ImageChoices):
    """PaliGemma: images and question see each other whole, a choice sees what comes before it.

    A choice is the suffix of the family's training: tokens of their own after ``prompt`` and a line break.
    """

    _type_of_choices = 1

    def encode(
        self, prompt: str, continuations: Sequence[str], image: Any = None, *, has_marks: bool = False
    ) -> EncodedQuestion:
        """Prompt and choice are tokenised apart, as in training; a choice's leading spaces are left out."""
        del has_marks  # its BOS stands behind the image, whoever writes the prompt
        self._check_marks(prompt, continuations, image)
        start = [] if prompt.startswith(self.placeholder) else [self.tokenizer.bos_token_id]
        choices = [self.tokenizer(text.lstrip(), add_special_tokens=False).input_ids for text in continuations]
        bare = prompt.removeprefix(self.placeholder)
        after = self.tokenizer(f"{bare}\n", add_special_tokens=False).input_ids
        encoded = EncodedQuestion(
            prefix=(*start, *after), choices=tuple(map(tuple, choices)), starts=(0,) * len(choices), text=prompt
        )
        if image is None:
            return encoded
        opened(image)  # it can be decoded
        num_image_tokens = self.processor.image_seq_length + 1  # and the BOS behind it
        return EncodedQuestion(**{**vars(encoded), "image": image, "num_image_tokens": num_image_tokens})


def opened(image: Any) -> Any:
    """A PIL image in RGB, upright and over white, from one, from the path of one, or from one of a dataset.

    Raises:
        ValueError: it cannot be decoded, or has more than 8 bits a colour, of which RGB would keep next to nothing.
    """
    from PIL import Image, ImageOps

    if isinstance(image, StoredImage):
        image = image.open()
    try:
        with nullcontext(image) if hasattr(image, "convert") else Image.open(image) as file:
            upright = ImageOps.exif_transpose(file)
    except UNREADABLE as error:
        raise ValueError(f"its image cannot be decoded: {error}") from error
    if upright.mode not in MODES:
        raise ValueError(
            f"its image has pixels of mode {upright.mode}, which do not fit into the 8 bits a colour that models see: "
            "scale what matters of it to 0 … 255 and save it as such"
        )
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    over_white = Image.new("RGBA", upright.size, "white")
    over_white.alpha_composite(upright.convert("RGBA"))
    return over_white.convert("RGB")
