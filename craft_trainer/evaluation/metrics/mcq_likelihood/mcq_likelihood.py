"""The `evaluate` metric: log-likelihoods of choices in, accuracies, margins and calibration out."""

from dataclasses import asdict
from typing import Any

import datasets
import evaluate

from .likelihoods import ItemLikelihoods, item_scores, summarise

DESCRIPTION = """Multiple-choice scores from the log-likelihoods a model gives to the choices of each question: accuracy
(raw, per token, per character, per byte, PMI), the margin of the right answer, the margin of the first two, calibration
error and Brier score. Items may have different numbers of choices. It loads no model."""

INPUTS = """
Args:
    predictions: for each item the summed log-likelihood of each choice, in nats.
    references: for each item the index of the right choice, from 0.
    num_tokens, num_chars, num_bytes: optional; for each item the length of each choice, for the accuracies per token,
        per character and per byte. Characters and bytes (UTF-8) of the choice itself, without a delimiter before it.
    unconditional: optional; for each item the log-likelihood of each choice without the question, for accuracy_pmi.
    per_item: optional; True adds the list "items" with the prediction, margins and scores of each item.
Returns:
    accuracy, accuracy_per_token, accuracy_per_char, accuracy_per_byte, accuracy_pmi (those whose inputs are given),
    margin_gold, margin_top2 (nats), ece, brier, num_ties, num_items.
Examples:
    >>> mcq = evaluate.load("mcq_likelihood")
    >>> numbers = mcq.compute(predictions=[[-4.0, -3.0], [-1.0, -3.0, -3.0]], references=[0, 0])
    >>> numbers["accuracy"], numbers["margin_gold"], numbers["num_items"]
    (0.5, 0.5, 2)
    >>> numbers = mcq.compute(predictions=[[-4.0, -3.0]], references=[0], num_chars=[[8, 3]])
    >>> numbers["accuracy"], numbers["accuracy_per_char"]
    (0.0, 1.0)
"""

CITATION = """@software{craft_trainer, title = {craft_trainer: Constrained Retention Fine-Tuning}, year = {2026}}"""


OPTIONAL = {"num_tokens", "num_chars", "num_bytes", "unconditional"}


class MCQLikelihood(evaluate.Metric):  # type: ignore[misc]
    """``evaluate.load("…/mcq_likelihood")``; its inputs and outputs are in ``INPUTS``."""

    def _info(self) -> evaluate.MetricInfo:
        columns = {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(columns),
        )

    def _compute(
        self, predictions: list[list[float]], references: list[int], per_item: bool = False, **lengths: Any
    ) -> dict[str, Any]:
        """The means of :func:`summarise`; ``lengths`` are the optional inputs, each a list with one list per item."""
        unknown = set(lengths) - OPTIONAL
        if unknown:
            raise ValueError(f"unknown input {sorted(unknown)}; the optional ones are {sorted(OPTIONAL)}")
        given = {name: values for name, values in lengths.items() if values is not None}
        for name, values in given.items():
            if len(values) != len(predictions):
                raise ValueError(f"{name} has {len(values)} items, predictions have {len(predictions)}")
        items = [
            ItemLikelihoods(predictions[row], references[row], **{name: values[row] for name, values in given.items()})
            for row in range(len(predictions))
        ]
        means: dict[str, Any] = dict(summarise(items))
        return means | ({"items": [asdict(item_scores(item)) for item in items]} if per_item else {})
