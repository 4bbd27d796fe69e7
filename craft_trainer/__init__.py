"""Constrained Retention Fine-Tuning: learn a new task without losing the old ones."""

from craft_trainer.anchors.cache import AnchorCache  # what the teacher does on old-task samples, on disk
from craft_trainer.config import CraftConfig  # TrainingArguments with the settings of retention
from craft_trainer.trainer import CraftTrainer  # Trainer with two gradients, surgery and a multiplier

__all__ = ["AnchorCache", "CraftConfig", "CraftTrainer"]
__version__ = "0.1.0"
