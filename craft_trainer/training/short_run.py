"""Warn before a run that is too short for λ to follow the violation."""

import logging
import math
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments

from craft_trainer.training.config import retention_settings
from craft_trainer.training.schedule import first_held
from craft_trainer.training.settings import RetentionSettings

FORGOTTEN = 5.0  # L_retain in units of ε: a run that forgets so much should raise λ
RISE = 1.0  # by so much at least, which doubles the λ that runs begin with
ADVISED = 10.0  # and by so much at the rate that is advised: twice the first λ was seen to hold too little
logger = logging.getLogger(__name__)


class ShortRun(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Warns at the start of a run in which λ could hardly move.

    Attributes:
        warned: whether it did.
    """

    warned = False
    _said: str | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Warn, unless the run goes on from a checkpoint.

        Raises:
            ValueError: the probe of ε takes the whole run, or the next retention pass is after its end: it would be
                plain training.
        """
        settings = retention_settings(args)
        if state.max_steps < 1:
            raise ValueError("the run has no steps: raise max_steps or num_train_epochs")
        if first_held(settings) >= state.max_steps:
            every = f" with retention_every {settings.retention_every}" if settings.retention_every > 1 else ""
            raise ValueError(
                f"epsilon_probe_steps is {settings.epsilon_probe_steps}, and the run has {state.max_steps} steps"
                f"{every}: nothing would be held. Give fewer, or train longer"
            )
        if 1 < settings.retention_every >= state.max_steps:
            raise ValueError(
                f"retention_every is {settings.retention_every}, and the run has {state.max_steps} steps: the only "
                "retention pass would come before the first of them. Give fewer, or train longer"
            )
        passes = math.ceil(state.max_steps / settings.retention_every)
        said = warning(settings, passes) if state.global_step == 0 and state.is_world_process_zero else None
        self.warned = said is not None
        if said is not None and said != self._said:  # auto_find_batch_size begins a run again
            logger.warning(said)
        self._said = said


def warning(settings: RetentionSettings, passes: int) -> str | None:
    """Say that λ cannot follow in so many retention ``passes``, and which ``multiplier_lr`` could; None if it can.

    λ rises by η·(L_retain − ε) in a pass, so by η·(FORGOTTEN − 1)·ε where L_retain is FORGOTTEN times ε.
    """
    recipe = settings.recipe
    if (
        recipe.multiplier == "fixed"
        or recipe.surgery == "barrier"
        or settings.merge == "equal"
        or settings.epsilon_probe_steps
    ):
        return None
    of_one_pass = (FORGOTTEN - 1) * settings.epsilon
    rise = settings.multiplier_lr * of_one_pass * passes
    if rise >= RISE:
        return None
    rate = ADVISED / (of_one_pass * passes)
    digit = 10 ** math.floor(math.log10(rate))
    enough = math.ceil(rate / digit) * digit
    return (
        f"λ can hardly follow in {passes} retention passes: with multiplier_lr = {settings.multiplier_lr:g} it "
        f"rises by {rise:.2g} in all while L_retain is {FORGOTTEN:g} times ε. Set multiplier_lr: {enough:g}, or train "
        "longer"
    )
