"""Train a model of any family, with questions asked along the way."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_trainer.options import option, refuse_idle

if TYPE_CHECKING:
    from craft_trainer.training.config import CraftConfig
    from craft_trainer.training.trainer import CraftTrainer

MOST_TASKS = 100  # that a run's record lists


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

    def __post_init__(self) -> None:
        if self.mcq_data is None:
            refuse_idle(self, ["mcq_steps", "mcq_limit"], "it is of the questions of mcq_data, and none is given")


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
    from craft_trainer.report.outcome import outcome
    from craft_trainer.training.console import write_short_lines
    from craft_trainer.training.run_record import changed_fields

    trainer.record_run(changed_fields(arguments) | source_of(trainer) | new_tasks_of(trainer))
    if arguments.mcq_data is not None:
        if processor is None:
            policy_reader(trainer.model)
        try:
            questions = read_questions(arguments.mcq_data, limit=arguments.mcq_limit).items
        except ValueError as error:
            if "--columns" in str(error):  # which is of the texts here
                error.add_note("that option is `craft-trainer mcq`'s: for mcq_data rename the columns")
            raise
        trainer.add_callback(McqCallback(trainer, processor, questions, steps=arguments.mcq_steps))
    write_short_lines(trainer)
    trainer.warns_if_missed = False  # the verdict below says it
    trainer.train(resume_from_checkpoint=resumed)
    save_and_push(trainer)
    if trainer.is_world_process_zero():
        print("\n".join(outcome(Path(trainer.args.output_dir))))


def source_of(trainer: "CraftTrainer") -> dict[str, str]:
    """The source of the run's anchors, if their cache names it."""
    from craft_trainer.anchors.cache import AnchorCache

    source = trainer.anchors.provenance.told_source() if isinstance(trainer.anchors, AnchorCache) else ""
    return {"anchors_source": source} if source else {}


def new_tasks_of(trainer: "CraftTrainer") -> dict[str, list[str]]:
    """Say which tasks a policy learns, as its dataset words them, unless they are too many to be listed."""
    from torch.utils.data import Subset

    from craft_trainer.report.run import NEW_TASKS

    learned = trainer.train_dataset
    meta = getattr(learned.dataset if isinstance(learned, Subset) else learned, "meta", None)
    tasks = [] if meta is None else list(map(str, meta.tasks.index))
    return {NEW_TASKS: tasks} if 0 < len(tasks) <= MOST_TASKS else {}
