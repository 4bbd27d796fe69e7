"""Find how far a teacher's weights may move towards a tuned model's until L_retain reaches ε."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset, Subset

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import AnchorBatch, Features, evaluating
from craft_trainer.losses.distillation import DistillationLoss
from craft_trainer.losses.loss import TrainingStart
from craft_trainer.losses.replay import task_loss
from craft_trainer.losses.term import LossSettings
from craft_trainer.models.base import AnchoredModel
from craft_trainer.models.finite import require_finite
from craft_trainer.progress import progress

TOLERANCE = 2.0**-10  # of α
UNLEARNED = -100


class Point(NamedTuple):
    """Measurements at one α; ``task_loss`` only if there is a new task to measure it on."""

    alpha: float
    retention_loss: float
    task_loss: float | None = None


def largest_alpha(measure: Callable[[float], Point], epsilon: float, num_points: int) -> tuple[Point, list[Point]]:
    """Find the largest α with L_retain ≤ ``epsilon``; with the whole curve, sorted by α.

    ``num_points`` ≥ 2 values of α are measured, 0 and 1 among them. Between the last that meets ε and the next, which
    does not, bisection finds a crossing to 2⁻¹⁰. L_retain need not be monotone in α: between two neighbouring points
    there may be other crossings, which no bisection sees. A curve of more points shows them. The α that is returned
    meets ε as it was measured, whatever the curve does.

    Raises:
        ValueError: even the teacher's own weights do not meet ε.
    """
    curve = [measure(index / (num_points - 1)) for index in range(num_points)]
    if not curve[0].retention_loss <= epsilon:
        raise ValueError(
            f"L_retain of the teacher's own weights is {curve[0].retention_loss:.3g}, above epsilon = {epsilon:g}: "
            "raise epsilon, or rebuild the cache on this machine"
        )
    last = max(index for index, point in enumerate(curve) if point.retention_loss <= epsilon)
    best, beyond = curve[last], curve[last + 1 :][:1]
    high = beyond[0].alpha if beyond else best.alpha
    while high - best.alpha > TOLERANCE:
        point = measure((best.alpha + high) / 2)
        curve.append(point)
        if point.retention_loss <= epsilon:
            best = point
        else:
            high = point.alpha
    return best, sorted(curve)


def points_at_most(num_points: int) -> int:
    """Count the measurements of :func:`largest_alpha` with a bisection; there is none if the last point meets ε.

    >>> points_at_most(11)
    18
    """
    return num_points + max(0, math.ceil(math.log2(1 / (num_points - 1) / TOLERANCE)))


def retention_measure(
    model: AnchoredModel, anchors: AnchorCache, settings: LossSettings, batch_size: int
) -> Callable[[], float]:
    """Make a function that gives L_retain of ``model`` as it is now: the mean over all ``anchors``.

    It is the loss of CRaFT's own retention passes, in evaluation mode, in units of the teacher. The function raises a
    FloatingPointError if the loss is not finite.

    Raises:
        ValueError: the anchors lack what a term needs.
    """
    device = next(model.network.parameters()).device

    def read(rows: list[int]) -> AnchorBatch:
        batch: AnchorBatch = send_to_device(anchors.batch(rows), device)
        return batch

    def scales() -> Any:
        return send_to_device(anchors.scales(), device)

    loss = DistillationLoss.begin(
        TrainingStart(model, anchors.specs, scales, len(anchors), read, settings, sharded=False)
    )
    rows = list(range(len(anchors)))
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

    @torch.no_grad()
    def measure() -> float:
        shown = progress(batches, desc="L_retain", unit="batch", leave=False)
        found: float = sum(loss(model, read(batch)).double().sum().item() for batch in shown) / len(rows)
        require_finite("L_retain of the model is", [found])
        return found

    return measure


def task_measure(
    model: AnchoredModel, samples: Dataset[Any], collate: Callable[[Any], Any], batch_size: int, num_samples: int
) -> Callable[[], float]:
    """Make a function that gives the task loss of ``model`` as it is now, on ``num_samples`` spread over ``samples``.

    It is the mean over labels where there are labels, else over samples, in evaluation mode. What the loss draws at
    random, like the noise of a diffusion policy, is the same at every call. The function raises a FloatingPointError if
    the loss is not finite.
    """
    device = next(model.network.parameters()).device
    size = len(samples)  # type: ignore[arg-type]  # ours have a length
    loader = DataLoader(Subset(samples, spread(size, num_samples)), batch_size, collate_fn=collate)

    @torch.no_grad()
    def measure() -> float:
        total, weight = 0.0, 0
        torch.manual_seed(0)
        with evaluating(model.network):
            for batch in progress(loader, desc="loss", unit="batch", leave=False):
                inputs = send_to_device(batch, device)
                loss = task_loss(model, AnchorBatch(inputs, Features({}, None), []))
                count = _weight(inputs)
                total, weight = total + loss.item() * count, weight + count
        require_finite("the model's task loss is", [total])
        return total / weight

    return measure


def spread(size: int, count: int) -> list[int]:
    """Choose at most ``count`` of ``size`` rows, evenly spread over them."""
    rows: list[int] = torch.linspace(0, size - 1, min(count, size)).long().tolist()
    return rows


def _weight(inputs: Any) -> int:
    if "labels" in inputs:
        return int((inputs["labels"][..., 1:] != UNLEARNED).sum())
    return len(next(value for value in inputs.values() if isinstance(value, torch.Tensor)))
