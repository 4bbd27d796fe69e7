"""Training arguments with the settings of retention mixed in."""

import copy
import os
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch.utils.data import Subset
from transformers import PreTrainedModel, TrainingArguments

from craft_trainer.models.general import base_model
from craft_trainer.options import option
from craft_trainer.training.distribution import require_deepspeed, require_device_of_engine
from craft_trainer.training.learned_inputs import ComparableData
from craft_trainer.training.settings import RetentionSettings

MOST_ANCHORS = 64  # per device, where retention_batch_size is not set
SETTINGS = tuple(item.name for item in fields(RetentionSettings))


class RetentionArguments(RetentionSettings):
    """:class:`RetentionSettings` mixed into a class of training arguments.

    Attributes:
        renamed: the settings whose names the training arguments use for something else, each with its name here.
    """

    renamed: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        """Check both halves."""
        if int(os.environ.get("LOCAL_RANK", "-1")) >= 0 and not torch.accelerator.is_available():
            self.use_cpu = True  # without it accelerate takes the processes of a launcher for strangers
        require_deepspeed(self)
        super(RetentionSettings, self).__post_init__()  # type: ignore[misc]  # of the training arguments
        require_device_of_engine(self)
        self.retention_settings.check()

    @property
    def retention_settings(self) -> RetentionSettings:
        """The settings of retention as they are now, under their own names."""
        if not self.renamed:
            return self
        try:
            return RetentionSettings(**{name: getattr(self, self.renamed.get(name, name)) for name in SETTINGS})
        except ValueError as error:
            error.add_note(", ".join(f"{name} is called {here} here" for name, here in self.renamed.items()))
            raise

    def __getstate__(self) -> dict[str, Any]:
        """The pickled state: ``training_args.bin`` goes to the Hub, so it holds no token."""
        return self.__dict__ | {"hub_token": None}


@dataclass(repr=False)  # that of TrainingArguments shows no token
class CraftConfig(RetentionArguments, TrainingArguments):  # type: ignore[misc]  # transformers is not typed
    """``TrainingArguments`` with the settings of constrained retention. Without anchors these have no effect.

    Raises:
        ValueError: a value outside its range, naming the field and the way out.
    """

    remove_unused_columns: bool | None = option(
        "whether columns that the model's forward does not take are left out; by default those of a HuggingFace model "
        "are, as by Trainer, unless it takes none of them; policies, other modules and texts of this package keep all",
        None,
    )
    resume_from_checkpoint: str | None = option(
        "of the command, to go on with an interrupted run: last (the newest whole checkpoint in output_dir), or a "
        "checkpoint's folder; by default the run begins anew",
        None,
    )


def with_columns(trainer: Any) -> TrainingArguments:
    """The arguments of ``trainer``, with ``remove_unused_columns`` as its model and data need it; or as it is given.

    Of a HuggingFace model it is true, as in ``TrainingArguments``. It stays unset, which is false, of texts that this
    package reads, and of a dataset of which the model takes no column at all, which Trainer would refuse. The arguments
    may be those of another trainer as well, so a copy is changed.
    """
    args, data = trainer.args, trainer.train_dataset
    data = data.dataset if isinstance(data, Subset) else data
    theirs = isinstance(base_model(trainer.model), PreTrainedModel) and not isinstance(data, ComparableData)
    if args.remove_unused_columns is not None or not theirs:
        return args
    trainer._set_signature_columns_if_needed()
    columns = getattr(data, "column_names", None)
    if columns and not set(columns) & set(trainer._signature_columns):
        return args
    args = copy.copy(args)
    args.remove_unused_columns = True
    return args


def retention_settings(args: TrainingArguments) -> RetentionSettings:
    """The settings of retention in ``args``; the defaults where ``args`` know of none.

    Raises:
        AttributeError: a setting was hung on arguments that do not know it, where it would have no effect.
    """
    if isinstance(args, RetentionArguments):
        return args.retention_settings
    known = {item.name for item in fields(args)}
    if hung := sorted(set(SETTINGS) & vars(args).keys() - known):
        raise AttributeError(
            f"{hung[0]} is set on a {type(args).__name__}, which does not know it: use CraftConfig, or "
            f"craft_trainer.retaining_config({type(args).__name__})"
        )
    return RetentionSettings()


def anchors_per_pass(args: TrainingArguments, found: int | None = None) -> int:
    """Anchors per device of a retention pass; where it is not set, as many as the task's micro-batch has samples.

    It is at most ``MOST_ANCHORS``. So a retention pass is no larger than a task pass, whatever the model, and fits the
    memory that the task's fits. ``found`` is the batch of the task's that ``auto_find_batch_size`` has gone down to, on
    all devices of this process.
    """
    given = retention_settings(args).retention_batch_size
    return min(MOST_ANCHORS, samples_per_device(args, found)) if given is None else given


def samples_per_device(args: TrainingArguments, found: int | None) -> int:
    """Samples of a micro-batch of the task on each device; those ``found``, if ``auto_find_batch_size`` looks for them.

    ``found`` is ``train_batch_size`` of Trainer's state.
    """
    given: int = args.per_device_train_batch_size
    is_given = found is None or not args.auto_find_batch_size
    return given if is_given else max(1, found // max(1, args.n_gpu))
