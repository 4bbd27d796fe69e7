"""ε over the retention passes of a run."""

import logging

from craft_trainer.optim.epsilon import epsilon_at
from craft_trainer.training.settings import RetentionSettings

logger = logging.getLogger(__name__)


def first_held(settings: RetentionSettings) -> int:
    """The optimizer step, counted from 0, of the first retention pass that holds: the first after the probe of ε."""
    return _next_pass(settings.epsilon_probe_steps, settings.retention_every)


def scheduled_epsilon(settings: RetentionSettings, step: int, max_steps: int) -> float:
    """ε at optimizer step ``step``, counted from 0, of a run of ``max_steps``.

    The first retention pass that holds has ``epsilon``, and so do those of the probe before it. The last retention pass
    of the run has ``epsilon_final``. With ``retention_every`` K the last one is at step K·⌊(max_steps − 1)/K⌋.
    """
    every, end = settings.retention_every, settings.epsilon_final
    return epsilon_at(
        step,
        first_held(settings),
        (max_steps - 1) // every * every,
        schedule=settings.epsilon_schedule,
        start=settings.epsilon,
        end=settings.epsilon if end is None else end,
    )


def smallest_epsilon(settings: RetentionSettings, group: str) -> float:
    """The smallest ε that ``group`` has in a run: its own, or that of one end of the schedule."""
    ends = [settings.epsilon] if settings.epsilon_final is None else [settings.epsilon, settings.epsilon_final]
    return settings.group_epsilons.get(group, min(ends))


def warn_of_another_end(settings: RetentionSettings, step: int, before: int, now: int) -> None:
    """Warn of a run resumed at ``step`` whose ε jumps, because it has ``now`` steps in all and had ``before``."""
    step = _next_pass(step, settings.retention_every)
    had, has = (scheduled_epsilon(settings, step, max_steps) for max_steps in (before, now))
    if had != has:
        logger.warning(
            "ε jumps from %.3g to %.3g at step %d: epsilon_schedule %s ends with the last retention pass, and the run "
            "has %d steps instead of %d. To keep ε where it is, set epsilon_schedule: constant and epsilon: %.3g%s",
            *(had, has, step + 1, settings.epsilon_schedule, now, before, had),
            "" if settings.retention is None else " in place of retention",
        )


def _next_pass(step: int, every: int) -> int:
    """The first step from ``step`` on that has a retention pass."""
    return -(-step // every) * every
