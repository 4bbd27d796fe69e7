"""The `evaluate` comparison: two models' log-likelihoods of the same choices in, paired statistics out."""

from dataclasses import asdict
from typing import Any

import datasets
import evaluate
import numpy as np

# `evaluate` brings the files that are named in this one, and paired.py needs the first of them.
from .intervals import NUM_RESAMPLES
from .paired import compare

DESCRIPTION = """Did the second model lose or gain on these multiple-choice items? Takes the log-likelihoods that two
models give to the choices of the same questions. Gives both accuracies, their difference with a paired bootstrap
interval, the exact McNemar test, the change of the gold margin (right answer − best other choice) with its interval,
the items that flipped, and a sentence that says what may be concluded and how many items would be needed if nothing
may."""

INPUTS = """
Args:
    predictions1: for each item the summed log-likelihood of each choice by the first model, in nats.
    predictions2: the same by the second model; differences are second − first.
    references: for each item the index of the right choice, from 0.
    ids: optional names of the items for the lists of flips; without them their positions from 0.
    seed: of the bootstrap, 0.
    num_resamples: of the bootstrap, 9999.
Returns:
    num_items, accuracy1, accuracy2, accuracy_difference, accuracy_difference_ci, num_right_to_wrong,
    num_wrong_to_right, mcnemar_p, margin_gold1, margin_gold2, margin_gold_change, margin_gold_change_ci,
    discordance_bound, right_to_wrong, wrong_to_right, items_for_difference_seen, items_for_two_points, confidence,
    num_resamples, seed, conclusion.
Examples:
    >>> comparison = evaluate.load("mcq_comparison", module_type="comparison")
    >>> before, after = [[-1.0, -3.0], [-2.0, -1.0, -4.0]], [[-3.0, -1.0], [-2.0, -1.5, -4.0]]
    >>> numbers = comparison.compute(predictions1=before, predictions2=after, references=[0, 0])
    >>> numbers["accuracy1"], numbers["accuracy2"], numbers["right_to_wrong"], numbers["mcnemar_p"]
    (0.5, 0.0, ['0'], 1.0)
    >>> numbers["margin_gold_change"]
    -1.75
"""

CITATION = """@software{craft_trainer, title = {craft_trainer: Constrained Retention Fine-Tuning}, year = {2026}}"""


class MCQComparison(evaluate.Comparison):  # type: ignore[misc]
    """``evaluate.load("…/mcq_comparison", module_type="comparison")``; its inputs and outputs are in ``INPUTS``."""

    def _info(self) -> evaluate.ComparisonInfo:
        choices = datasets.List(datasets.Value("float64"))
        columns = {"predictions1": choices, "predictions2": choices, "references": datasets.Value("int64")}
        return evaluate.ComparisonInfo(
            module_type="comparison",
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(columns),
        )

    def _compute(
        self,
        predictions1: list[list[float]],
        predictions2: list[list[float]],
        references: list[int],
        *,
        ids: list[str] | None = None,
        seed: int = 0,
        num_resamples: int = NUM_RESAMPLES,
    ) -> dict[str, Any]:
        """The fields of :class:`paired.Comparison`."""
        _check_choices(predictions1, predictions2)
        correct1, margins1 = _scores(predictions1, references, "predictions1")
        correct2, margins2 = _scores(predictions2, references, "predictions2")
        margins = {"margins1": margins1, "margins2": margins2}
        result = asdict(compare(correct1, correct2, **margins, ids=ids, seed=seed, num_resamples=num_resamples))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in result.items()}


def _check_choices(first: list[list[float]], second: list[list[float]]) -> None:
    for number, (ours, theirs) in enumerate(zip(first, second, strict=True)):
        if len(ours) != len(theirs):
            raise ValueError(f"item {number}: {len(ours)} choices in predictions1, {len(theirs)} in predictions2")


def _scores(predictions: list[list[float]], references: list[int], name: str) -> tuple[list[bool], list[float]]:
    """Score each item: is the first largest log-likelihood the answer's, and the answer's minus the best other."""
    correct, margins = [], []
    for number, (values, gold) in enumerate(zip(predictions, references, strict=True)):
        sums = np.asarray(values, dtype=np.float64)
        if len(sums) < 2 or not np.isfinite(sums).all():
            raise ValueError(f"item {number}: {name} must be two finite numbers or more, not {values}")
        if not 0 <= gold < len(sums):
            raise ValueError(f"item {number}: reference {gold} is none of the {len(sums)} choices, 0 is the first")
        correct.append(int(np.argmax(sums)) == gold)
        margins.append(float(sums[gold] - np.delete(sums, gold).max()))
    return correct, margins
