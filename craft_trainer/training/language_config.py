"""CraftConfig with the defaults of language models."""

from dataclasses import dataclass
from typing import Any

from craft_trainer.options import help_of, option
from craft_trainer.training.config import CraftConfig


def _instead(name: str, default: Any, text: str | None = None) -> Any:
    """Make the field ``name`` of CraftConfig with another default, and perhaps another help text."""
    return option(text or help_of(CraftConfig.__dataclass_fields__[name]), default)


@dataclass
class LanguageConfig(CraftConfig):
    """Arguments of ``craft-trainer train``: a policy's defaults hold its actions, which a text does not have."""

    retention_terms: list[str] = _instead(
        "retention_terms",
        ["token_kl"],
        "what is held: token_kl (the teacher's token distribution), token_ce (its likeliest tokens), hidden (its "
        "features), task (the loss on the anchors' own labels), or several",
    )
    epsilon: float = _instead(
        "epsilon",
        0.05,
        "ε at the start, in units of the teacher's mean entropy (token_kl, token_ce) or of its variance (hidden): 0.05 "
        "is 5 %; > 0",
    )
    learning_rate: float = _instead("learning_rate", 2e-5)
