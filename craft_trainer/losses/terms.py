"""The retention terms by name: a new one is a file beside this one, and a line here."""

from craft_trainer.losses.hidden import Hidden
from craft_trainer.losses.output import Output
from craft_trainer.losses.task import Task
from craft_trainer.losses.term import LossSettings, RetentionTerm
from craft_trainer.losses.token_ce import TokenCE
from craft_trainer.losses.token_kl import TokenKL

TERMS: dict[str, type[RetentionTerm]] = {term.name: term for term in (Hidden, Output, TokenCE, TokenKL, Task)}


def units(settings: LossSettings) -> list[str]:
    """List what the terms of ``settings`` are fractions of, each once."""
    return sorted({TERMS[name].configured(settings).unit for name in settings.term_weights})
