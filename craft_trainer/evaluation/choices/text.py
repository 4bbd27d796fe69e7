"""Choices read by a causal language model."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from craft_trainer.evaluation.encoding import EncodedQuestion, begins, boundary
from craft_trainer.evaluation.scoring import Method, Prefix
from craft_trainer.evaluation.tree import TreeBatch
from craft_trainer.models.embeddings import Embeddings
from craft_trainer.models.general import base_model

KINDS_OF_LAYERS = ("layer_types", "layers_block_type", "attention_layers")  # as configurations call them
TAKES_MASKS = ("eager", "sdpa")  # implementations of attention that take any mask
NO_LIMIT = 10**6  # tokenizers without a limit say 10^30


class TextChoices:
    """A causal language model, with or without PEFT adapters, and its tokenizer.

    Args:
        model: a ``PreTrainedModel`` with a language-modelling head, or a ``PeftModel`` of one.
        tokenizer: a ``PreTrainedTokenizerBase``. What it adds in front of a text (BOS) stays; what it adds behind (EOS)
            is taken off.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        base: Any = base_model(model)
        embeddings = base.get_input_embeddings().weight
        self._base, self._text_config = base, base.config.get_text_config()
        self._takes = set(inspect.signature(type(base).forward).parameters)
        self.model: Any = model.eval()
        self.network: nn.Module = model
        self.tokenizer = self.chat_templates = tokenizer
        self.placeholder = ""
        self.dtype: torch.dtype = embeddings.dtype
        self.device: torch.device = embeddings.device
        self.vocabulary = int(self._text_config.vocab_size)
        # the length of the prompt that a PEFT adapter puts in front of every sequence
        self.num_virtual_tokens = int(getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", 0) or 0)
        self.window, self.max_length = self._window(), self._max_length()
        self.method: Method = "packed" if self._takes_trees() else "separate"
        self._num_added_behind = _num_added_behind(tokenizer)

    def _takes_trees(self) -> bool:
        """Attention that takes any mask and positions does; recurrent layers do not.

        A trained prompt (prompt tuning, prefix tuning, p-tuning) is put in front by the model's own forward alone.
        """
        named = [getattr(self._text_config, name, None) for name in KINDS_OF_LAYERS]
        kinds = {kind for kinds in named for kind in kinds or ()}
        return (
            not self.num_virtual_tokens
            and {"position_ids", "attention_mask"} <= self._takes
            and kinds <= {"full_attention", "sliding_attention"}
            and not getattr(self._base, "_is_stateful", False)  # recurrent layers, whatever its layers are called
            and not getattr(self._text_config, "alibi", False)  # distances in order of memory, not of positions
            and self._base.config._attn_implementation in TAKES_MASKS
        )

    def _window(self) -> int | None:
        """The shortest window of any layer in tokens, or the length up to which rotations do not depend on it."""
        rope = getattr(self._text_config, "rope_parameters", None) or {}
        long = rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None
        return min(
            (limit for limit in (getattr(self._text_config, "sliding_window", None), long) if limit), default=None
        )

    def _max_length(self) -> int | None:
        """The smaller of what the model's positions and the tokenizer allow."""
        limits = [
            getattr(self._text_config, "max_position_embeddings", None),
            Embeddings.of(self._base).positions,
            getattr(self.tokenizer, "model_max_length", None),
        ]
        longest = min((limit for limit in limits if limit and limit < NO_LIMIT), default=None)
        return None if longest is None else longest - self.num_virtual_tokens

    def encode(
        self, prompt: str, continuations: Sequence[str], image: Any = None, *, has_marks: bool = False
    ) -> EncodedQuestion:
        """Prompt and continuation are tokenised together, as they are in text.

        Spaces at the end of the prompt go to the continuation, as in lm-evaluation-harness. An empty prompt is the
        tokenizer's BOS, or EOS.

        Raises:
            ValueError: there is an image; or the prompt is empty, and the tokenizer has neither BOS nor EOS.
        """
        if image is not None:
            raise ValueError(f"{type(self._base).__name__} reads no images")
        stripped = prompt.rstrip(" ")
        spaces = prompt[len(stripped) :]
        has_marks = has_marks or begins(self.tokenizer, prompt)
        sequences = [self.tokens(stripped + spaces + continuation, has_marks) for continuation in continuations]
        context = self.tokens(stripped, has_marks) if stripped else []
        num_common, starts = boundary(context, sequences)
        num_prefix: int = num_common
        first: tuple[int, ...] = ()
        if not num_prefix:
            own = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
            begin = next((token for token in own if token is not None), None)
            if begin is None:
                raise ValueError("an empty prompt needs a tokenizer with a BOS or EOS token")
            there = all(sequence[0] == begin for sequence in sequences)  # the tokenizer has put it there
            num_prefix, first = (1, ()) if there else (0, (begin,))
        return EncodedQuestion(
            prefix=(*first, *sequences[0][:num_prefix]),
            choices=tuple(tuple(sequence[num_prefix:]) for sequence in sequences),
            starts=starts,
            text=stripped,
            num_cut=len(context) - num_common,
            has_marks=has_marks,
        )

    def tokens(self, text: str, has_marks: bool = False) -> list[int]:
        """``text`` as the tokenizer has it, without what is added behind, and with no second BOS."""
        if has_marks or begins(self.tokenizer, text):
            found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
            return found
        ids: list[int] = self.tokenizer(text).input_ids
        return ids[: len(ids) - self._num_added_behind]

    def prompt_passes(self, questions: Sequence[EncodedQuestion]) -> Prefix:
        """Right-padded prompts in one pass of the model's own forward, which keeps keys and values."""
        inputs = self._inputs(questions)
        valid, rows = inputs["attention_mask"].bool(), torch.arange(len(questions))
        positions, last = self._prompt_positions(inputs), valid.sum(dim=1) - 1
        with head_of_rows(self._base, torch.stack([rows, last], dim=1)):
            output = self.model(**self._on_device(inputs | {"position_ids": positions}), use_cache=True)
        following = positions[..., rows, last].reshape(-1, len(rows)).amax(dim=0) + 1
        return Prefix(output.past_key_values, valid, following, output.logits[0])

    def tree_logits(self, trees: TreeBatch, prefix: Prefix | None) -> Float[Tensor, "rows vocabulary"]:
        """One pass with a mask and positions of our own."""
        start = torch.zeros(len(trees.tokens), dtype=torch.long) if prefix is None else prefix.positions
        with head_of_rows(self._base, trees.rows):
            logits: Tensor = self.model(
                input_ids=trees.tokens.to(self.device),
                attention_mask=additive(tree_mask(trees, prefix), self.dtype).to(self.device),
                position_ids=self.positions(start[:, None] + trees.depths).to(self.device),
                past_key_values=None if prefix is None else prefix.cache,
                use_cache=prefix is not None,
            ).logits
        return logits[0]

    def positions(self, positions: Int[Tensor, "batch nodes"]) -> Int[Tensor, "*axes batch nodes"]:
        """Positions as the model takes them."""
        return positions

    def sequence_logits(self, question: EncodedQuestion, choice: int) -> Float[Tensor, "tokens vocabulary"]:
        """The prompt's inputs, with the choice's tokens behind them, through the model's own forward."""
        tokens = torch.tensor([question.choices[choice]])
        behind = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        behind["token_type_ids"] = torch.full_like(tokens, self._type_of_choices)
        behind["mm_token_type_ids"] = torch.zeros_like(tokens)
        inputs = self._inputs([question])
        inputs |= {key: torch.cat([inputs[key], behind[key]], dim=1) for key in inputs.keys() & behind.keys()}
        logits: Tensor = self.model(**self._on_device(inputs), use_cache=False).logits
        return logits[0, question.rows_of(choice)]

    _type_of_choices = 0  # ``token_type_ids`` of text that sees only what comes before it

    def _inputs(self, questions: Sequence[EncodedQuestion]) -> dict[str, Tensor]:
        """The model's inputs for the prompts, without the tokens that are cut off."""
        ids, valid = padded_prompts(questions)
        return {"input_ids": ids} | ({"attention_mask": valid.long()} if "attention_mask" in self._takes else {})

    def _prompt_positions(self, inputs: dict[str, Tensor]) -> Int[Tensor, "*axes batch tokens"]:
        """0, 1, 2 …"""
        ids = inputs["input_ids"]
        return self.positions(torch.arange(ids.shape[1]).expand(len(ids), -1))

    def _on_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """``inputs`` where the model is, images in its number type."""
        return {
            key: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for key, value in inputs.items()
        }


def padded_prompts(
    questions: Sequence[EncodedQuestion],
) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """Tokens of the prompts, padded at the end, and which of them are no padding."""
    lengths = torch.tensor([len(question.prefix) for question in questions])
    ids = nn.utils.rnn.pad_sequence([torch.tensor(question.prefix) for question in questions], batch_first=True)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


@contextmanager
def head_of_rows(model: Any, rows: Int[Tensor, "rows 2"]) -> Iterator[None]:
    """Inside, the head of ``model`` computes logits (1, rows, vocabulary) of these (batch, token) alone.

    Whatever the model does to its logits after the head (scaling, soft caps) is still done.
    """
    batch, token = rows.unbind(dim=1)

    def choose(_head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = inputs
        return (hidden[batch.to(hidden.device), token.to(hidden.device)][None], *rest)

    handle = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def tree_mask(trees: TreeBatch, prefix: Prefix | None) -> Bool[Tensor, "batch nodes keys"]:
    """A node sees what is valid of its prompt, the nodes above it, and itself."""
    if prefix is None:
        return trees.ancestors
    before = prefix.valid[:, None].expand(-1, trees.ancestors.shape[1], -1)
    return torch.cat([before.to(trees.ancestors.device), trees.ancestors], dim=2)


def additive(mask: Bool[Tensor, "batch nodes keys"], dtype: torch.dtype) -> Float[Tensor, "batch 1 nodes keys"]:
    """0 where ``mask`` allows attention, the smallest number where it does not."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)[:, None]


def _num_added_behind(tokenizer: Any) -> int:
    """Count the special tokens that ``tokenizer`` adds behind a text."""
    plain: list[int] = tokenizer("a", add_special_tokens=False).input_ids
    whole: list[int] = tokenizer("a").input_ids
    for behind in range(len(whole) - len(plain) + 1):
        if whole[len(whole) - behind - len(plain) : len(whole) - behind] == plain:
            return behind
    return 0
