"""What `train` does for every family of models: settings that the family decides, questions, and the training."""

import sys
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from craft_trainer.options import default_of, help_of, option
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.language_config import LanguageConfig

if TYPE_CHECKING:
    from craft_trainer.training.trainer import CraftTrainer


def _by_family(name: str) -> Any:
    """Make the field ``name`` of a configuration without a default; its help names that of each family."""
    usual, of_texts = (kind.__dataclass_fields__[name] for kind in (CraftConfig, LanguageConfig))
    return option(
        f"{help_of(usual)}; by default {_shown(usual)} of a policy, {_shown(of_texts)} of a language model", None
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
        for name, value in vars(self.of(CraftConfig)).items():
            if not self._is_open(name):
                setattr(self, name, value)

    def of[Config: CraftConfig](self, family: type[Config]) -> Config:
        """Make the configuration of a ``family``, with its own defaults where nothing is given."""
        return family(**{name: value for name, value in self.given.items() if not self._is_open(name)})

    def _is_open(self, name: str) -> bool:
        return name in TrainConfig.__annotations__ and self.given[name] is None


@dataclass(kw_only=True)
class AskArguments:
    """Questions that show what the model still knows."""

    heading = "questions while training"
    mcq_data: str | None = option(
        "multiple-choice questions to ask while training (of policies pi0_fast and smolvla): JSON lines, a folder or a "
        "Hub dataset",
        None,
    )
    mcq_steps: int = option("optimizer steps from one time they are asked to the next; ≥ 1", 500)
    mcq_limit: int = option("only so many questions, from the start", 100)


def begin(config: "CraftConfig") -> None:
    """Seed everything; without a terminal show no progress bar, and Trainer prints its logs a line each.

    Memory is pinned for an accelerator only: torch warns otherwise.
    """
    from transformers import set_seed

    set_seed(config.seed)
    if not sys.stderr.isatty():
        config.disable_tqdm = True
    if config.device.type == "cpu":
        config.dataloader_pin_memory = False


def train_and_save(
    trainer: "CraftTrainer", arguments: AskArguments, resumed: str | None, processor: Any = None
) -> None:
    """Train, from the checkpoint ``resumed`` if there is one, asking the questions of ``mcq_data``; save and push.

    Raises:
        ValueError: a question is bad, or the policy has no language model to ask.
    """
    from craft_trainer.cli.output import save_and_push
    from craft_trainer.evaluation.choices.opening import policy_reader
    from craft_trainer.evaluation.mcq_callback import McqCallback
    from craft_trainer.evaluation.questions import read_questions
    from craft_trainer.training.guards import FiniteWeights
    from craft_trainer.training.run_record import changed_fields

    if trainer.retention is None:
        trainer.add_callback(FiniteWeights())
    trainer.record_run(changed_fields(arguments) | source_of(trainer))
    if arguments.mcq_data is not None:
        if processor is None:
            policy_reader(trainer.model)
        questions = read_questions(arguments.mcq_data, limit=arguments.mcq_limit).items
        trainer.add_callback(McqCallback(trainer, processor, questions, steps=arguments.mcq_steps))
    trainer.train(resume_from_checkpoint=resumed)
    save_and_push(trainer)


def source_of(trainer: "CraftTrainer") -> dict[str, str]:
    """Where the anchors of the run come from, if their cache says so."""
    from craft_trainer.anchors.cache import AnchorCache

    source = trainer.anchors.provenance.told_source() if isinstance(trainer.anchors, AnchorCache) else ""
    return {"anchors_source": source} if source else {}
