"""Multiple choice from beginning to end: questions in, the document of results out, for one checkpoint or two."""

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from craft_trainer.evaluation.encoding import EncodedQuestion
from craft_trainer.evaluation.metrics.mcq_likelihood.likelihoods import ItemLikelihoods, item_scores, summarise
from craft_trainer.evaluation.progress import ProgressFile, Sums
from craft_trainer.evaluation.prompts import TEMPLATE, PromptStyle
from craft_trainer.evaluation.question_images import StoredImage
from craft_trainer.evaluation.question_rows import Refused
from craft_trainer.evaluation.questions import Question
from craft_trainer.evaluation.scoring import ChoiceModel, Method, agrees, score
from craft_trainer.models.embeddings import Embeddings
from craft_trainer.models.finite import require_finite

GROUP = 16  # choices without their question that are scored as one question


@dataclass(frozen=True)
class McqSettings:
    """Settings of asking and scoring questions.

    Attributes:
        style: what a prompt looks like.
        pmi: score every choice without its question as well, for accuracy_pmi.
        batch_tokens: tokens of one forward pass, padding included.
        method: ``auto`` takes the fastest that agrees with separate passes on a question of each kind.
    """

    style: PromptStyle = field(default_factory=PromptStyle)
    pmi: bool = True
    batch_tokens: int = 1024
    method: Method | str = "auto"

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the results."""
        return {**asdict(self.style), "pmi": self.pmi, "method": self.method}


@dataclass(frozen=True)
class Encoded:
    """Questions as the tokens of one model, and those that it cannot take."""

    questions: list[Question]
    tokens: list[EncodedQuestion]
    refused: list[Refused]

    def digest(self, settings: McqSettings) -> str:
        """SHA-256 over the settings and the questions as the model is given them: prompts, tokens, bytes of images."""
        digest = hashlib.sha256(repr(settings.decisive()).encode())
        for question, one in zip(self.questions, self.tokens, strict=True):
            given = (question.id, question.answer_index, one.text, one.prefix, one.choices, one.starts)
            digest.update(repr(given).encode())
            if question.image is not None:
                image = question.image
                content = image.content if isinstance(image, StoredImage) else image.read_bytes()
                digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


def encode_all(model: ChoiceModel, questions: Sequence[Question], style: PromptStyle) -> Encoded:
    """Encode every question; those the model cannot take are refused. ValueError for a ``style`` it cannot take."""
    style.check(model.chat_templates)
    is_own = style.template != TEMPLATE  # the usual one is for questions with and without images
    if is_own and "image" in style.fields and all(question.image is None for question in questions):
        raise ValueError(
            f"the template has {{image}}, and none of the {len(questions)} questions has an image: name the column "
            "that holds them by --columns image=NAME, or leave {image} out"
        )
    tokenizer = getattr(model.chat_templates, "tokenizer", model.chat_templates)
    encoded = Encoded([], [], [])
    for question in questions:
        try:
            tokens = encode(model, question, style)
            if model.max_length is not None and tokens.length > model.max_length:
                raise ValueError(f"{tokens.length} tokens with its longest choice, the model takes {model.max_length}")
            for ids in (tokens.prefix, *tokens.choices):
                Embeddings(model.vocabulary, None).check(ids, tokenizer)
        except ValueError as error:
            encoded.refused.append(Refused(question.row, question.id, str(error)))
            continue
        encoded.questions.append(question)
        encoded.tokens.append(tokens)
    return encoded


def encode(model: ChoiceModel, question: Question, style: PromptStyle) -> EncodedQuestion:
    """One question as tokens; ValueError if the model cannot take it."""
    placeholder = "" if question.image is None else model.placeholder
    if question.image is not None and "image" not in style.fields:
        raise ValueError("it has an image, and the template has no {image}")
    prompt = style.prompt(question.question, question.choices, placeholder, model.chat_templates)
    return model.encode(prompt, style.continuations(question.choices), question.image, has_marks=style.chat)


def choose_method(model: ChoiceModel, tokens: Sequence[EncodedQuestion], wanted: str) -> Method:
    """The method ``wanted`` (ValueError if it does not agree), or the model's own if it agrees with separate passes.

    Tried on the shortest question without and the shortest with an image, and on the shortest of each whose choices
    stand beside each other: those of one token need no mask.
    """
    if wanted not in ("auto", "packed", "prefix", "separate"):
        raise ValueError(f"method is {wanted!r}: choose auto, packed, prefix or separate")
    if model.method == "separate" and wanted not in ("auto", "separate"):
        raise ValueError(f"this model takes one pass for each choice, not {wanted} ones: use auto")
    method: Any = model.method if wanted == "auto" else wanted
    kinds = {(one.image is None, one.branches): one for one in sorted(tokens, key=lambda one: -one.length)}
    if method == "separate" or all(agrees(model, one, method) for one in kinds.values()):
        chosen: Method = method
        return chosen
    if wanted != "auto":
        raise ValueError(f"{method} gives other log-likelihoods than separate passes with this model: use auto")
    return "separate"


def score_questions(
    model: ChoiceModel,
    encoded: Encoded,
    settings: McqSettings,
    *,
    progress: ProgressFile | None = None,
    on_done: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Items, metrics and how they were computed: the part of the document that belongs to one model.

    ``progress`` has what is scored already; ``on_done`` is called with the number of questions that were just finished.

    Raises:
        ValueError: there is no question, or ``settings.method`` is wrong for the model.
        FloatingPointError: log-likelihoods are not finite.
    """
    if not encoded.tokens:
        raise ValueError("no question is left to score")
    started = time.perf_counter()
    method = choose_method(model, encoded.tokens, settings.method)
    found: dict[int, Sums] = {} if progress is None else progress.read([one.num_tokens for one in encoded.tokens])
    on_done(len(found))
    left = [number for number in range(len(encoded.tokens)) if number not in found]
    batches = score(model, [encoded.tokens[i] for i in left], method=method, batch_tokens=settings.batch_tokens)
    for place, sums in batches:
        question = encoded.questions[left[place]]
        _require_finite(f"question {question.id} (row {question.row})", sums)
        found[left[place]] = sums
        if progress is not None:
            progress.add(left[place], sums)
        on_done(1)
    alone = _unconditional(model, encoded, method, settings) if settings.pmi else None
    likelihoods = [
        _likelihoods(question, found[number], settings.style, alone)
        for number, question in enumerate(encoded.questions)
    ]
    items = [
        _item(question, encoded.tokens[number], found[number], likelihoods[number])
        for number, question in enumerate(encoded.questions)
    ]
    return {
        "num_items": len(items),
        "metrics": summarise(likelihoods),
        "items": items,
        "method": method,
        "dtype": str(model.dtype).removeprefix("torch."),
        "seconds": time.perf_counter() - started,
    }


def _require_finite(where: str, sums: Sums) -> None:
    require_finite(f"{where}: the model's log-likelihoods are", itertools.chain(*sums))


def _unconditional(model: ChoiceModel, encoded: Encoded, method: Method, settings: McqSettings) -> dict[str, float]:
    """Log P(continuation | nothing but the beginning of a text) of every continuation there is, each once."""
    texts = sorted({text for one in encoded.questions for text in settings.style.continuations(one.choices)}, key=len)
    groups = [texts[start : start + GROUP] for start in range(0, len(texts), GROUP)]
    tokens = [model.encode("", group) for group in groups]
    found = dict(score(model, tokens, method=method, batch_tokens=settings.batch_tokens))
    for number, group in enumerate(groups):
        _require_finite(f"without a question, choices from {group[0]!r} on", found[number])
    return {
        text: sum(values)
        for number, group in enumerate(groups)
        for text, values in zip(group, found[number], strict=True)
    }


def _likelihoods(
    question: Question, tokens: Sums, style: PromptStyle, alone: dict[str, float] | None
) -> ItemLikelihoods:
    answers = style.answers_of(question.choices)
    return ItemLikelihoods(
        log_likelihoods=[sum(values) for values in tokens],
        answer_index=question.answer_index,
        num_tokens=[len(values) for values in tokens],
        num_chars=[len(answer) for answer in answers],
        num_bytes=[len(answer.encode("utf-8")) for answer in answers],
        unconditional=None if alone is None else [alone[text] for text in style.continuations(question.choices)],
    )


def _item(question: Question, encoding: EncodedQuestion, tokens: Sums, one: ItemLikelihoods) -> dict[str, Any]:
    """One entry of ``items``."""
    scores, given = asdict(item_scores(one, question.id)), asdict(one)
    return {
        "id": question.id,
        "row": question.row,
        **{name: given[name] for name in ("log_likelihoods", "num_tokens", "num_chars", "num_bytes")},
        "token_log_likelihoods": tokens,
        "unconditional_log_likelihoods": one.unconditional,
        "answer_index": question.answer_index,
        **{name: scores[name] for name in ("predicted_index", "correct", "margin_gold", "margin_top2")},
        "boundary_ok": encoding.boundary_ok,
    }
