"""Summarise a sequence of tasks: average, forgetting and transfer from its matrix of successes.

A matrix holds the success rate (a fraction) of every task after every stage: ``matrix[i, j]`` is that of task j after
stage i. ``learned`` says after which stage each task had just been learned; by default task j was learned in stage j,
as the published definitions have it. A teacher of four tasks with a fifth learned behind them is two stages, and
``learned`` is [0, 0, 0, 0, 1].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

Matrix = Float[np.ndarray[Any, Any], "stages tasks"]


def average_success(matrix: Matrix) -> float:
    """Average the last stage over all tasks: ACC of Lopez-Paz & Ranzato 2017, arXiv 1706.08840, eq. (2)."""
    return float(_checked(matrix, None)[0][-1].mean())


def backward_transfer(matrix: Matrix, learned: Sequence[int] | None = None) -> float:
    """Average R[last, j] − R[learned(j), j] over the tasks that were learned before the last stage.

    Below 0 is forgetting. Source: BWT of Lopez-Paz & Ranzato 2017, arXiv 1706.08840, eq. (3). Its negative is the
    forgetting of Continual World (Wołczyk et al. 2021, arXiv 2105.10919), but for the last task, which has
    none.

    Raises:
        ValueError: no task was learned before the last stage.
    """
    checked, stages = _checked(matrix, learned)
    earlier = _earlier(checked, stages)
    return float(np.mean([checked[-1, task] - checked[stages[task], task] for task in earlier]))


def negative_backward_transfer(matrix: Matrix, learned: Sequence[int] | None = None) -> float:
    """Average R[learned(j), j] − R[i, j] over all stages i behind learned(j), then over the tasks.

    Above 0 is forgetting. It sees what was lost on the way, BWT the last stage alone. Source: NBT of LIBERO (Liu et al.
    2023, arXiv 2306.03310), over the tasks that have a later stage.

    Raises:
        ValueError: no task was learned before the last stage.
    """
    checked, stages = _checked(matrix, learned)
    earlier = _earlier(checked, stages)
    return float(np.mean([checked[stages[j], j] - checked[stages[j] + 1 :, j].mean() for j in earlier]))


def forward_transfer(
    matrix: Matrix, start: Float[np.ndarray[Any, Any], " tasks"], learned: Sequence[int] | None = None
) -> float:
    """Average R[learned(j) − 1, j] − start[j] over the tasks that were not learned in stage 0.

    It is what earlier tasks have taught of a later one before that is trained; ``start`` is the success without any
    training. Source: FWT of Lopez-Paz & Ranzato 2017, arXiv 1706.08840, eq. (4). LIBERO and Continual World give this
    name to another measure: :func:`learning_success` and :func:`normalized_transfer`.

    Raises:
        ValueError: every task was learned in stage 0, or ``start`` is not one fraction per task.
    """
    checked, stages = _checked(matrix, learned)
    untrained = np.asarray(start, dtype=np.float64)
    if untrained.shape != checked.shape[1:]:
        raise ValueError(f"start has the shape {untrained.shape}, expected one fraction for {checked.shape[1]} tasks")
    later = [task for task, stage in enumerate(stages) if stage > 0]
    if not later:
        raise ValueError("every task was learned in stage 0: no task was transferred to")
    return float(np.mean([checked[stages[task] - 1, task] - untrained[task] for task in later]))


def learning_success(curves: Sequence[Float[np.ndarray[Any, Any], " checkpoints"]]) -> float:
    """Average the success on every task over the checkpoints of its own training, then over the tasks.

    Source: FWT of LIBERO (Liu et al. 2023, arXiv 2306.03310), where the checkpoints are evenly spaced and
    the first is untrained on the task.
    """
    return float(np.mean([_curve(curve).mean() for curve in curves]))


def area_under_success(
    matrix: Matrix,
    curves: Sequence[Float[np.ndarray[Any, Any], " checkpoints"]] | None = None,
    learned: Sequence[int] | None = None,
) -> float:
    """Average the success on a task while it is learned and after every later stage, then average over the tasks.

    AUC_j = (l_j + Σ_{i > learned(j)} R[i, j]) / (1 + number of later stages), where l_j is the mean of ``curves[j]``.
    Without curves it is R[learned(j), j]. Source: AUC of LIBERO (Liu et al. 2023, arXiv 2306.03310).

    Raises:
        ValueError: there is not one curve per task.
    """
    checked, stages = _checked(matrix, learned)
    if curves is not None and len(curves) != checked.shape[1]:
        raise ValueError(f"{len(curves)} curves for {checked.shape[1]} tasks: give one for each")
    while_learning = [
        checked[stage, task] if curves is None else _curve(curves[task]).mean() for task, stage in enumerate(stages)
    ]
    return float(np.mean([np.mean([first, *checked[stages[j] + 1 :, j]]) for j, first in enumerate(while_learning)]))


def normalized_transfer(
    curve: Float[np.ndarray[Any, Any], " checkpoints"], reference: Float[np.ndarray[Any, Any], " checkpoints"]
) -> float:
    """Compare how fast a task was learned with ``reference``, its training alone: (AUC − AUC_ref) / (1 − AUC_ref).

    An AUC is the mean of a curve of successes over evenly spaced checkpoints. 0 is as fast, 1 knew it before. Source:
    forward transfer of Continual World (Wołczyk et al. 2021, arXiv 2105.10919).

    Raises:
        ValueError: the reference succeeds from its first checkpoint on, so nothing can be faster.
    """
    alone = _curve(reference).mean()
    if alone == 1:
        raise ValueError("the reference succeeds at every checkpoint: transfer to this task cannot be measured")
    return float((_curve(curve).mean() - alone) / (1 - alone))


def _checked(matrix: Matrix, learned: Sequence[int] | None) -> tuple[Float64[np.ndarray[Any, Any], "i j"], list[int]]:
    checked = np.asarray(matrix, dtype=np.float64)
    if checked.ndim != 2 or not checked.size or not ((checked >= 0) & (checked <= 1)).all():
        raise ValueError(f"matrix has the shape {checked.shape}: expected fractions in [0, 1], a row for every stage")
    stages: Int[np.ndarray[Any, Any], " tasks"] = (
        np.arange(checked.shape[1]) if learned is None else np.asarray(learned)
    )
    if stages.shape != checked.shape[1:] or not ((stages >= 0) & (stages < len(checked))).all():
        raise ValueError(
            f"learned is {stages.tolist()}: name one of the stages 0 to {len(checked) - 1} for each of "
            f"{checked.shape[1]} tasks"
        )
    return checked, stages.tolist()


def _earlier(matrix: Matrix, stages: Sequence[int]) -> list[int]:
    found = [task for task, stage in enumerate(stages) if stage < len(matrix) - 1]
    if not found:
        raise ValueError("every task was learned in the last stage: nothing could be forgotten")
    return found


def _curve(curve: Float[np.ndarray[Any, Any], " checkpoints"]) -> Float64[np.ndarray[Any, Any], " checkpoints"]:
    checked = np.asarray(curve, dtype=np.float64)
    if checked.ndim != 1 or not checked.size or not ((checked >= 0) & (checked <= 1)).all():
        raise ValueError(f"a curve has the shape {checked.shape}: expected at least one fraction in [0, 1]")
    return checked
