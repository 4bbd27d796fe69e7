"""Scores of multiple choice: against scipy, scikit-learn, lm-evaluation-harness' rule and cases worked out by hand."""

import doctest
import subprocess
import sys

import numpy as np
import pytest

from craft_trainer.evaluation.metrics.mcq_likelihood import likelihoods
from craft_trainer.evaluation.metrics.mcq_likelihood.likelihoods import (
    ItemLikelihoods,
    calibration_error,
    item_scores,
    softmax,
    summarise,
)


def ragged_items(seed, num_items=200):
    generator = np.random.default_rng(seed)
    items = []
    for _ in range(num_items):
        n = int(generator.integers(2, 9))
        lengths = {key: generator.integers(1, 40, n).tolist() for key in ("num_tokens", "num_chars", "num_bytes")}
        unconditional = generator.normal(-20, 6, n).tolist()
        sums = generator.normal(-20, 6, n).tolist()
        items.append(ItemLikelihoods(sums, int(generator.integers(n)), **lengths, unconditional=unconditional))
    return items


def test_the_examples_in_the_docstrings_hold():
    outcome = doctest.testmod(likelihoods)
    assert outcome.attempted >= 6
    assert outcome.failed == 0


@pytest.mark.parametrize("seed", range(3))
def test_accuracies_are_those_of_lm_evaluation_harness(seed):
    """Its process_results: argmax of sums, of sums / characters, / bytes, and of the difference to the unconditional.

    Seen to fail with argmin, with characters and bytes exchanged, and with the unconditional added.
    """
    items = ragged_items(seed)
    numbers = summarise(items)
    gold = [item.answer_index for item in items]

    def accuracy(values):
        return np.mean([np.argmax(value) == answer for value, answer in zip(values, gold, strict=True)])

    sums = [np.array(item.log_likelihoods) for item in items]
    assert numbers["accuracy"] == accuracy(sums)
    for name in ("token", "char", "byte"):
        lengths = [np.array(getattr(item, f"num_{name}s")) for item in items]
        assert numbers[f"accuracy_per_{name}"] == accuracy([a / b for a, b in zip(sums, lengths, strict=True)])
    pmi = [value - np.array(item.unconditional) for value, item in zip(sums, items, strict=True)]
    assert numbers["accuracy_pmi"] == accuracy(pmi)
    assert numbers["num_items"] == len(items)


@pytest.mark.parametrize("seed", range(3))
def test_margins_are_those_of_sorting(seed):
    items = ragged_items(seed)
    gold, top2 = [], []
    for item in items:
        others = [value for index, value in enumerate(item.log_likelihoods) if index != item.answer_index]
        gold.append(item.log_likelihoods[item.answer_index] - sorted(others)[-1])
        first, second, *_ = sorted(item.log_likelihoods, reverse=True)
        top2.append(first - second)
    numbers = summarise(items)
    assert numbers["margin_gold"] == pytest.approx(np.mean(gold), abs=1e-12)
    assert numbers["margin_top2"] == pytest.approx(np.mean(top2), abs=1e-12)
    for item, margin in zip(items, gold, strict=True):
        assert item_scores(item).correct == (margin > 0)


def test_the_gold_margin_falls_where_the_other_margin_rises():
    """A model that grows certain of a wrong answer: what the margin of the first two cannot tell."""
    before, after = ItemLikelihoods([-2.0, -3.0], 0), ItemLikelihoods([-9.0, -3.0], 0)
    assert item_scores(after).margin_top2 > item_scores(before).margin_top2
    assert item_scores(after).margin_gold < item_scores(before).margin_gold


def test_probabilities_are_those_of_scipy():
    special = pytest.importorskip("scipy.special", reason="pip install 'craft-trainer[mcq]': the oracle is scipy's")
    for item in [*ragged_items(5, 50), ItemLikelihoods([-5000.0, -5001.0, -9000.0], 0)]:
        expected = special.softmax(np.array(item.log_likelihoods))
        np.testing.assert_allclose(softmax(np.array(item.log_likelihoods)), expected, rtol=1e-12)
        assert item_scores(item).confidence == pytest.approx(expected.max(), rel=1e-12)


@pytest.mark.parametrize("num_choices", [2, 3, 5])
def test_brier_is_scikit_learns(num_choices):
    """Seen to fail with the mean over choices in place of the sum."""
    metrics = pytest.importorskip("sklearn.metrics", reason="pip install scikit-learn: the oracle is its Brier score")
    generator = np.random.default_rng(1)
    sums = generator.normal(-5, 2, (80, num_choices))
    gold = generator.integers(num_choices, size=80)
    probabilities = np.exp(sums) / np.exp(sums).sum(1, keepdims=True)
    expected = metrics.brier_score_loss(gold, probabilities, labels=list(range(num_choices)), scale_by_half=False)
    items = [ItemLikelihoods(row.tolist(), int(answer)) for row, answer in zip(sums, gold, strict=True)]
    assert summarise(items)["brier"] == pytest.approx(expected, rel=1e-12)


def test_calibration_error_is_that_of_a_loop_over_bins():
    """Seen to fail with 10 bins, and with bins that are closed on the left."""
    generator = np.random.default_rng(2)
    confidences = np.concatenate([generator.uniform(0, 1, 500), np.linspace(0, 1, 16)])  # edges included
    correct = generator.uniform(size=len(confidences)) < confidences**2
    expected = 0.0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        inside = (confidences > low) & (confidences <= high) | ((low == 0) & (confidences == 0))
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidences[inside].mean())
    assert calibration_error(confidences, correct) == pytest.approx(expected, abs=1e-12)


def test_certain_and_right_is_perfectly_calibrated():
    numbers = summarise([ItemLikelihoods([0.0, -800.0], 0)] * 3)
    assert (numbers["ece"], numbers["brier"], numbers["accuracy"]) == (0.0, 0.0, 1.0)


def test_of_equal_choices_the_first_is_predicted_and_counted_as_a_tie():
    tied, clear = ItemLikelihoods([-2.0, -1.0, -1.0], 2), ItemLikelihoods([-2.0, -1.0, -2.0], 1)
    scores = item_scores(tied)
    assert (scores.predicted_index, scores.correct, scores.margin_gold, scores.margin_top2) == (1, False, 0.0, 0.0)
    assert summarise([tied, clear, clear])["num_ties"] == 1


def test_results_are_python_numbers():
    numbers = summarise(ragged_items(0))
    assert {type(value) for value in numbers.values()} == {float, int}
    numpy_input = ItemLikelihoods(np.array([-1.0, -2.0], np.float32), np.int64(0), num_chars=np.array([3, 4]))
    assert summarise([numpy_input])["accuracy_per_char"] == 1.0  # −1/3 over −2/4


def test_what_was_not_given_is_left_out():
    assert set(summarise([ItemLikelihoods([-1.0, -2.0], 0)])) == {
        "accuracy", "margin_gold", "margin_top2", "ece", "brier", "num_ties", "num_items",
    }  # fmt: skip


GOOD = {"log_likelihoods": [-1.0, -2.0], "answer_index": 0, "num_chars": [3, 4]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_likelihoods": []}, "at least two"),
        ({"log_likelihoods": [-1.0]}, "at least two"),
        ({"log_likelihoods": [-1.0, float("nan")]}, "nan"),
        ({"log_likelihoods": [float("-inf"), -1.0]}, "inf"),
        ({"log_likelihoods": [-(10**400), -1.0]}, "finite"),
        ({"log_likelihoods": [-1.0, "x"]}, "'x'"),
        ({"log_likelihoods": [-1.0, None]}, "None"),
        ({"log_likelihoods": [-1.0, True]}, "True"),
        ({"log_likelihoods": "ab"}, "list of numbers"),
        ({"log_likelihoods": -1.0}, "list of numbers"),
        ({"log_likelihoods": [[-1.0], [-2.0]]}, "finite number"),
        ({"answer_index": 2}, "none of the 2"),
        ({"answer_index": -1}, "none of the 2"),
        ({"answer_index": True}, "whole number"),
        ({"answer_index": 0.0}, "whole number"),
        ({"num_chars": [3]}, "1 num_chars for 2 choices"),
        ({"num_chars": [3, 0]}, "at least 1"),
        ({"num_tokens": [3, 1.5]}, "whole numbers"),
        ({"num_bytes": [3, -4]}, "at least 1"),
        ({"unconditional": [-1.0, float("inf")]}, "inf"),
        ({"unconditional": [-1.0]}, "1 unconditional for 2 choices"),
        ({"num_chars": None}, "lacks"),
    ],
)
def test_a_bad_item_is_named(change, message):
    good, bad = ItemLikelihoods(**GOOD), ItemLikelihoods(**(GOOD | change))
    with pytest.raises(ValueError, match=r"^item 1") as error:
        summarise([good, bad])
    assert message in str(error.value)


def test_no_items_are_refused():
    with pytest.raises(ValueError, match="no items"):
        summarise([])


def test_the_maths_needs_numpy_only():
    heavy = {"torch", "transformers", "datasets", "evaluate", "scipy", "pandas"}
    code = f"import sys, {likelihoods.__name__}; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
