"""How fast the new task is learned: success over the steps of one run, and its steps beside those of plain."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from craft_trainer.report.tables import Table
from craft_trainer.report.wording import DASH
from craft_trainer.suites.runs import Run, by_method

SHARE = 0.9  # of the success with which plain fine-tuning ends
RIVAL = "plain"


class Curve(NamedTuple):
    """Mean success on the new tasks of one method on one stream after so many ``steps``, and that of every seed."""

    label: str
    steps: Sequence[int]
    mean: Sequence[float]
    seeds: Sequence[Sequence[float]]

    def reaches(self, success: float) -> float | None:
        """The steps after which the mean first is at ``success``, by straight lines between evaluations.

        It is the first evaluation where that is above it already, and None where it is never reached.
        """
        for i, (steps, mean) in enumerate(zip(self.steps, self.mean, strict=True)):
            if mean >= success:
                if i == 0:
                    return steps
                share = (success - self.mean[i - 1]) / (mean - self.mean[i - 1])
                return self.steps[i - 1] + share * (steps - self.steps[i - 1])
        return None


def curves(runs: Sequence[Run]) -> dict[str, dict[str, Curve]]:
    """Curves by stream and method.

    Raises:
        ValueError: no run was evaluated after several steps.
    """
    found: dict[str, dict[str, Curve]] = {}
    for stream in sorted({run.stream for run in runs if run.steps}):
        for name, mine in by_method(run for run in runs if run.steps and run.stream == stream).items():
            seeds = [run.curve() for run in mine]
            mean = np.mean(seeds, axis=0).tolist()
            found.setdefault(stream, {})[name] = Curve(mine[0].label, mine[0].steps, mean, seeds)
    if not found:
        raise ValueError("no stream has steps after which its new tasks were evaluated: there is no curve")
    return found


def steps_table(runs: Sequence[Run]) -> Table:
    """Tabulate the steps to 90 % of the success with which plain ends, stream by stream, and their ratio to plain's.

    The last column is the geometric mean of the ratios; it is left out where a stream has none.

    Raises:
        ValueError: a stream has no ``plain``.
    """
    by_stream = curves(runs)
    rows = []
    for method, mine in by_method(run for run in runs if run.steps).items():
        cells, ratios = [], list[float | None]()
        for found in by_stream.values():
            cell, ratio = _beside(found, method)
            cells.append(cell)
            ratios.append(ratio)
        known = [ratio for ratio in ratios if ratio is not None]
        whole = f"{np.exp(np.mean(np.log(known))):.2f}" if len(known) == len(ratios) else DASH
        rows.append((mine[0].label, str(len({run.seed for run in mine})), *cells, whole))
    return Table("", ("method", "seeds", *by_stream, "beside plain"), rows)


def _beside(found: dict[str, Curve], method: str) -> tuple[str, float | None]:
    """What a stream's cell says of a method, and the ratio of its steps to those of plain."""
    if RIVAL not in found:
        raise ValueError(f"a stream has no runs of {RIVAL}, beside which steps are counted: choose it by `of`")
    if method not in found:
        return DASH, None
    success = SHARE * found[RIVAL].mean[-1]
    mine, rival = found[method].reaches(success), found[RIVAL].reaches(success)
    if mine is None:
        return f"not in {found[method].steps[-1]:,}", None
    assert rival, "plain reaches a part of its own last success"
    return f"{mine:.0f} ({mine / rival:.2f})", mine / rival
