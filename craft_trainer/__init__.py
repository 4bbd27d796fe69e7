"""Constrained Retention Fine-Tuning: learn a new task without losing the old ones."""

import importlib
from typing import TYPE_CHECKING, Any

from craft_trainer.version import __version__

if TYPE_CHECKING:
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.training.config import CraftConfig
    from craft_trainer.training.trainer import CraftTrainer, retaining, retaining_config

__all__ = ["AnchorCache", "CraftConfig", "CraftTrainer", "__version__", "retaining", "retaining_config"]

_HOMES = {
    "AnchorCache": "craft_trainer.anchors.cache",  # what the teacher does on old-task samples, on disk
    "CraftConfig": "craft_trainer.training.config",  # TrainingArguments with the settings of retention
    "CraftTrainer": "craft_trainer.training.trainer",  # Trainer with two gradients, surgery and a multiplier
    "retaining": "craft_trainer.training.trainer",  # the same of any other Trainer, as TRL's
    "retaining_config": "craft_trainer.training.trainer",  # and of its arguments
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``craft-trainer --help`` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
