"""Warn at the end of a training whose constraint was not met, as the command does in its verdict."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from craft_trainer.report.constraint import constraint
from craft_trainer.report.outcome import made_no_pass, way_out
from craft_trainer.report.run import load_run
from craft_trainer.training.short_run import ShortRun

if TYPE_CHECKING:
    from craft_trainer.training.mixin import RetentionMixin

logger = logging.getLogger(__name__)


def warn_if_missed(trainer: "RetentionMixin") -> None:
    """Log a warning if L_retain ended above ε; the way out is in it, unless an earlier warning gave it already."""
    if trainer.retention is None or trainer.state.is_hyper_param_search or not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    if made_no_pass(folder):
        return
    try:
        run = load_run(folder)
        ended = constraint(run)
    except Exception as error:  # noqa: BLE001  # the training is done: no file that somebody wrote there may lose it
        logger.warning("whether the constraint was met cannot be told: %r", error)
        return
    if not ended.met:
        told = trainer.dual.warned or trainer.callback_of(ShortRun).warned
        logger.warning("%s; %s", ended.sentence, "an earlier warning says what to change" if told else way_out(run))
