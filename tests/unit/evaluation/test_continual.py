"""Continual metrics by hand: three tasks in three stages, and a teacher of two tasks with a third behind them."""

import warnings

import numpy as np
import pytest

from craft_trainer.evaluation.continual import (
    area_under_success,
    average_success,
    backward_transfer,
    forward_transfer,
    learning_success,
    negative_backward_transfer,
    normalized_transfer,
)

THREE = np.array([[0.8, 0.2, 0.0], [0.6, 1.0, 0.1], [0.5, 0.7, 0.9]])
TWO_STAGES = np.array([[1.0, 0.9, 0.0], [0.2, 0.5, 1.0]])
OLD_THEN_NEW = [0, 0, 1]


def test_average_is_that_of_the_last_stage():
    assert average_success(THREE) == pytest.approx((0.5 + 0.7 + 0.9) / 3)


def test_backward_transfer_compares_the_end_with_just_learned():
    assert backward_transfer(THREE) == pytest.approx(((0.5 - 0.8) + (0.7 - 1.0)) / 2)
    assert backward_transfer(TWO_STAGES, OLD_THEN_NEW) == pytest.approx(((0.2 - 1.0) + (0.5 - 0.9)) / 2)


def test_negative_backward_transfer_sees_every_later_stage():
    """Task 0 lost 0.2 and then 0.3, task 1 lost 0.3."""
    assert negative_backward_transfer(THREE) == pytest.approx(((0.2 + 0.3) / 2 + 0.3) / 2)
    two = negative_backward_transfer(TWO_STAGES, OLD_THEN_NEW)
    assert two == pytest.approx(-backward_transfer(TWO_STAGES, OLD_THEN_NEW))  # a single later stage


def test_forward_transfer_is_what_was_known_before_training():
    assert forward_transfer(THREE, np.array([0.0, 0.1, 0.0])) == pytest.approx(((0.2 - 0.1) + (0.1 - 0.0)) / 2)
    assert forward_transfer(TWO_STAGES, np.zeros(3), OLD_THEN_NEW) == 0.0


def test_liberos_area_with_and_without_curves():
    """Task 0: mean of l, 0.6, 0.5; task 1: of l, 0.7; task 2: of l alone."""
    assert area_under_success(THREE) == pytest.approx((1.9 / 3 + 1.7 / 2 + 0.9) / 3)
    curves = [np.array([0.0, 0.8]), np.array([0.2, 0.6, 1.0]), np.array([0.1, 0.9])]
    assert area_under_success(THREE, curves) == pytest.approx((1.5 / 3 + 1.3 / 2 + 0.5) / 3)
    assert learning_success(curves) == pytest.approx((0.4 + 0.6 + 0.5) / 3)


def test_continual_worlds_transfer():
    """Alone the mean is 0.5; 0.75 is half of what was left to gain, 0.25 as much below."""
    alone = np.array([0.0, 0.5, 1.0])
    assert normalized_transfer(np.array([0.5, 0.75, 1.0]), alone) == pytest.approx(0.5)
    assert normalized_transfer(np.array([0.0, 0.0, 0.75]), alone) == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="succeeds at every checkpoint"):
        normalized_transfer(alone, np.ones(3))


@pytest.mark.parametrize(
    ("matrix", "learned", "message"),
    [
        (np.zeros(3), None, "a row for every stage"),
        (np.full((2, 2), 1.5), None, r"fractions in \[0, 1\]"),
        (np.full((2, 2), np.nan), None, r"fractions in \[0, 1\]"),
        (THREE, [0, 1], "one of the stages 0 to 2"),
        (THREE, [0, 1, 3], "one of the stages 0 to 2"),
        (THREE[:2], None, "one of the stages 0 to 1"),  # three tasks in two stages: which?
        (THREE, [2, 2, 2], "nothing could be forgotten"),
    ],
)
def test_matrices_that_have_no_answer_are_refused(matrix, learned, message):
    with pytest.raises(ValueError, match=message):
        backward_transfer(matrix, learned)


def test_transfer_and_area_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="one fraction for 3 tasks"):
        forward_transfer(THREE, np.zeros(2))
    with pytest.raises(ValueError, match="no task was transferred to"):
        forward_transfer(THREE, np.zeros(3), [0, 0, 0])
    with pytest.raises(ValueError, match="2 curves for 3 tasks"):
        area_under_success(THREE, [np.zeros(2)] * 2)
    with pytest.raises(ValueError, match="at least one fraction"):
        learning_success([np.array([])])


def test_transfer_is_that_of_avalanche():
    """Its metrics are told of the same matrices number by number; backward, forgetting and forward."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its import
        backward = pytest.importorskip("avalanche.evaluation.metrics.forgetting_bwt")
        forward = pytest.importorskip("avalanche.evaluation.metrics.forward_transfer")
    generator = np.random.default_rng(0)
    matrix, start = generator.uniform(size=(5, 5)), generator.uniform(size=5)
    bwt, forgetting, fwt = backward.BWT(), backward.Forgetting(), forward.ForwardTransfer()
    for task in range(4):
        for one in (bwt, forgetting):
            one.update(task, matrix[task, task], initial=True)
            one.update(task, matrix[-1, task])
    for task in range(1, 5):
        fwt.update(task, start[task], initial=True)
        fwt.update(task, matrix[task - 1, task])
    found = backward_transfer(matrix)
    assert found == pytest.approx(np.mean(list(bwt.result().values())))
    assert -found == pytest.approx(np.mean(list(forgetting.result().values())))
    assert forward_transfer(matrix, start) == pytest.approx(np.mean(list(fwt.result().values())))
