"""HuggingFace vision-language models, with or without PEFT adapters, as the anchors see them."""

from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from craft_trainer.models.base import AT_INPUT, Batch, TokenLayout
from craft_trainer.models.causal_lm import CausalLM
from craft_trainer.models.general import GeneralModel

# What one entry of ``pixel_values`` belongs to, by the model type of the configuration: a sample with all its images
# (batch, images, ...), one image of one of the samples (images, ...), or a patch of one of the images (patches, dim).
ENTRIES: dict[str, Literal["sample", "image", "patch"]] = {
    "gemma3": "image",
    "idefics3": "sample",
    "paligemma": "image",
    "qwen2_5_vl": "patch",
    "qwen2_vl": "patch",
    "smolvlm": "sample",
}
# Of models that take patches: the token that stands for a part of a picture, its grid (time, height, width in patches),
# the patches themselves, and what else there is once per picture.
PICTURES = (
    ("image_token_id", "image_grid_thw", "pixel_values", None),
    ("video_token_id", "video_grid_thw", "pixel_values_videos", "second_per_grid_ts"),
)


class VisionLanguage(CausalLM):
    """A view of a vision-language model: a causal LM some of whose tokens are images.

    A batch holds what the family's processor and collator give. Hidden layers are those of the language model, in which
    every sample is one sequence of text and image tokens; inside the vision tower there are none.

    Token types decide which positions see each other. PaliGemma lets the prefix (type 0) attend to all of itself and
    the suffix (type 1) to what came before; Gemma 3 lets an image (type 1) attend to all of itself. Mode and labels
    change nothing of that (transformers 5.5), but a batch without types is refused in training, and in evaluation taken
    for another kind of sequence: by PaliGemma for a prefix alone, whose every position sees the answer. So
    :meth:`prepare` asks for them, and the teacher's features and the retention pass, which run in evaluation mode, see
    what the task loss sees. ``mm_token_type_ids`` of Qwen2-VL give positions; that model itself asks for them.

    Args:
        model: a ``PreTrainedModel`` of one of the types in ``ENTRIES``, or a ``PeftModel`` of one.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        config: Any = self._model.config
        self._config = config
        self._entries = ENTRIES[config.model_type]
        self._picture_tokens = [
            token for key in ("image_token_id", "video_token_id") if (token := getattr(config, key, None)) is not None
        ]

    def prepare(self, batch: Batch) -> Batch:
        """Samples have gone through the processor already; what holds no images at all is left out.

        These are empty tensors, and of families that pad the images of every sample, nothing but padding (Idefics 3
        does not take it).

        Raises:
            ValueError: the model reads ``token_type_ids`` and there are none.
        """
        if "token_type_ids" in self.input_keys() and "token_type_ids" not in batch:
            raise ValueError(
                f"{type(self._model).__name__} reads token_type_ids, and without them its positions would see others "
                "than in training: pass what the processor gives (return_token_type_ids=True)"
            )
        empty = {key for key, value in batch.items() if isinstance(value, Tensor) and not value.numel()}
        if self._entries == "sample" and "pixel_values" in batch and not self._image_mask(batch).any():
            empty |= set() if batch["pixel_values"].any() else {"pixel_values", "pixel_attention_mask"}
        return {key: value for key, value in batch.items() if key not in empty}

    def module_path(self, layer: int | str) -> str:
        """The module path of layer ``layer`` of the language model; a ValueError if it is not inside of that."""
        path = super().module_path(layer)
        self._check_inside(path)
        return path

    def token_layout(self, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
        """Hidden states are (batch, tokens, dim), inside of the language model; frames of videos count as images."""
        self._check_inside(path)
        return TokenLayout(valid=super().token_layout(path, inputs, shape).valid, image=self._image_mask(inputs))

    def input_keys(self) -> list[str]:
        """Arguments of the model's ``forward`` that make up a sample."""
        return GeneralModel.input_keys(self)

    def packed(self, batch: Batch) -> dict[str, list[int]]:
        """Count each sample's entries of the keys that hold images or patches of all samples in a row.

        From the image tokens of the samples and the sizes of the images, in order.

        Raises:
            ValueError: tokens and images do not fit together.
        """
        match self._entries:
            case "sample":
                return self._check_batch_first(batch)
            case "image":
                return self._packed_images(batch)
            case "patch":
                return self._packed_patches(batch)

    def _check_batch_first(self, batch: Batch) -> dict[str, list[int]]:
        pixels = batch.get("pixel_values")
        if pixels is not None and len(pixels) != len(batch["input_ids"]):
            raise ValueError(
                f"pixel_values of {len(pixels)} samples with input_ids of {len(batch['input_ids'])}: "
                f"{self._config.model_type} takes (batch, images, channels, height, width)"
            )
        return {}

    def _packed_images(self, batch: Batch) -> dict[str, list[int]]:
        """Images of one size, in a row: all have the same number of tokens."""
        tokens = self._tokens(batch, self._config.image_token_id)
        pixels = batch.get("pixel_values")
        if pixels is None:
            _pictures_of_samples(tokens, tokens[:0])
            return {}
        size = int(tokens.sum()) // max(len(pixels), 1)
        return {"pixel_values": _pictures_of_samples(tokens, tokens.new_full((len(pixels),), size))}

    def _packed_patches(self, batch: Batch) -> dict[str, list[int]]:
        """Patches of images of any size, in a row; a token stands for a square of them."""
        counts: dict[str, list[int]] = {}
        for token, grid, pixels, each in PICTURES:
            tokens = self._tokens(batch, getattr(self._config, token))
            if batch.get(grid) is None:
                _pictures_of_samples(tokens, tokens[:0])
                continue
            patches: Tensor = batch[grid].prod(dim=-1)
            pictures = _pictures_of_samples(tokens, patches // self._config.vision_config.spatial_merge_size**2)
            counts[grid] = pictures
            counts[pixels] = [int(part.sum()) for part in torch.split(patches, pictures)]
            if len(batch[pixels]) != sum(counts[pixels]):
                raise ValueError(f"{len(batch[pixels])} {pixels}, but {sum(counts[pixels])} patches by {grid}")
            if each is not None and batch.get(each) is not None:
                counts[each] = pictures
        return counts

    def _image_mask(self, batch: Batch) -> Bool[Tensor, "batch tokens"]:
        """Mask of the tokens that stand for parts of images or videos."""
        ids: Tensor = batch["input_ids"]
        return torch.isin(ids, torch.tensor(self._picture_tokens, device=ids.device))

    def _tokens(self, batch: Batch, token: int) -> Int[Tensor, " batch"]:
        """Count ``token`` in each sample."""
        counts: Tensor = (batch["input_ids"] == token).sum(dim=1)
        return counts

    def _check_inside(self, path: str) -> None:
        """The output of the model (path "") and everything in its language model has one token per position."""
        (decoder,) = self._stacks
        module = path.removesuffix(AT_INPUT)
        if path and module != decoder and not module.startswith(f"{decoder}."):
            raise ValueError(
                f"{path} is outside of {decoder}: its tokens are not those of the samples (a vision tower has patches "
                "of each image): choose a layer of the language model; mean_image_tokens pools its image tokens"
            )


def _pictures_of_samples(tokens: Int[Tensor, " batch"], sizes: Int[Tensor, " pictures"]) -> list[int]:
    """Count the whole pictures, of ``sizes`` tokens each and in order, that make up the ``tokens`` of each sample."""
    ends = [0, *sizes.cumsum(dim=0).tolist()]
    wanted = [0, *tokens.cumsum(dim=0).tolist()]
    if wanted[-1] != ends[-1] or not set(wanted) <= set(ends) or 0 in sizes:
        raise ValueError(
            f"samples with {tokens.tolist()} image tokens do not go with images of {sizes.tolist()} tokens: "
            "was a sample cut short, or are its images missing?"
        )
    places = [ends.index(end) for end in wanted]
    return [last - first for first, last in pairwise(places)]
