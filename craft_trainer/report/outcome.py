"""Sum up a training run in a few lines: was the constraint met, what moved, what to change."""

from pathlib import Path

from craft_trainer.report.constraint import constraint, last_multiplier
from craft_trainer.report.remarks import LEARNED
from craft_trainer.report.run import HISTORY_FILE, Run, load_run

NO_PASS = "no retention pass was made: retention_every is longer than the run"
LOOSER = "allow more by a lower retention (a larger epsilon), or lower learning_rate (which slows what is learned, too)"


def outcome(folder: Path) -> list[str]:
    """Read what the run in ``folder`` left, and say what came of it."""
    if made_no_pass(folder):
        return [NO_PASS]
    try:
        run = load_run(folder)
    except ValueError as error:  # the training itself is done and saved
        return [f"what came of it cannot be told: {error}"]
    ended = constraint(run)
    lines = [ended.sentence, *([] if ended.met else [way_out(run)])]
    losses, fell = run.losses[1], run.fall_of_loss
    if fell is not None:
        moved = f"the task loss went from {losses[0]:.3g} to {losses[-1]:.3g}"
        lines.append(f"learned: {moved}" if fell >= LEARNED else f"little or nothing was learned: {moved}")
    else:
        lines.append("whether anything was learned is not told: too few task losses were logged (lower logging_steps)")
    return lines


def way_out(run: Run) -> str:
    """Say what to change in a ``run`` that has missed its constraint: a λ at its ceiling rises no faster."""
    maximum = run.settings.get("multiplier_max")
    at_ceiling = isinstance(maximum, int | float) and last_multiplier(run) >= maximum
    rise = "raise multiplier_max, at which λ ended" if at_ceiling else "train longer, raise multiplier_lr"
    return f"to meet it: {rise}, {LOOSER}"


def made_no_pass(folder: Path) -> bool:
    """True if the history in ``folder`` is a header alone."""
    history = folder / HISTORY_FILE
    return history.is_file() and len(history.read_text("utf-8").splitlines()) < 2
