"""Choices read by a PI0-FAST policy: its PaliGemma, in the form the policy is trained in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from craft_trainer.evaluation.choices.images import opened
from craft_trainer.evaluation.choices.text import additive, head_of_rows, padded_prompts, tree_mask
from craft_trainer.evaluation.encoding import EncodedQuestion
from craft_trainer.evaluation.scoring import Method, Prefix
from craft_trainer.evaluation.tree import TreeBatch
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.vla import head_output


class PI0FastChoices:
    """Images and question are the prefix, which sees itself whole; BOS and a choice stand where the actions would.

    The picture of a question goes to the policy's first camera, the other cameras are empty. A question without a
    picture has no camera at all.
    """

    placeholder = ""
    method: Method = "prefix"
    window: int | None = None

    def __init__(self, model: PolicyModel) -> None:
        self._policy: Any = model.eval().policy
        self._model: Any = self._policy.model
        self._vlm: Any = self._model.paligemma_with_expert.paligemma
        self._cameras = list(self._policy.config.image_features)
        self.network: nn.Module = self._policy
        self.tokenizer: Any = self._model._paligemma_tokenizer
        self.chat_templates = self.tokenizer
        self.dtype: torch.dtype = self._vlm.model.language_model.layers[0].self_attn.q_proj.weight.dtype
        self.vocabulary = int(self._vlm.lm_head.weight.shape[0])
        self.max_length: int | None = self._vlm.config.text_config.max_position_embeddings

    def encode(
        self, prompt: str, continuations: Sequence[str], image: Any = None, *, has_marks: bool = False
    ) -> EncodedQuestion:
        """Question with a line break behind it, as the policy's own prompts have; choices tokenised apart."""
        if image is not None:
            opened(image)  # it can be decoded
        bos = int(self.tokenizer.bos_token_id)
        ids = self.tokenizer(f"{prompt}\n", add_special_tokens=not has_marks).input_ids
        choices = [(bos, *self.tokenizer(text.lstrip(), add_special_tokens=False).input_ids) for text in continuations]
        return EncodedQuestion(
            prefix=tuple(ids),
            choices=tuple(choices),
            starts=(1,) * len(choices),
            text=prompt,
            image=image,
            num_image_tokens=0 if image is None else self._num_image_tokens,
        )

    def prompt_passes(self, questions: Sequence[EncodedQuestion]) -> Prefix:
        """Images and questions, in the policy's own embedding and attention."""
        embedded, valid, attention, _, _ = self._model.embed_prefix_fast(*self._prompts(questions))
        output = self._vlm.model.language_model(
            inputs_embeds=embedded.to(self.dtype),
            attention_mask=additive(attention, self.dtype),
            position_ids=valid.cumsum(dim=1) - 1,
            use_cache=True,
        )
        return Prefix(output.past_key_values, valid, valid.sum(dim=1), None)

    def tree_logits(self, trees: TreeBatch, prefix: Prefix | None) -> Float[Tensor, "rows vocabulary"]:
        """Tokens where the policy has those of its actions."""
        assert prefix is not None
        device = prefix.valid.device
        tokens = trees.tokens.to(device)
        hidden = self._vlm.model.language_model(
            inputs_embeds=self._model.paligemma_with_expert.embed_language_tokens(tokens).to(self.dtype),
            attention_mask=additive(tree_mask(trees, prefix), self.dtype).to(device),
            position_ids=prefix.positions[:, None] + trees.depths.to(device),
            past_key_values=prefix.cache,
            use_cache=True,
        ).last_hidden_state
        with head_of_rows(self._vlm, trees.rows):
            logits: Tensor = self._vlm.lm_head(hidden)
        return logits[0]

    def sequence_logits(self, question: EncodedQuestion, choice: int) -> Float[Tensor, "tokens vocabulary"]:
        """From the policy's own training forward."""
        images, image_masks, tokens, token_masks = self._prompts([question])
        actions = torch.tensor([question.choices[choice]], device=tokens.device)
        given = (images, image_masks, tokens, token_masks, actions, torch.ones_like(actions, dtype=torch.bool))
        logits = head_output(self._vlm.lm_head, lambda: type(self._model).forward(self._model, *given))
        return logits[0, question.rows_of(choice)]

    @property
    def _num_image_tokens(self) -> int:
        rows, columns = self._policy.config.image_resolution
        patch: int = self._vlm.config.vision_config.patch_size
        return len(self._cameras) * int(rows // patch) * int(columns // patch)

    def _prompts(self, questions: Sequence[EncodedQuestion]) -> tuple[Any, Any, Tensor, Tensor]:
        """Make the inputs of the policy's model: images and their masks for each camera, tokens and their mask."""
        device = self._vlm.lm_head.weight.device
        tokens, masks = (part.to(device) for part in padded_prompts(questions))
        resolution = self._policy.config.image_resolution
        pictures = [_picture(question.image, resolution) for question in questions]
        images, image_masks = self._policy._preprocess_images({self._cameras[0]: torch.stack(pictures).to(device)})
        image_masks[0] = torch.tensor([question.image is not None for question in questions], device=device)
        return images, image_masks, tokens, masks


def _picture(image: Any, resolution: tuple[int, int]) -> Float[Tensor, "3 height width"]:
    """The picture in [0, 1], at the policy's size with its sides' ratio kept, black around it; or all black."""
    from PIL import ImageOps

    rows, columns = resolution
    if image is None:
        return torch.zeros(3, rows, columns)
    array = np.asarray(ImageOps.pad(opened(image), (columns, rows)))
    return torch.from_numpy(array.copy()).permute(2, 0, 1) / 255
