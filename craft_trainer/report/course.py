"""A trajectory in a few numbers: where L_retain and λ ended, how often the gradients conflicted, at what angles."""

from dataclasses import dataclass

import numpy as np

from craft_trainer.report.history import Series, Trajectory

MEASURED = ("retention_loss", "epsilon", "multiplier", "conflict", "cosine", "update_cosine")
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


def course(histories: Trajectory) -> Course:
    """The numbers of at least one history."""
    tails = [history.last_tenth() for history in histories.values()]
    loss, epsilon = _joined(histories, "retention_loss"), _joined(histories, "epsilon")
    return Course(
        num_seeds=len(tails),
        num_steps=max(len(history.step) for history in histories.values()),
        retention_loss=float(np.median([mean(tail.retention_loss) for tail in tails])),
        epsilon=float(np.median([tail.epsilon[-1] for tail in tails])),
        multiplier=float(np.median([tail.multiplier[-1] for tail in tails])),
        above=float(np.mean(~(loss <= epsilon))),
        conflict=float(_joined(histories, "conflict").mean()),
        cosine=mean(_joined(histories, "cosine")),
        update_cosine=mean(_joined(histories, "update_cosine")),
        num_kept=sum(bool(np.mean(tail.retention_loss) <= np.mean(tail.epsilon)) for tail in tails),
        diverged=not np.all(np.isfinite(loss)),
    )


def _joined(histories: Trajectory, name: str) -> Series:
    return np.concatenate([getattr(history, name) for history in histories.values()])


def moments(histories: Trajectory) -> list[dict[str, float]]:
    """The first step, then at most ten equal parts of the steps: where each ends, and means over it and the seeds.

    A mean is NaN where nothing was measured.
    """
    every = _joined(histories, "step")
    steps = np.unique(every)
    parts = [steps[:1], *(part for part in np.array_split(steps[1:], NUM_MOMENTS - 1) if len(part))]
    found = []
    for part in parts:
        inside = (every >= part[0]) & (every <= part[-1])
        means = {name: mean(_joined(histories, name)[inside]) for name in MEASURED}
        found.append({"step": int(part[-1]), **means})
    return found


def mean(values: Series) -> float:
    """Mean of the finite values, NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
