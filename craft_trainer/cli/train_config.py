"""The settings of `train` before the family of the model is known."""

from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from craft_trainer.cli.hints import ONE_DIAL
from craft_trainer.options import default_of, help_of, option
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.language_config import LanguageConfig


def _by_family(name: str) -> Any:
    """Make the field ``name`` of a configuration without a default; its help names that of each family."""
    usual, of_texts = (kind.__dataclass_fields__[name] for kind in (CraftConfig, LanguageConfig))
    return option(
        f"{help_of(usual).rstrip('.')}; by default {_shown(usual)} of a policy, {_shown(of_texts)} of a language model",
        None,
    )


def _shown(field: Any) -> str:
    default = default_of(field)
    return " ".join(default) if isinstance(default, list) else str(default)


@dataclass
class TrainConfig(CraftConfig):
    """Settings before the family of the model is known: what the family decides is None where it is not given."""

    retention_terms: list[str] | None = _by_family("retention_terms")  # type: ignore[assignment]
    epsilon: float | None = _by_family("epsilon")  # type: ignore[assignment]
    learning_rate: float | None = _by_family("learning_rate")

    def __post_init__(self) -> None:
        """Check what is given."""
        self.given = {field.name: getattr(self, field.name) for field in fields(self) if field.init}
        if self.retention is not None and self.epsilon is not None and self.epsilon_schedule == "constant":
            raise ValueError(ONE_DIAL.format(self.retention, self.epsilon))
        for name, value in vars(self._of_either()).items():
            if not self._is_open(name) or (name == "epsilon" and self.retention is not None):
                setattr(self, name, value)

    def _of_either(self) -> CraftConfig:
        """The configuration of the first family whose defaults go with what is given; else the refusal of the first."""
        try:
            return self.of(CraftConfig)
        except ValueError:
            with suppress(ValueError):
                return self.of(LanguageConfig)
            raise

    def of[Config: CraftConfig](self, family: type[Config]) -> Config:
        """Make the configuration of a ``family``, with its own defaults where nothing is given."""
        return family(**{name: value for name, value in self.given.items() if not self._is_open(name)})

    def _is_open(self, name: str) -> bool:
        return name in TrainConfig.__annotations__ and self.given[name] is None
