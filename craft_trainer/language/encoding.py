"""Examples as tokens, and which of them are learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from craft_trainer.evaluation.encoding import begins, boundary
from craft_trainer.evaluation.question_rows import BadRowError
from craft_trainer.language.chat import Chat
from craft_trainer.language.examples import Example
from craft_trainer.models.embeddings import Embeddings

UNLEARNED = -100  # what a label is where nothing is learned


class Encoded(NamedTuple):
    """An example as tokens.

    Attributes:
        input_ids: those of images included.
        labels: ``input_ids`` where a token is learned, −100 elsewhere. The first token is never learned: nothing
            predicts it.
        is_cut: whether tokens were left out at the end.
    """

    input_ids: list[int]
    labels: list[int]
    is_cut: bool


@dataclass(frozen=True)
class EncodingSettings:
    """Settings of turning examples into tokens.

    Attributes:
        max_length: tokens of a sample at most, the rest is cut off; None for no limit.
        completion_only: of a prompt with its completion learn the completion alone.
        assistant_only: of messages learn the assistant's tokens alone; None does so where the chat template marks them.
    """

    max_length: int | None = 1024
    completion_only: bool = True
    assistant_only: bool | None = None

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"max_length is {self.max_length}: the second token is the first that can be learned")


class TextEncoder:
    """Examples as a language model reads them.

    Attributes:
        picture_tokens: numbers that stand for a part of a picture, and may have no row.

    Text, and prompt with completion, are tokenised as one text, with what the tokenizer adds (BOS) and EOS behind it.
    Learning begins where the tokens of the whole part from those of the prompt: a tokenizer may merge the end of one
    with the beginning of the other. Messages are what the chat template makes of them.

    Raises:
        ValueError: ``assistant_only`` is asked for, and the chat template does not mark the assistant's tokens.
    """

    def __init__(self, model: Any, processor: Any, chat: Chat, settings: EncodingSettings) -> None:
        self._embeddings = Embeddings.of(model)
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.picture_tokens: set[int] = set()
        self.settings, self._chat = settings, chat
        if settings.assistant_only and not chat.marks_answers:
            raise ValueError(
                "assistant_only_loss needs a chat template that marks the assistant's tokens ({% generation %} … "
                "{% endgeneration %}), and this one does not: leave it out to learn every token, or give prompt and "
                "completion as messages, of which the completion is learned"
            )

    @property
    def padding(self) -> int:
        """The token that fills a text up; it is masked."""
        return padding_token(self.tokenizer, self._embeddings)

    def learned(self, format_: str) -> str:
        """Describe in a few words what is learned of rows of this format."""
        if format_ == "prompt":
            return "of the completions alone" if self.settings.completion_only else "of prompts and completions"
        if format_ == "messages":
            if self._learns_marks:
                return "of what the assistant says alone"
            unmarked = ": the chat template does not mark the assistant's" if not self._chat.marks_answers else ""
            return f"of every token of the messages{unmarked}"
        return "of every token"

    def encode(self, example: Example) -> Encoded:
        """``example`` as tokens.

        Raises:
            BadRowError: nothing of it is learned, nothing is left of that within ``max_length``, or the model has no
                row for a token or a position of it.
        """
        ids, learned = self.whole(example)
        if not any(learned[1:]):
            raise BadRowError("no token of it is learned: the assistant says nothing, or the text is a single token")
        limit = self.settings.max_length or len(ids)
        is_cut = len(ids) > limit
        if is_cut:
            self.check_cut(ids, limit)
            ids, learned = ids[:limit], learned[:limit]
        if not any(learned[1:]):
            raise BadRowError(f"nothing that is learned is left of it within {limit} tokens: raise max_length")
        try:
            self._embeddings.check([token for token in ids if token not in self.picture_tokens], self.tokenizer)
        except ValueError as error:
            raise BadRowError(str(error)) from error
        labels = [token if counts else UNLEARNED for token, counts in zip(ids, learned, strict=True)]
        return Encoded(ids, [UNLEARNED, *labels[1:]], is_cut)

    def whole(self, example: Example) -> tuple[list[int], list[bool]]:
        """All tokens, and which of them are learned."""
        return self.written(example)

    def check_cut(self, ids: Sequence[int], limit: int) -> None:
        """Text may be cut anywhere."""

    def written(self, example: Example) -> tuple[list[int], list[bool]]:
        """The tokens of the text, images as their placeholders, and which of them are learned."""
        if example.messages is not None and self._learns_marks:
            return self._chat.tokens(example.messages, example.variables)
        ids: list[int] = self._tokens(example.text, example.has_marks)
        end = self.tokenizer.eos_token_id
        if not example.has_marks and end is not None and ids[-1:] != [end]:
            ids = [*ids, end]
        if example.prompt is None or not self.settings.completion_only:
            return ids, [True] * len(ids)
        start = boundary(self._tokens(example.prompt, example.has_marks), [ids])[0]
        return ids, [place >= start for place in range(len(ids))]

    @property
    def _learns_marks(self) -> bool:
        return self._chat.marks_answers and self.settings.assistant_only is not False

    def _tokens(self, text: str, has_marks: bool) -> list[int]:
        add = not (has_marks or begins(self.tokenizer, text))
        ids: list[int] = self.tokenizer(text, add_special_tokens=add, verbose=False).input_ids
        return ids


def padded(rows: Sequence[Sequence[int]], value: int, length: int | None = None) -> Tensor:
    """``rows`` as one tensor, filled up on the right with ``value``, to ``length`` or the longest."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    whole = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
    missing = 0 if length is None else length - whole.shape[1]
    return torch.nn.functional.pad(whole, (0, missing), value=value) if missing else whole


def collate(samples: Sequence[dict[str, Any]], padding: int) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``labels`` [batch tokens] of samples with the first and the last of these.

    Filled up on the right to the longest: with ``padding``, 0 and −100.
    """
    ids = [sample["input_ids"] for sample in samples]
    return {
        "input_ids": padded(ids, padding),
        "attention_mask": padded([[1] * len(row) for row in ids], 0),
        "labels": padded([sample["labels"] for sample in samples], UNLEARNED),
    }


def padding_token(tokenizer: Any, embeddings: Embeddings) -> int:
    """The tokenizer's padding, else its EOS, else 0: the first of them that the model has a row for."""
    tokens = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(token) for token in tokens if token is not None and token < embeddings.tokens)
