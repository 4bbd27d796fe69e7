"""Log-likelihoods of choices: log P(choice | image, question) by teacher forcing, each prompt computed once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from craft_trainer.evaluation.encoding import EncodedQuestion
from craft_trainer.evaluation.tree import BEFORE, TreeBatch, tree_batch

Method = Literal["packed", "prefix", "separate"]
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # nats of a choice, and as much of its value
HALF_TOLERANCE = 5e-2
MAX_LOGITS = 2**26  # of one forward pass: 256 MiB in float32


@dataclass(frozen=True)
class Prefix:
    """Prompts of a batch, computed.

    Attributes:
        cache: keys and values of every layer, as the model takes them.
        valid: (batch, tokens), which of them are not padding.
        positions: (batch,), the position of the token that follows.
        logits: (batch, vocabulary), of the token that follows; None if every choice begins with a token that is not
            scored.
    """

    cache: Any
    valid: Bool[Tensor, "batch tokens"]
    positions: Int[Tensor, " batch"]
    logits: Float[Tensor, "batch vocabulary"] | None


class ChoiceModel(Protocol):
    """The interface that scoring needs of a model of any family.

    Attributes:
        chat_templates: what has the chat template, the tokenizer or the processor.
        network: what has the weights.
        placeholder: what stands for an image in a prompt; nothing, if the image has its place without.
        method: the fastest exact way to score with this model. ``packed``: prompt and choices in one pass, as a tree
            (text, causal attention); ``prefix``: the prompt in the model's own way, with images and attention as in its
            training, and the choices in a second pass that attends to it; ``separate``: one whole pass per choice.
        dtype: of the weights.
        window: longer sequences are scored separately: layers with a sliding window would see other tokens of a tree.
        vocabulary: how many logits a token has.
        max_length: the longest sequence of tokens the model takes, None if it has no such limit.
    """

    chat_templates: Any
    network: nn.Module
    placeholder: str
    method: Method
    dtype: torch.dtype
    window: int | None
    vocabulary: int
    max_length: int | None

    def encode(
        self, prompt: str, continuations: Sequence[str], image: Any = None, *, has_marks: bool = False
    ) -> EncodedQuestion:
        """Encode ``prompt`` (with the placeholder of the ``image`` in it) followed by each continuation.

        ``has_marks`` is for what a chat template wrote: nothing is added in front of it.
        """
        ...

    def prompt_passes(self, questions: Sequence[EncodedQuestion]) -> Prefix:
        """The prompts of ``questions`` in one pass, images included."""
        ...

    def tree_logits(self, trees: TreeBatch, prefix: Prefix | None) -> Float[Tensor, "rows vocabulary"]:
        """Logits of ``trees.rows`` in one pass, after ``prefix`` if there is one; rows ``BEFORE`` are not asked for."""
        ...

    def sequence_logits(self, question: EncodedQuestion, choice: int) -> Float[Tensor, "tokens vocabulary"]:
        """Logits that predict the scored tokens of one choice, from one whole pass of the model's own forward."""
        ...


class Scored(NamedTuple):
    """One question's result: its number, and of each choice the log-likelihood of each scored token, in nats."""

    number: int
    log_likelihoods: list[list[float]]


@torch.no_grad()
def score(
    model: ChoiceModel, questions: Sequence[EncodedQuestion], *, method: Method | None = None, batch_tokens: int = 1024
) -> Iterator[Scored]:
    """Compute log P(c_i | prompt, c_1 … c_{i−1}) of every token of every choice, in float32, longest questions first.

    Args:
        model: the model.
        questions: what to score.
        method: the model's own by default; see :attr:`ChoiceModel.method`.
        batch_tokens: how many tokens, padding included, go into one pass; one question always does.

    Yields:
        The questions of a batch, when it is done; not in the order of ``questions``.
    """
    method = method or model.method
    whole = [i for i, one in enumerate(questions) if model.window is None or one.length <= model.window]
    ways: dict[Method, list[int]] = {"separate": sorted(set(range(len(questions))) - set(whole))}
    for how, group in (*ways.items(), (method, whole)):
        for batch in batches([questions[index] for index in group], batch_tokens, how, model.vocabulary):
            indices = [group[place] for place in batch]
            chosen = [questions[index] for index in indices]
            found = [_separate(model, one) for one in chosen] if how == "separate" else _shared(model, chosen, how)
            yield from map(Scored, indices, found)


def batches(
    questions: Sequence[EncodedQuestion], batch_tokens: int, method: Method, vocabulary: int
) -> Iterator[list[int]]:
    """Indices of questions that go into one pass: of like length, all with an image or all without.

    Questions of a batch times the size of the largest are at most ``batch_tokens``, its logits at most ``MAX_LOGITS``.
    ``prefix`` computes prompts apart from choices, so the larger of the two is a question's size.
    """
    sizes = [_size(question, method) for question in questions]
    order = sorted(range(len(questions)), key=lambda index: (questions[index].image is None, -sizes[index]))
    batch: list[int] = []
    num_rows = 0
    for index in order:
        rows = sum(questions[index].num_tokens)
        full = batch and (
            (len(batch) + 1) * sizes[batch[0]] > batch_tokens
            or (num_rows + rows) * vocabulary > MAX_LOGITS
            or (questions[batch[0]].image is None) != (questions[index].image is None)
            or method == "separate"
        )
        if full:
            yield batch
            batch, num_rows = [], 0
        batch.append(index)
        num_rows += rows
    if batch:
        yield batch


def _size(question: EncodedQuestion, method: Method) -> int:
    tail = sum(len(choice) - 1 for choice in question.choices)
    return max(question.num_prefix_tokens, tail) if method == "prefix" else question.num_prefix_tokens + tail


def _shared(model: ChoiceModel, questions: Sequence[EncodedQuestion], method: Method) -> list[list[list[float]]]:
    """Each prompt once, all choices of all questions beside each other."""
    if method == "packed":
        sequences = [[(*one.prefix, *choice) for choice in one.choices] for one in questions]
        starts = [[len(one.prefix) + start for start in one.starts] for one in questions]
        trees = tree_batch(list(zip(sequences, starts, strict=True)))
        logits = model.tree_logits(trees, None)
    else:
        trees = tree_batch([(one.choices, one.starts) for one in questions])
        logits = _after_prompts(model, questions, trees)
    return trees.split(_log_likelihoods(logits, trees.places, trees.targets).tolist())


def _after_prompts(
    model: ChoiceModel, questions: Sequence[EncodedQuestion], trees: TreeBatch
) -> Float[Tensor, "rows vocabulary"]:
    """Logits of ``trees.rows``: those before the first node come out of the pass of the prompts."""
    prefix = model.prompt_passes(questions)
    inside = trees.rows[:, 1] != BEFORE
    if prefix.logits is None:
        return model.tree_logits(trees, prefix)
    logits = prefix.logits[trees.rows[:, 0].to(prefix.logits.device)]
    if inside.any():
        logits[inside.to(logits.device)] = model.tree_logits(replace(trees, rows=trees.rows[inside]), prefix)
    return logits


def _log_likelihoods(
    logits: Float[Tensor, "rows vocabulary"], places: Int[Tensor, " scored"], targets: Int[Tensor, " scored"]
) -> Float[Tensor, " scored"]:
    """z_target − log Σ exp z, in float32, the sum once per row."""
    logits = logits.float()
    places, targets = places.to(logits.device), targets.to(logits.device)
    normaliser = logits.logsumexp(dim=1)
    return (logits[places, targets] - normaliser[places]).cpu()


def _separate(model: ChoiceModel, question: EncodedQuestion) -> list[list[float]]:
    """One pass for each choice: what the other ways must agree with."""
    found = []
    for index, (choice, start) in enumerate(zip(question.choices, question.starts, strict=True)):
        targets = torch.tensor(choice[start:])
        logits = model.sequence_logits(question, index)
        found.append(_log_likelihoods(logits, torch.arange(len(targets)), targets).tolist())
    return found


def agrees(model: ChoiceModel, question: EncodedQuestion, method: Method) -> bool:
    """True if ``method`` gives this model's ``question`` what a separate pass for each choice gives.

    An architecture may take a mask or positions and not use them. Tolerance: 1e-3 nats and a thousandth of the value in
    float32, 5 % in half precision, where any two orders of summation differ by so much.
    """
    exact = [sum(tokens) for tokens in next(score(model, [question], method="separate")).log_likelihoods]
    shared = [sum(tokens) for tokens in next(score(model, [question], method=method)).log_likelihoods]
    tolerance = PROBE_TOLERANCE.get(model.dtype, HALF_TOLERANCE)
    return all(abs(a - b) <= tolerance * (1 + abs(a)) for a, b in zip(exact, shared, strict=True))
