"""One-sided projection against closed forms on explicit vectors in float64, and against TorchJD where they agree."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torchjd.aggregation import PCGrad

from craft_trainer.optim.surgery import RULES, cosine, none, one_sided

SCALES = [1e-12, 1e-3, 1.0, 1e3, 1e12]
COMPARABLE = [(task, retain) for task in SCALES for retain in SCALES if retain >= 1e-5 * task]  # above the noise floor
VECTORS = npst.arrays(np.float64, 6, elements=st.floats(-10, 10, allow_subnormal=False))
MULTIPLIERS = st.floats(0, 100)
THRESHOLDS = st.floats(-1, 0)


def gram_of(task: np.ndarray, retain: np.ndarray) -> torch.Tensor:
    rows = np.stack([task, retain])
    return torch.from_numpy(rows @ rows.T)


def angle_cosine(task: np.ndarray, retain: np.ndarray) -> float:
    """cos of the angle, by unit vectors rather than by the Gramian."""
    return float(task / np.linalg.norm(task) @ (retain / np.linalg.norm(retain)))


def pair(seed: int, *, conflicting: bool) -> tuple[np.ndarray, np.ndarray]:
    task, retain = np.random.default_rng(seed).standard_normal((2, 20))
    return (task, retain) if (task @ retain < 0) == conflicting else (task, -retain)


@given(VECTORS, VECTORS)
def test_cosine_is_that_of_the_angle(task: np.ndarray, retain: np.ndarray) -> None:
    assume(np.linalg.norm(task) > 1e-3 and np.linalg.norm(retain) > 1e-3)
    value = cosine(gram_of(task, retain))
    assert -1 <= value <= 1
    assert value == pytest.approx(angle_cosine(task, retain), abs=1e-9)


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 1.0, 1e3, 1e12])
def test_cosine_of_aligned_and_opposed_gradients(scale: float) -> None:
    task = np.array([3.0, 4.0])
    assert cosine(gram_of(task, scale * task)) == pytest.approx(1)
    assert cosine(gram_of(task, -scale * task)) == pytest.approx(-1)


@pytest.mark.parametrize("seed", range(5))
def test_in_conflict_the_task_part_is_orthogonal_to_the_retention_gradient(seed: int) -> None:
    task, retain = pair(seed, conflicting=True)
    multiplier = 0.8
    surgery = one_sided(gram_of(task, retain), multiplier, 0.0)
    merged = surgery.task_weight * task + surgery.retain_weight * retain
    task_part = merged - multiplier * retain
    assert surgery.conflict
    assert abs(task_part @ retain) < 1e-12 * np.linalg.norm(task) * np.linalg.norm(retain)
    # and it is the nearest such vector: what was removed is parallel to the retention gradient
    unit = retain / np.linalg.norm(retain)
    np.testing.assert_allclose(task_part, task - (task @ unit) * unit, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_without_conflict_the_gradients_are_added(seed: int) -> None:
    task, retain = pair(seed, conflicting=False)
    surgery = one_sided(gram_of(task, retain), 0.8, 0.0)
    assert (surgery.task_weight, surgery.retain_weight, surgery.conflict) == (1.0, 0.8, False)
    assert surgery.cosine == pytest.approx(angle_cosine(task, retain))


@given(VECTORS, VECTORS, MULTIPLIERS, THRESHOLDS)
def test_the_step_never_raises_retention_more_than_its_threshold_allows(
    task: np.ndarray, retain: np.ndarray, multiplier: float, threshold: float
) -> None:
    """<g_task part, g_r> ≥ τ·|g_t|·|g_r| always; with τ = 0 the task never works against retention."""
    assume(np.linalg.norm(task) > 1e-3 and np.linalg.norm(retain) > 1e-3)
    surgery = one_sided(gram_of(task, retain), multiplier, threshold)
    task_part = surgery.task_weight * task + (surgery.retain_weight - multiplier) * retain
    norms = np.linalg.norm(task) * np.linalg.norm(retain)
    assert task_part @ retain >= threshold * norms - 1e-9 * norms * (1 + multiplier)


@pytest.mark.parametrize(("task_scale", "retain_scale"), COMPARABLE)
@pytest.mark.parametrize(("threshold", "conflict"), [(-0.59, True), (-0.61, False)])
def test_the_threshold_is_a_cosine_whatever_the_lengths(
    task_scale: float, retain_scale: float, threshold: float, conflict: bool
) -> None:
    """cos((1, 0), (−3, 4)) = −3/5. A raw inner product would be −3 · scales."""
    gram = gram_of(task_scale * np.array([1.0, 0.0]), retain_scale * np.array([-3.0, 4.0]))
    assert one_sided(gram, 1.0, threshold).conflict is conflict
    assert none(gram, 1.0, threshold).conflict is conflict


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3])
def test_scaling_the_task_gradient_scales_its_part_of_the_step(scale: float) -> None:
    task, retain = pair(0, conflicting=True)
    unscaled = one_sided(gram_of(task, retain), 0.0, 0.0)
    scaled = one_sided(gram_of(scale * task, retain), 0.0, 0.0)
    expected = scale * (unscaled.task_weight * task + unscaled.retain_weight * retain)
    np.testing.assert_allclose(scaled.task_weight * scale * task + scaled.retain_weight * retain, expected, rtol=1e-9)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize(("task", "retain"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_zero_gradient_never_conflicts(rule: object, task: float, retain: float) -> None:
    gram = gram_of(task * np.ones(3), -retain * np.ones(3))
    assert rule(gram, 2.0, 0.0) == (1.0, 2.0, 0.0, False)


@pytest.mark.parametrize("task_scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("ratio", "measured"), [(1e-5, -1.0), (1e-7, 0.0)])
def test_a_retention_gradient_a_millionth_of_the_task_gradient_is_rounding_error(
    task_scale: float, ratio: float, measured: float
) -> None:
    gram = gram_of(task_scale * np.ones(3), -ratio * task_scale * np.ones(3))
    assert cosine(gram) == pytest.approx(measured)
    surgery = one_sided(gram, 2.0, 0.0)
    assert surgery.conflict is (measured < 0)
    assert surgery.conflict or surgery.retain_weight == 2.0


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_weights_are_finite_at_the_ends_of_float32(rule: object) -> None:
    for task, retain in [(1e-19, 1e19), (1e-19, 1e-19), (1e19, 1e19)]:
        surgery = rule(gram_of(task * np.array([1.0, 1.0]), retain * np.array([-1.0, 0.5])), 1.0, 0.0)
        assert math.isfinite(surgery.retain_weight)
        assert surgery.cosine == pytest.approx(-0.5 / math.sqrt(2 * 1.25))


def test_the_threshold_itself_is_no_conflict() -> None:
    orthogonal = gram_of(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert not one_sided(orthogonal, 1.0, 0.0).conflict


@given(VECTORS, VECTORS, MULTIPLIERS, THRESHOLDS)
def test_none_adds_whatever_the_conflict(
    task: np.ndarray, retain: np.ndarray, multiplier: float, threshold: float
) -> None:
    surgery = none(gram_of(task, retain), multiplier, threshold)
    assert (surgery.task_weight, surgery.retain_weight) == (1.0, multiplier)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("conflicting", [True, False])
def test_torchjds_pcgrad_is_the_projection_applied_from_both_sides(seed: int, conflicting: bool) -> None:
    """PCGrad of two gradients = (one-sided projection of t off r) + (one-sided projection of r off t)."""
    task, retain = pair(seed, conflicting=conflicting)
    left, right = one_sided(gram_of(task, retain), 0.0, 0.0), one_sided(gram_of(retain, task), 0.0, 0.0)
    both = (left.task_weight + right.retain_weight) * task + (left.retain_weight + right.task_weight) * retain
    oracle = PCGrad()(torch.from_numpy(np.stack([task, retain])))
    np.testing.assert_allclose(both, oracle.numpy(), rtol=1e-6, atol=1e-9)
