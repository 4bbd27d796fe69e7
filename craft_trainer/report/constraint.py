"""Whether L_retain ended within ε: of a run, and of every old task that has a constraint of its own."""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from craft_trainer.report.history import course
from craft_trainer.report.run import Run, teachers_scale
from craft_trainer.report.wording import percent, short, short_percent

MOST_NAMED = 5
GROUPS_FILE = "lambda_history_groups.csv"


class Constraint(NamedTuple):
    """Whether L_retain ended within ε, and the sentence that says so."""

    met: bool
    sentence: str


def constraint(run: Run) -> Constraint:
    """Say whether L_retain was within ε over the last tenth of the retention passes; of every group, where it is known.

    Means over the passes, as on the page of `craft-trainer report`; up to the step whose weights are kept, where those
    are not the last. A baseline has no constraint that it could miss.
    """
    if run.history is None:
        return Constraint(True, "nothing held the old tasks: this was plain training, without anchors")
    ended = course({0: run.history.until(run.kept_step)})
    at = "" if run.kept_step in (None, run.step) else f" at step {run.kept_step}, whose weights are kept"
    if run.constrained is None:
        loss, weight = short(ended.retention_loss), short(ended.multiplier)
        return Constraint(True, f"method {run.method} has no constraint: its loss ended at {loss}, weighed by {weight}")
    numbers = f"L_retain {short_percent(ended.retention_loss)} % of {teachers_scale(run.units)}"
    numbers += f", ε {short_percent(ended.epsilon)} %, λ {short(ended.multiplier)}"
    conflicts = "" if ended.conflict != ended.conflict else f"; conflicts in {percent(ended.conflict)} % of the steps"
    ratios, missed = ratios_of(run.path, run.kept_step), missed_tasks(run.path, run.kept_step)
    unmeasured = unmeasured_tasks(run)
    numbers += conflicts + (f"; {unmeasured}" if unmeasured else "")
    if missed or not ended.kept:
        return Constraint(False, f"the constraint was NOT met{missed}{at}: {numbers}")
    met_by = f" for all {len(ratios)} old tasks" if len(ratios) > 1 else ""
    if unmeasured:
        met_by = f" for the {len(ratios)} of {len(run.groups)} old tasks that were measured"
    return Constraint(True, f"the constraint was met{met_by}{at}: {numbers}")


def unmeasured_tasks(run: Run) -> str:
    """Name the old tasks with a constraint of their own that were in no retention pass; empty where there is none."""
    measured = ratios_of(run.path, run.kept_step)
    never = [name for name in run.groups if name not in measured]
    names = ", ".join(never[:MOST_NAMED]) + (" and others" if len(never) > MOST_NAMED else "")
    advice = "raise retention_batch_size, or train longer"
    of_all = f"{len(never)} of {len(run.groups)} old tasks"
    return f"{of_all} were in no retention pass ({names}): {advice}" if never else ""


def missed_tasks(folder: Path, until: int | None = None) -> str:
    """Name the old tasks of the run in ``folder`` that ended above their own ε; empty where none did.

    It is a piece of a sentence, `` for 1 of 2 old tasks (door is at 1.8 × ε)``. See :func:`ratios_of`.
    """
    ratios = ratios_of(folder, until)
    above = [f"{name} is at {ratio:.2g} × ε" for name, ratio in ratios.items() if not ratio <= 1]
    return f" for {len(above)} of {len(ratios)} old tasks ({'; '.join(above)})" if above else ""


def last_multiplier(run: Run) -> float:
    """λ at the end of a run with a constraint; the largest of those of its old tasks, where each has its own."""
    found = {row["group"]: float(row["multiplier"]) for row in _passes_of_groups(run.path, run.kept_step)}
    assert run.constrained is not None
    return max(found.values(), default=float(run.constrained.multiplier[-1]))


def _passes_of_groups(folder: Path, until: int | None) -> list[dict[str, str]]:
    """The rows of every group up to step ``until``, if it is given; none without a constraint per group."""
    groups = folder / GROUPS_FILE
    if not groups.is_file():
        return []
    with groups.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if until is None or float(row["step"]) <= until]


def ratios_of(folder: Path, until: int | None = None) -> dict[str, float]:
    """Mean L_retain / ε of every group over the last tenth of its passes; none without a constraint per group.

    Passes after step ``until`` do not count, if it is given.
    """
    passes: dict[str, list[float]] = defaultdict(list)
    for row in _passes_of_groups(folder, until):
        if float(row["epsilon"]) > 0:  # there is no ε until epsilon_probe_steps have found one
            passes[row["group"]].append(float(row["retention_loss"]) / float(row["epsilon"]))
    return {group: fmean(values[-max(1, len(values) // 10) :]) for group, values in passes.items()}
