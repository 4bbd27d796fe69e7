"""Texts that a language model writes itself, so that what it knows is held without old data.

Source: Huang et al. 2024, arXiv 2403.01244 (self-synthesized rehearsal).
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import datasets
import torch
from accelerate.utils import send_to_device
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, set_seed

from craft_trainer.anchors.features import evaluating
from craft_trainer.evaluation.encoding import begins
from craft_trainer.evaluation.question_rows import BadRowError
from craft_trainer.language.chat import Chat
from craft_trainer.language.encoding import UNLEARNED, collate, padding_token
from craft_trainer.language.examples import Columns, Example, ExampleReader, bad_rows_text
from craft_trainer.language.rows import open_rows
from craft_trainer.language.source import TextSource
from craft_trainer.models.embeddings import Embeddings
from craft_trainer.models.general import base_model
from craft_trainer.progress import progress

WRITTEN = "own texts"  # their group, and what is said of where they come from


class OwnTexts:
    """Texts as samples: what was asked is not learned, what the model wrote is.

    Attributes:
        groups: the group of the prompt of every text.
    """

    def __init__(self, texts: datasets.Dataset, padding: int) -> None:
        self._texts, self._padding = texts, padding
        self.groups: list[str] = list(texts["group"])

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def lengths(self) -> list[int]:
        """Tokens of every text."""
        return [len(ids) for ids in self._texts["input_ids"]]

    def fingerprint(self) -> str:
        """SHA-256 of all texts, with what is learned of them and their groups."""
        return hashlib.sha256(repr(self._texts[:]).encode()).hexdigest()

    def batch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """The texts at ``rows``, filled up on the right."""
        return collate([self._texts[int(row)] for row in rows], self._padding)


def written_by(
    model: Any,
    processor: Any,
    questions: Sequence[Example],
    *,
    new_tokens: int,
    batch_size: int,
    seed: int,
    temperature: float = 1.0,
) -> OwnTexts:
    """Let ``model`` answer each of ``questions``: drawn from its own distribution, until EOS or ``new_tokens``.

    After an example without text it begins from nothing: its BOS, or EOS if it has none.

    Args:
        questions: prompts with their groups.
        batch_size: texts that are written at once; the same seed and batch size give the same texts.

    Raises:
        ValueError: nothing is asked for, the model has neither BOS nor EOS to begin with, or no row for a token of a
            prompt, or for a position of what is to be written.
    """
    if new_tokens < 1 or batch_size < 1 or temperature <= 0:
        raise ValueError("own_tokens and batch_size must be at least 1, own_temperature more than 0")
    tokenizer = getattr(processor, "tokenizer", processor)
    asked = [_question(tokenizer, question) for question in questions]
    embeddings = Embeddings.of(model)
    _check_room(embeddings, asked, tokenizer, new_tokens)
    padding, ends = padding_token(tokenizer, embeddings), _ends(model, tokenizer)
    sampling = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=new_tokens,
        pad_token_id=padding,
        eos_token_id=sorted(ends) or None,
    )
    rows: list[dict[str, Any]] = []
    set_seed(seed)
    with evaluating(model), torch.no_grad(), progress(total=len(asked), desc="own texts", unit="text") as bar:
        for start in range(0, len(asked), batch_size):
            part = asked[start : start + batch_size]
            made = _generate(model, part, sampling)
            for question, group, answer in zip(part, questions[start : start + batch_size], made.tolist(), strict=True):
                stop = next((place for place, token in enumerate(answer) if token in ends), len(answer) - 1)
                text = answer[: stop + 1]  # its end is part of it
                labels = [UNLEARNED] * len(question) + text
                rows.append({"input_ids": question + text, "labels": labels, "group": group.group or WRITTEN})
            bar.update(len(part))
    return OwnTexts(datasets.Dataset.from_list(rows), padding)


def _check_room(embeddings: Embeddings, asked: Sequence[Sequence[int]], tokenizer: Any, new_tokens: int) -> None:
    """Raise a ValueError if the model has no row for a token, or for a position of a text as long as it may become."""
    longest = max(asked, key=len)
    if embeddings.positions is not None and len(longest) + new_tokens > embeddings.positions:
        raise ValueError(
            f"a prompt of {len(longest)} tokens and {new_tokens} of its own are more than the model's "
            f"{embeddings.positions} positions: lower own_tokens, or leave out {tokenizer.decode(longest)!r}"
        )
    embeddings.check(max(asked, key=max), tokenizer)


def from_nothing(count: int) -> list[Example]:
    """As many questions that ask nothing."""
    return [Example("", has_marks=True)] * count


def read_questions_of(prompts: TextSource, processor: Any) -> list[Example]:
    """The prompts: a column ``prompt`` (text or messages), the beginning of ``messages``, or ``text``.

    Raises:
        ValueError: a row is bad (which one, and why), or all of them are.
    """
    rows = open_rows(
        prompts.dataset, config=prompts.config, split=prompts.split, streamed=prompts.streamed, seed=prompts.seed
    )
    chosen = Columns.of(rows, prompts.columns, group=prompts.group_column, answers=False, chat=prompts.chat)
    if chosen.has_images:
        raise ValueError(
            f"{rows.place} has images: own texts are written without any; take source dataset, with answers"
        )
    reader = ExampleReader(rows, chosen, Chat(processor), "")
    good, bad = [], []
    for index, raw in enumerate(rows.source):
        try:
            good.append(reader.question(raw))
        except BadRowError as reason:
            bad.append((rows.number(index), str(reason)))
    if bad and (prompts.on_bad_row == "error" or not good):
        raise ValueError(bad_rows_text(rows.place, bad))
    return good


def _question(tokenizer: Any, question: Example) -> list[int]:
    """Tokens of a prompt without what the tokenizer adds behind it, at least one.

    Spaces at its end go to the answer, as they do where both are read: there a tokenizer puts them into its first word.
    """
    ids: list[int] = []
    if text := question.text.rstrip(" "):
        add = not (question.has_marks or begins(tokenizer, text))
        ids = tokenizer(text, add_special_tokens=add).input_ids
    if not question.has_marks and ids[-1:] == [tokenizer.eos_token_id]:
        ids = ids[:-1]
    first = [int(token) for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None]
    if not ids and not first:
        raise ValueError("the tokenizer has neither BOS nor EOS, so nothing can begin a text: give prompts (--dataset)")
    return ids or first[:1]


def _generate(model: Any, questions: Sequence[Sequence[int]], sampling: GenerationConfig) -> Int[Tensor, "batch new"]:
    """The tokens that ``model`` writes after each question, which are filled up on the left.

    ``generate`` takes from the checkpoint's generation_config.json whatever ``sampling`` leaves open (penalties, beams,
    cut-offs), so that there is none meanwhile.
    """
    longest = max(map(len, questions))
    base: Any = base_model(model)
    device = next(model.parameters()).device
    padded = [[sampling.pad_token_id] * (longest - len(one)) + list(one) for one in questions]
    masks = [[0] * (longest - len(one)) + [1] * len(one) for one in questions]
    inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(masks)}
    own, base.generation_config = base.generation_config, GenerationConfig()
    try:
        written: Tensor = model.generate(**send_to_device(inputs, device), generation_config=sampling)
    finally:
        base.generation_config = own
    return written[:, longest:]


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text: the tokenizer's EOS, and those that generation_config.json names."""
    named = base_model(model).generation_config.eos_token_id  # type: ignore[union-attr]
    tokens = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    return {int(token) for token in tokens if token is not None}
