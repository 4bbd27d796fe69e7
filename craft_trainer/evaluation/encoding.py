"""A question and its choices as tokens, and where the choices begin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class EncodedQuestion:
    """One prompt and the continuations to be scored after it.

    Attributes:
        prefix: tokens that all sequences begin with and that are not scored, at least one; placeholders of images
            still unexpanded.
        choices: the tokens of each choice after the prefix.
        starts: of each choice, the index of its first scored token; more than 0 where another choice shares less
            with the prompt.
        text: the prompt the prefix was made from.
        image: what the prompt shows, or None.
        num_cut: how many tokens at the end of the prompt are not in the prefix, because a choice changed them.
        num_image_tokens: how many tokens the image adds to the prefix.
        has_marks: the prompt has its special tokens already, as a chat template writes them.

    Raises:
        ValueError: a choice has no token to score, or the prefix none to predict the first of them.
    """

    prefix: Tokens
    choices: tuple[Tokens, ...]
    starts: Tokens
    text: str = ""
    image: Any = None
    num_cut: int = 0
    num_image_tokens: int = 0
    has_marks: bool = False

    def __post_init__(self) -> None:
        empty = [index for index, count in enumerate(self.num_tokens) if count < 1]
        if empty:
            raise ValueError(f"choices {empty} have no token to score, after {self.text!r}: leave them out")
        if not self.prefix:
            raise ValueError("the prefix has no token: begin with BOS")

    @property
    def boundary_ok(self) -> bool:
        """True if the prompt's own tokens are a prefix of every sequence, so that exactly the choice is scored."""
        return not self.num_cut

    @property
    def num_tokens(self) -> list[int]:
        """The number of scored tokens of each choice."""
        return [len(choice) - start for choice, start in zip(self.choices, self.starts, strict=True)]

    @property
    def branches(self) -> bool:
        """True if two choices or more have tokens that predict others: a wrong mask would show there."""
        return sum(len(choice) > 1 for choice in self.choices) > 1

    def rows_of(self, choice: int) -> slice:
        """The rows, from the end of a pass over prompt and choice, that predict the scored tokens of the choice."""
        return slice(self.starts[choice] - 1 - len(self.choices[choice]), -1)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the choices, those of the image included."""
        return len(self.prefix) + self.num_image_tokens

    @property
    def length(self) -> int:
        """Tokens of the longest sequence, those of the image included."""
        return self.num_prefix_tokens + max(map(len, self.choices))


def begins(tokenizer: Any, text: str) -> bool:
    """True if ``text`` has its BOS already, as what chat templates write: a tokenizer would add a second one."""
    begin = tokenizer.bos_token
    return bool(begin) and text.startswith(begin)


def boundary(prompt: Sequence[int], sequences: Sequence[Sequence[int]]) -> tuple[int, Tokens]:
    """Count the tokens that ``sequences`` (prompt and choice, tokenised together) share with the prompt.

    Where the choice of each sequence begins is counted from the end of what all of them share. A tokenizer may merge
    the end of the prompt with the beginning of a choice; then the tokens of the prompt are no prefix of the sequence,
    and what is scored begins where the two part. Scoring ``sequence[len(prompt):]`` instead, as lm-evaluation-harness
    does, would skip tokens of the choice, or have none left.
    """
    common = [_common(prompt, sequence) for sequence in sequences]
    return min(common), tuple(count - min(common) for count in common)


def _common(prompt: Sequence[int], sequence: Sequence[int]) -> int:
    """Length of the longest common beginning that leaves at least one token of ``sequence``."""
    size = min(len(prompt), len(sequence) - 1)
    differing = np.flatnonzero(np.not_equal(prompt[:size], sequence[:size]))
    return int(differing[0]) if len(differing) else size
