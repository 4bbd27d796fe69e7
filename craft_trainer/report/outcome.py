"""Sum up a training run in a few lines: was the constraint met, what moved, what to change."""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from craft_trainer.report.history import course
from craft_trainer.report.remarks import LEARNED
from craft_trainer.report.run import HISTORY_FILE, Run, load_run, teachers_scale
from craft_trainer.report.wording import percent, short, short_percent

GROUPS_FILE = "lambda_history_groups.csv"
CRAFT = "craft"  # the only method with a constraint
NO_PASS = "no retention pass was made: retention_every is longer than the run"
LOOSER = (
    "train longer, raise multiplier_lr, allow more by a lower retention (a larger epsilon), or lower learning_rate "
    "(which slows what is learned, too)"
)


class Constraint(NamedTuple):
    """Whether L_retain ended within ε, and the sentence that says so."""

    met: bool
    sentence: str


def outcome(folder: Path) -> list[str]:
    """Read what the run in ``folder`` left, and say what came of it."""
    if made_no_pass(folder):
        return [NO_PASS]
    try:
        run = load_run(folder)
    except ValueError as error:  # the training itself is done and saved
        return [f"what came of it cannot be told: {error}"]
    ended = constraint(run)
    lines = [ended.sentence, *([] if ended.met else [f"to meet it: {LOOSER}"])]
    losses, fell = run.losses[1], run.fall_of_loss
    if fell is not None:
        moved = f"the task loss went from {losses[0]:.3g} to {losses[-1]:.3g}"
        lines.append(f"learned: {moved}" if fell >= LEARNED else f"little or nothing was learned: {moved}")
    else:
        lines.append("whether anything was learned is not told: too few task losses were logged (lower logging_steps)")
    return lines


def made_no_pass(folder: Path) -> bool:
    """True if the history in ``folder`` is a header alone."""
    history = folder / HISTORY_FILE
    return history.is_file() and len(history.read_text("utf-8").splitlines()) < 2


def constraint(run: Run) -> Constraint:
    """Say whether L_retain was within ε over the last tenth of the retention passes; of every group, where it is known.

    Means over the passes, as on the page of `craft-trainer report`; up to the step whose weights are kept, where those
    are not the last. A baseline has no constraint that it could miss.
    """
    if run.history is None:
        return Constraint(True, "nothing held the old tasks: this was plain training, without anchors")
    ended = course({0: run.history.until(run.kept_step)})
    at = "" if run.kept_step in (None, run.step) else f" at step {run.kept_step}, whose weights are kept"
    if (method := run.settings.get("method", CRAFT)) != CRAFT:
        loss, weight = short(ended.retention_loss), short(ended.multiplier)
        return Constraint(True, f"method {method} has no constraint: its loss ended at {loss}, weighed by {weight}")
    numbers = f"L_retain {short_percent(ended.retention_loss)} % of the teacher's {teachers_scale(run.units)}"
    numbers += f", ε {short_percent(ended.epsilon)} %, λ {short(ended.multiplier)}"
    conflicts = "" if ended.conflict != ended.conflict else f"; conflicts in {percent(ended.conflict)} % of the steps"
    ratios = ratios_of(run.path / GROUPS_FILE, run.kept_step)
    above = {name: ratio for name, ratio in ratios.items() if not ratio <= 1}
    if not (above or not ended.kept):
        of_all = f" for all {len(ratios)} old tasks" if len(ratios) > 1 else ""
        return Constraint(True, f"the constraint was met{of_all}{at}: {numbers}{conflicts}")
    missed = "; ".join(f"{name} is at {ratio:.2g} × ε" for name, ratio in above.items())
    of_some = f" for {len(above)} of {len(ratios)} old tasks ({missed})" if above else ""
    return Constraint(False, f"the constraint was NOT met{of_some}{at}: {numbers}{conflicts}")


def ratios_of(groups: Path, until: int | None = None) -> dict[str, float]:
    """Mean L_retain / ε of every group over the last tenth of its passes; none without a constraint per group.

    Passes after step ``until`` do not count, if it is given.
    """
    if not groups.is_file():
        return {}
    passes: dict[str, list[float]] = defaultdict(list)
    with groups.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if until is not None and float(row["step"]) > until:
                continue
            passes[row["group"]].append(float(row["retention_loss"]) / float(row["epsilon"]))
    return {group: fmean(values[-max(1, len(values) // 10) :]) for group, values in passes.items()}
