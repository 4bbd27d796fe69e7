"""How far towards the tuned model L_retain ≤ ε allows: against curves that are known."""

import math

import pytest
import torch
from toy import ToyModel, ToyTask, toy_anchors

from craft_trainer.training.crossing import TOLERANCE, Point, largest_alpha, retention_measure, task_measure
from craft_trainer.training.settings import RetentionSettings


def search(curve, epsilon, num_points=11):
    return largest_alpha(lambda alpha: Point(alpha, curve(alpha)), epsilon, num_points)


@pytest.mark.parametrize("epsilon", [0.01, 0.2, 1.0, 3.9])
@pytest.mark.parametrize("num_points", [2, 3, 11])
def test_of_a_parabola_it_is_the_root(epsilon, num_points):
    best, curve = search(lambda alpha: 4 * alpha**2, epsilon, num_points)
    assert best.retention_loss <= epsilon < 4 * (best.alpha + TOLERANCE) ** 2
    assert abs(best.alpha - math.sqrt(epsilon) / 2) <= TOLERANCE
    assert [point.alpha for point in curve] == sorted({point.alpha for point in curve})
    assert {index / (num_points - 1) for index in range(num_points)} <= {point.alpha for point in curve}


def test_of_several_crossings_it_is_the_last_that_the_points_see():
    """L_retain rises, falls and rises again. Seen to fail with the first point above ε as the upper end."""

    def hump(alpha):
        return 0.02 if 0.25 < alpha < 0.55 else 0.001 if alpha < 0.8 else 0.05

    best, _ = search(hump, 0.01)
    assert 0.8 - TOLERANCE <= best.alpha < 0.8
    assert best.retention_loss == 0.001


def test_the_ends_are_exact():
    assert search(lambda alpha: alpha, 2.0)[0] == Point(1.0, 1.0)
    assert search(lambda alpha: float(alpha > 0), 0.5)[0] == Point(0.0, 0.0)
    assert search(lambda alpha: math.nan if alpha > 0 else 0.0, 0.5)[0].alpha == 0.0


def test_a_teacher_that_does_not_meet_epsilon_is_refused():
    with pytest.raises(ValueError, match=r"L_retain of the teacher's own weights is 0\.3, above epsilon = 0\.1"):
        search(lambda alpha: 0.3, 0.1)


@pytest.mark.parametrize("batch_size", [5, 24])
def test_l_retain_is_the_mean_over_all_anchors(tmp_path, batch_size):
    """Against the formula: the mean of squares over the variance. Seen to fail with the mean of the batches' means."""
    model, cache = ToyModel(), toy_anchors(tmp_path / "cache")
    measure = retention_measure(model, cache, RetentionSettings(retention_terms=["output"]), batch_size)
    assert measure() < 1e-10
    with torch.no_grad():
        model.head.weight += 0.3
        batch = cache.batch(range(24))
        squares = (model.predict(batch.inputs) - batch.teacher.output).square()
    expected = squares.flatten(1).mean(dim=1).mean() / cache.scales()["output"]
    assert measure() == pytest.approx(expected.item(), rel=1e-5)


def test_the_task_loss_is_the_mean_over_the_samples():
    """Whatever the batches: the last one is smaller. Seen to fail with every batch weighing the same."""
    model, task = ToyModel(), ToyTask(22)
    with torch.no_grad():
        expected = model(task.x, task.y)["loss"].item()

    def collate(samples):
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}

    assert task_measure(model, task, collate, 8, 512)() == pytest.approx(expected, rel=1e-6)
    measure = task_measure(model, task, collate, 8, 3)
    with torch.no_grad():
        expected = model(task.x[[0, 10, 21]], task.y[[0, 10, 21]])["loss"].item()
    assert measure() == pytest.approx(expected, rel=1e-6)
