"""Sum up a training run in a few lines: was the constraint met, what moved, what to change."""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from craft_trainer.report.run import Run

GROUPS_FILE = "lambda_history_groups.csv"
LOOSER = (
    "allow more by a lower retention (a larger epsilon), raise multiplier_lr, or lower learning_rate (which slows what "
    "is learned, too)"
)


def verdict(folder: Path) -> list[str]:
    """Read what the run in ``folder`` left, and say what came of it."""
    from craft_trainer.report.remarks import LEARNED
    from craft_trainer.report.run import HISTORY_FILE, load_run

    history = folder / HISTORY_FILE
    if history.is_file() and len(history.read_text("utf-8").splitlines()) < 2:
        return ["no retention pass was made: retention_every is longer than the run"]
    try:
        run = load_run(folder)
    except ValueError as error:  # the training itself is done and saved
        return [f"what came of it cannot be told: {error}"]
    lines = constraint(run, folder / GROUPS_FILE)
    losses, fell = run.losses[1], run.fall_of_loss
    if fell is not None:
        moved = f"the task loss went from {losses[0]:.3g} to {losses[-1]:.3g}"
        lines.append(f"learned: {moved}" if fell >= LEARNED else f"little or nothing was learned: {moved}")
    else:
        lines.append("whether anything was learned is not told: too few task losses were logged (lower logging_steps)")
    return lines


def constraint(run: "Run", groups: Path) -> list[str]:
    """Say whether L_retain was within ε over the last tenth of the retention passes; of every group, where it is known.

    Means over the passes, as on the page of `craft-trainer report`.
    """
    from craft_trainer.report.history import course
    from craft_trainer.report.run import teachers_scale
    from craft_trainer.report.wording import percent, short, short_percent

    if run.history is None:
        return ["nothing held the old tasks: this was plain training, without anchors"]
    ended = course({0: run.history})
    numbers = f"L_retain {short_percent(ended.retention_loss)} % of the teacher's {teachers_scale(run.units)}"
    numbers += f", ε {short_percent(ended.epsilon)} %, λ {short(ended.multiplier)}"
    conflicts = "" if ended.conflict != ended.conflict else f"; conflicts in {percent(ended.conflict)} % of the steps"
    ratios = ratios_of(groups)
    above = {name: ratio for name, ratio in ratios.items() if not ratio <= 1}
    if not (above or not ended.kept):
        of_all = f" for all {len(ratios)} old tasks" if len(ratios) > 1 else ""
        return [f"the constraint was met{of_all}: {numbers}{conflicts}"]
    missed = "; ".join(f"{name} is at {ratio:.2g} × ε" for name, ratio in above.items())
    of_some = f" for {len(above)} of {len(ratios)} old tasks ({missed})" if above else ""
    return [f"the constraint was NOT met{of_some}: {numbers}{conflicts}", f"to meet it: {LOOSER}"]


def ratios_of(groups: Path) -> dict[str, float]:
    """Mean L_retain / ε of every group over the last tenth of its passes; none without a constraint per group."""
    if not groups.is_file():
        return {}
    passes: dict[str, list[float]] = defaultdict(list)
    with groups.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            passes[row["group"]].append(float(row["retention_loss"]) / float(row["epsilon"]))
    return {group: fmean(values[-max(1, len(values) // 10) :]) for group, values in passes.items()}
