"""lambda_history.csv: what the constraint did at every optimizer step of the craft run."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from craft_trainer.report.results import Results

type Series = NDArray[np.float64]  # shape [steps]
type Trajectory = Mapping[int, History]  # seed → history; a single training run is seed 0

COLUMNS = ("step", "retention_loss", "multiplier", "epsilon", "cosine", "conflict", "update_cosine")
MEASURED = ("retention_loss", "epsilon", "multiplier", "conflict", "cosine", "update_cosine")
NUM_MOMENTS = 11  # rows of the table that stands for a figure: start, end and every tenth between
SPARSE = ("cosine", "conflict", "update_cosine")  # all blank with backward joint, the last between its measurements


@dataclass(frozen=True)
class History:
    """One seed's columns, each of shape [steps], steps ascending.

    ``retention_loss`` and ``epsilon`` are fractions of the teacher's variance, ``conflict`` is the fraction of
    parameter blocks in conflict (0 or 1 where the model is one), ``cosine`` is in [−1, 1]. ``retention_loss`` may be
    infinite or NaN where training diverged, ``cosine`` NaN at a zero gradient. With ``backward`` joint, ``cosine`` and
    ``conflict`` are NaN: there is one gradient. ``update_cosine``, of the optimizer's
    step and the retention gradient, is NaN where it was not measured; above 0 the step raises L_retain.
    """

    step: Series
    retention_loss: Series
    multiplier: Series
    epsilon: Series
    cosine: Series
    conflict: Series
    update_cosine: Series

    def until(self, step: int | None) -> "History":
        """What it was up to ``step``; all of it if that is None, or before the first pass."""
        end = len(self.step) if step is None else int(np.sum(self.step <= step))
        return History(*(getattr(self, name)[: end or None] for name in COLUMNS))

    def last_tenth(self) -> "History":
        """The last tenth of the steps, at least one."""
        start = len(self.step) - max(1, len(self.step) // 10)
        return History(*(getattr(self, name)[start:] for name in COLUMNS))

    def measured_angles(self) -> tuple[Series, Series]:
        """(steps, update_cosine) of the steps at which the optimizer's step was compared with the gradient."""
        known = np.isfinite(self.update_cosine)
        return self.step[known], self.update_cosine[known]


def history_path(results: Results, seed: int) -> Path:
    """The history file of the craft run of ``seed``: seed{N}/craft/lambda_history.csv beside results.json."""
    return results.path.parent / f"seed{seed}" / "craft" / "lambda_history.csv"


def load_history(path: Path) -> History:
    """Read one file; ValueError names the file, the line and the column."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:  # what is replaced is no number
        reader = csv.DictReader(file)
        try:
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
            values = [[_number(row[name], path, reader.line_num, name) for name in COLUMNS] for row in reader]
        except csv.Error as error:
            raise ValueError(f"{path}: line {reader.line_num} is not CSV ({error}); remove it") from error
    if not values:
        raise ValueError(f"{path}: a header and no steps; remove the file to write the report without it")
    history = History(*np.array(values, dtype=np.float64).T)
    rules = {
        f"{name} has values that are not finite": np.isfinite(getattr(history, name))
        for name in ("step", "multiplier", "epsilon")
    } | {
        "step does not ascend; two runs wrote to one file, keep one of them": np.diff(history.step) > 0,
        "conflict has values outside [0, 1]; it is a fraction": ~((history.conflict < 0) | (history.conflict > 1)),
        "update_cosine has values outside [-1, 1]; it is a cosine": ~(np.abs(history.update_cosine) > 1),
    }
    for problem, holds in rules.items():
        if not np.all(holds):
            raise ValueError(f"{path}: column {problem}")
    return history


def _number(text: str | None, path: Path, line: int, column: str) -> float:
    try:
        return float(text or ("nan" if column in SPARSE else ""))
    except ValueError as error:
        raise ValueError(f"{path}: line {line}, column {column} is {text!r}, expected a number") from error


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
        """True if every seed ended within its budget."""
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
        conflict=mean(_joined(histories, "conflict")),
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
