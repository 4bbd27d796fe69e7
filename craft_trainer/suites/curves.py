"""How fast the new task is learned: success over the steps of one run, and its steps beside those of plain."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from craft_trainer.report.tables import Table
from craft_trainer.report.wording import DASH
from craft_trainer.suites.runs import Run, by_method

SHARE = 0.9  # of the success with which plain fine-tuning ends
RIVAL = "plain"
ROUNDING = 1e-9  # of a mean over seeds: 0.85 and 0.95 make a little less than 0.9


class Curve(NamedTuple):
    """One method on one stream: success on the new tasks, a fraction, of every seed after each of ``steps``."""

    label: str
    steps: Sequence[int]
    seeds: Mapping[int, Sequence[float]]

    def mean(self, seeds: Iterable[int] | None = None) -> list[float]:
        """Success averaged over ``seeds``, by default all."""
        return [float(mean) for mean in np.mean([self.seeds[seed] for seed in seeds or self.seeds], axis=0)]


class Steps(NamedTuple):
    """The steps to a success; ``at_most`` where it was there at the first evaluation, which may be long after."""

    steps: float
    at_most: bool


class Beside(NamedTuple):
    """The steps of a method and of plain to 90 % of the success with which plain ends, on the ``seeds`` of both.

    Attributes:
        mine: None where the method never gets there, in ``last`` steps.
        ratio: of the two, at least, where plain's steps are an upper bound; None where ``mine`` are one, or None.
    """

    seeds: Sequence[int]
    mine: Steps | None
    plain: Steps
    last: int

    @property
    def ratio(self) -> float | None:
        return None if self.mine is None or self.mine.at_most else self.mine.steps / self.plain.steps

    @property
    def is_slower(self) -> bool:
        """More steps than plain, or never there; False also where both were there at the first evaluation."""
        return self.mine is None or self.mine.steps > self.plain.steps


def first_at(steps: Sequence[int], rates: Sequence[float], success: float) -> Steps | None:
    """Where ``rates`` first are at ``success``, by straight lines between evaluations; None where they never are."""
    for i, (end, rate) in enumerate(zip(steps, rates, strict=True)):
        if rate >= success - ROUNDING:
            if i == 0:
                return Steps(end, at_most=True)
            share = min(1.0, (success - rates[i - 1]) / (rate - rates[i - 1]))
            return Steps(steps[i - 1] + share * (end - steps[i - 1]), at_most=False)
    return None


def curves(runs: Sequence[Run]) -> dict[str, dict[str, Curve]]:
    """Curves by stream and method.

    Raises:
        ValueError: no run was evaluated after several steps.
    """
    found: dict[str, dict[str, Curve]] = {}
    for stream in sorted({run.stream for run in runs if run.steps}):
        for method, mine in by_method(run for run in runs if run.steps and run.stream == stream).items():
            curve = Curve(mine[0].label, mine[0].steps, {run.seed: run.curve() for run in mine})
            found.setdefault(stream, {})[method] = curve
    if not found:
        raise ValueError("no stream has steps after which its new tasks were evaluated: there is no curve")
    return found


def beside_plain(found: Mapping[str, Curve], method: str) -> Beside | None:
    """Compare a method with plain on one stream; None where they share no seed, or plain learned nothing with these.

    Raises:
        ValueError: the stream has no ``plain``.
    """
    if RIVAL not in found:
        raise ValueError(f"a stream has no runs of {RIVAL}, beside which steps are counted: choose it by `of`")
    plain, mine = found[RIVAL], found.get(method)
    shared = [seed for seed in plain.seeds if mine is not None and seed in mine.seeds]
    if mine is None or not shared or not plain.mean(shared)[-1]:
        return None
    success = SHARE * plain.mean(shared)[-1]
    there = first_at(plain.steps, plain.mean(shared), success)
    assert there is not None, "plain ends above a part of its own success"
    return Beside(shared, first_at(mine.steps, mine.mean(shared), success), there, mine.steps[-1])


def steps_table(runs: Sequence[Run]) -> Table:
    """Tabulate the steps to 90 % of the success with which plain ends, stream by stream, and their ratio to plain's.

    Raises:
        ValueError: see :func:`curves` and :func:`beside_plain`.
    """
    by_stream = curves(runs)
    rows = []
    for method, mine in by_method(run for run in runs if run.steps).items():
        cells = [_cell(beside_plain(found, method)) for found in by_stream.values()]
        rows.append((mine[0].label, *cells))
    return Table("", ("method", *by_stream), rows)


def _cell(found: Beside | None) -> str:
    """``720 (3.79), seeds 0, 1``."""
    if found is None:
        return DASH
    seeds = f", seed{'s' * (len(found.seeds) > 1)} {', '.join(map(str, found.seeds))}"
    if found.mine is None:
        return f"not in {found.last:,}{seeds}"
    at_most = "≤ " * found.mine.at_most
    ratio = "" if found.ratio is None else f" ({'≥ ' * found.plain.at_most}{found.ratio:.2f})"
    return f"{at_most}{found.mine.steps:.0f}{ratio}{seeds}"
