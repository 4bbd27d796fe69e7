"""A trajectory in a few numbers: where L_retain and λ ended, how often the gradients conflicted, at what angles."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import acos, degrees

import numpy as np

from craft_trainer.report.history import History, Series

NUM_MOMENTS = 11  # rows of the table that stands for a figure: start, end and every tenth between


@dataclass(frozen=True)
class Course:
    """One trajectory, its seeds together; losses and ε in fractions of the teacher's variance.

    ``retention_loss`` is the mean over the last tenth of the steps, ``epsilon`` and ``multiplier`` are the last
    values: medians over seeds. ``above`` and ``conflict`` are fractions of all steps, ``cosine`` and ``update_cosine``
    means over them, NaN where none was measured. ``num_kept`` of ``num_seeds`` ended within their budget.
    """

    num_seeds: int
    num_steps: int
    retention_loss: float
    epsilon: float
    multiplier: float
    above: float
    conflict: float
    cosine: float
    update_cosine: float
    num_kept: int
    diverged: bool

    @property
    def kept(self) -> bool:
        """Whether every seed ended within its budget."""
        return self.num_kept == self.num_seeds


def course(histories: Mapping[int, History]) -> Course:
    """The numbers of at least one history."""
    tails = [history.last_tenth() for history in histories.values()]
    losses = [mean(tail.retention_loss) for tail in tails]
    every = histories.values()
    return Course(
        num_seeds=len(tails),
        num_steps=max(len(history.step) for history in every),
        retention_loss=float(np.median(losses)),
        epsilon=float(np.median([tail.epsilon[-1] for tail in tails])),
        multiplier=float(np.median([tail.multiplier[-1] for tail in tails])),
        above=float(np.concatenate([~(history.retention_loss <= history.epsilon) for history in every]).mean()),
        conflict=float(np.concatenate([history.conflict for history in every]).mean()),
        cosine=mean(np.concatenate([history.cosine for history in every])),
        update_cosine=mean(np.concatenate([history.update_cosine for history in every])),
        num_kept=sum(_ends_within(tail) for tail in tails),
        diverged=any(not np.all(np.isfinite(history.retention_loss)) for history in every),
    )


def _ends_within(tail: History) -> bool:
    return bool(np.all(np.isfinite(tail.retention_loss)) and mean(tail.retention_loss) <= mean(tail.epsilon))


@dataclass(frozen=True)
class Moment:
    """The mean over a part of training that ends at ``step``; NaN where nothing was measured in it."""

    step: int
    retention_loss: float
    epsilon: float
    multiplier: float
    conflict: float
    cosine: float
    update_cosine: float


def moments(histories: Mapping[int, History]) -> list[Moment]:
    """The first step, then at most ten equal parts of the steps, each the mean over it and over the seeds."""
    names = ("retention_loss", "epsilon", "multiplier", "conflict", "cosine", "update_cosine")
    steps = np.unique(np.concatenate([history.step for history in histories.values()]))
    parts = [steps[:1], *(part for part in np.array_split(steps[1:], NUM_MOMENTS - 1) if len(part))]
    found = []
    for part in parts:
        within = [(h.step >= part[0]) & (h.step <= part[-1]) for h in histories.values()]
        values = (
            mean(
                np.concatenate([getattr(h, name)[inside] for h, inside in zip(histories.values(), within, strict=True)])
            )
            for name in names
        )
        found.append(Moment(int(part[-1]), *values))
    return found


def mean(values: Series) -> float:
    """Mean of the finite values, NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def angle(cosine: float) -> float:
    """The angle of a cosine in degrees, from 0 to 180."""
    return degrees(acos(max(-1.0, min(1.0, cosine))))
