"""Multiple choice from log-likelihoods: predictions, accuracies, margins, calibration. numpy only.

This file is also published next to the `evaluate` script, so it imports nothing of the package.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_BINS = 15  # of the calibration error, as in Guo et al. 2017, section 5
LARGEST = 1e100  # log-likelihoods beyond this would overflow in sums


@dataclass(frozen=True)
class ItemLikelihoods:
    """Log-likelihoods of one question with n ≥ 2 choices.

    Attributes:
        log_likelihoods: log P(choice | question) in nats, summed over the tokens of each choice.
        answer_index: which choice is right, from 0.
        num_tokens: scored tokens of each choice, ≥ 1.
        num_chars: characters of each choice, without the delimiter before it, ≥ 1.
        num_bytes: the same in UTF-8 bytes, ≥ 1.
        unconditional: log P(choice | neutral context), the same choices without the question.
    """

    log_likelihoods: Sequence[float]
    answer_index: int
    num_tokens: Sequence[int] | None = None
    num_chars: Sequence[int] | None = None
    num_bytes: Sequence[int] | None = None
    unconditional: Sequence[float] | None = None


@dataclass(frozen=True)
class ItemScores:
    """The numbers of one item; ``None`` where the input for it was not given.

    Attributes:
        predicted_index: argmax of the log-likelihoods; of equal ones the first.
        tied: two choices or more share the largest log-likelihood.
        correct: the prediction is the answer.
        correct_per_token, correct_per_char, correct_per_byte: the same for log-likelihood / length.
        correct_pmi: the same for log P(choice | question) − log P(choice | neutral context).
        margin_gold: log-likelihood of the answer − that of the best other choice, in nats; negative when wrong.
        margin_top2: largest − second largest log-likelihood, in nats, ≥ 0; it does not know the answer.
        confidence: largest probability of the softmax over the choices' log-likelihoods, in [1/n, 1].
        brier: Σ over choices (p − y)² with y = 1 for the answer, in [0, 2].
    """

    predicted_index: int
    tied: bool
    correct: bool
    correct_per_token: bool | None
    correct_per_char: bool | None
    correct_per_byte: bool | None
    correct_pmi: bool | None
    margin_gold: float
    margin_top2: float
    confidence: float
    brier: float


ACCURACIES = {
    "accuracy": "correct",
    "accuracy_per_token": "correct_per_token",
    "accuracy_per_char": "correct_per_char",
    "accuracy_per_byte": "correct_per_byte",
    "accuracy_pmi": "correct_pmi",
}


def item_scores(item: ItemLikelihoods, name: str = "the item") -> ItemScores:
    """Predictions, margins and calibration of one item; ``name`` is what errors call it.

    Raises:
        ValueError: fewer than two choices, lists of different lengths, a number that is not finite, a length that is
            not a whole number ≥ 1, or an ``answer_index`` that is none of the choices.

    >>> scores = item_scores(ItemLikelihoods([-4.0, -3.0, -9.0], answer_index=0, num_chars=[8, 3, 9]))
    >>> scores.predicted_index, scores.correct, scores.correct_per_char  # -4/8 is above -3/3
    (1, False, True)
    >>> scores.margin_gold, scores.margin_top2
    (-1.0, 1.0)
    """
    sums = _numbers(item.log_likelihoods, "log_likelihoods", name)
    if len(sums) < 2:
        raise ValueError(f"{name}: {len(sums)} log-likelihoods, but a question has at least two choices")
    gold = _answer(item.answer_index, len(sums), name)
    rivals: dict[str, Floats | None] = {
        "per_token": _divided(sums, item.num_tokens, "num_tokens", name),
        "per_char": _divided(sums, item.num_chars, "num_chars", name),
        "per_byte": _divided(sums, item.num_bytes, "num_bytes", name),
        "pmi": _less(sums, item.unconditional, name),
    }
    correct = {f"correct_{key}": None if ys is None else int(np.argmax(ys)) == gold for key, ys in rivals.items()}
    second, first = np.sort(sums)[-2:]
    probabilities = softmax(sums)
    return ItemScores(
        predicted_index=int(np.argmax(sums)),
        tied=bool(first == second),
        correct=int(np.argmax(sums)) == gold,
        margin_gold=float(sums[gold] - np.delete(sums, gold).max()),
        margin_top2=float(first - second),
        confidence=float(probabilities.max()),
        brier=float(np.square(probabilities - np.eye(len(sums))[gold]).sum()),
        **correct,
    )


def summarise(items: Iterable[ItemLikelihoods]) -> dict[str, float]:
    """Means over ``items``, all python numbers: accuracies, margins, calibration, counts.

    ``accuracy`` (and ``accuracy_per_token``, ``_per_char``, ``_per_byte``, ``_pmi`` where every item has the input),
    ``margin_gold`` and ``margin_top2`` in nats, ``ece`` in [0, 1], ``brier`` in [0, 2], ``num_ties`` and ``num_items``.

    Raises:
        ValueError: no items, an input that only some items have, or an item that :func:`item_scores` refuses. The
            message names the item by its position, from 0.

    >>> wrong = ItemLikelihoods([-4.0, -3.0], answer_index=0)
    >>> right = ItemLikelihoods([-1.0, -3.0, -3.0], answer_index=0)
    >>> means = summarise([wrong, right])
    >>> means["accuracy"], means["margin_gold"], means["margin_top2"], means["num_items"]
    (0.5, 0.5, 1.5, 2)
    """
    scores = [item_scores(item, f"item {number}") for number, item in enumerate(items)]
    if not scores:
        raise ValueError("there are no items to summarise")
    confidences = np.array([score.confidence for score in scores])
    correct = np.array([score.correct for score in scores])
    return _accuracies(scores) | {
        "margin_gold": float(np.mean([score.margin_gold for score in scores])),
        "margin_top2": float(np.mean([score.margin_top2 for score in scores])),
        "ece": calibration_error(confidences, correct),
        "brier": float(np.mean([score.brier for score in scores])),
        "num_ties": sum(score.tied for score in scores),
        "num_items": len(scores),
    }


def softmax(log_likelihoods: Floats) -> Floats:
    """exp(x − max x) / Σ exp(x − max x): the choices' probabilities if one of them had to be said; shape (n,)."""
    weights = np.exp(log_likelihoods - log_likelihoods.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def calibration_error(confidences: Floats, correct: NDArray[np.bool_], num_bins: int = NUM_BINS) -> float:
    """ECE = Σ over bins (items in the bin / all items) · |accuracy − mean confidence|, in [0, 1].

    ``num_bins`` bins of equal width ((m−1)/M, m/M] over the confidences in [0, 1], one for each of n items.
    Source: Guo, Pleiss, Sun & Weinberger 2017, arXiv 1706.04599, eq. 3.

    >>> round(calibration_error(np.array([0.9, 0.9, 0.6]), np.array([True, False, True])), 3)  # (0.8 + 0.4) / 3
    0.4
    """
    inner_edges = np.linspace(0, 1, num_bins + 1)[1:-1]
    bins = np.digitize(confidences, inner_edges, right=True)
    gaps = np.bincount(bins, weights=correct - confidences, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidences))


def _accuracies(scores: Sequence[ItemScores]) -> dict[str, float]:
    means = {}
    for name, field in ACCURACIES.items():
        correct = [getattr(score, field) for score in scores]
        missing = [number for number, value in enumerate(correct) if value is None]
        if 0 < len(missing) < len(scores):
            raise ValueError(f"item {missing[0]} lacks the input of {name}, which other items have: give all or none")
        if not missing:
            means[name] = float(np.mean(correct))
    return means


def _answer(answer_index: Any, num_choices: int, name: str) -> int:
    if isinstance(answer_index, bool | np.bool_) or not isinstance(answer_index, int | np.integer):
        raise ValueError(f"{name}: answer_index must be a whole number, not {answer_index!r}")
    if not 0 <= answer_index < num_choices:
        raise ValueError(f"{name}: answer_index {answer_index} is none of the {num_choices} choices, 0 is the first")
    return int(answer_index)


def _numbers(values: Any, field: str, name: str) -> Floats:
    listed = values.tolist() if hasattr(values, "tolist") else values  # arrays and tensors
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise ValueError(f"{name}: {field} must be a list of numbers, one for each choice, not {values!r}")
    listed = [value.item() if isinstance(value, np.generic) else value for value in listed]
    for value in listed:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:  # nor is nan
            raise ValueError(f"{name}: {field} holds {value!r}, which is not a finite number")
    return np.array(listed, dtype=np.float64)


def _paired(values: Any, sums: Floats, field: str, name: str) -> Floats:
    numbers = _numbers(values, field, name)
    if len(numbers) != len(sums):
        raise ValueError(f"{name}: {len(numbers)} {field} for {len(sums)} choices")
    return numbers


def _divided(sums: Floats, lengths: Any, field: str, name: str) -> Floats | None:
    if lengths is None:
        return None
    numbers = _paired(lengths, sums, field, name)
    if (numbers < 1).any() or (numbers % 1 != 0).any():
        raise ValueError(f"{name}: {field} must be whole numbers of at least 1, not {numbers.tolist()}")
    return sums / numbers


def _less(sums: Floats, unconditional: Any, name: str) -> Floats | None:
    return None if unconditional is None else sums - _paired(unconditional, sums, "unconditional", name)
