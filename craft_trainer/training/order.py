"""The order of the samples after a resume: that of the run that was interrupted."""

import logging
from base64 import b64decode, b64encode
from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import has_length

logger = logging.getLogger(__name__)


def is_drawn_at_every_epoch(args: TrainingArguments, dataset: Any) -> bool:
    """True if the order follows from torch's generator as it is when an epoch begins, which resuming has to bring back.

    By default it is a function of the seed and the epoch, which accelerate's sampler has to be told; where batches are
    dispatched it is not told either.
    """
    if dataset is None:
        return False
    is_stream = isinstance(dataset, IterableDataset) or not has_length(dataset)
    config = args.accelerator_config
    by_seed = config.use_seedable_sampler and not config.dispatch_batches
    return is_stream or not by_seed or args.train_sampling_strategy == "group_by_length"


class EpochOrder(TrainerCallback, ExportableState):  # type: ignore[misc]  # transformers is not typed
    """Keeps with every checkpoint from what state of torch's generator the order of its epoch was drawn.

    Trainer restores the generator after the first batch of a resumed epoch, so the order would be another one.
    """

    def __init__(self) -> None:
        self._begun_from = _now()
        self._resumes = False

    def state(self) -> dict[str, dict[str, Any]]:
        """The state that Trainer writes into ``trainer_state.json``."""
        return {"args": {}, "attributes": {"epoch_begun_from": self._begun_from, "saved_at": _now()}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Take from the checkpoint that is resumed how its epoch began, or how the next one is to begin."""
        name, self._resumes = type(self).__name__, False
        saved = state.stateful_callbacks.get(name)
        state.stateful_callbacks[name] = self.state()
        if state.global_step == 0:
            return
        if saved is None:
            logger.warning("the checkpoint does not hold its order of samples: the rest of the epoch is drawn anew")
            return
        begins = float(state.epoch).is_integer()
        self._begun_from = saved["attributes"]["saved_at" if begins else "epoch_begun_from"]
        self._resumes = True

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, *_: Any, train_dataloader: Any = None, **__: Any
    ) -> None:
        """Keep the generator's state, or bring that of the interrupted epoch back."""
        if not self._resumes:
            self._begun_from = _now()
            return
        self._resumes, epoch = False, int(state.epoch)
        torch.set_rng_state(torch.frombuffer(bytearray(b64decode(self._begun_from)), dtype=torch.uint8))
        if hasattr(train_dataloader, "set_epoch"):
            train_dataloader.set_epoch(epoch)
        if epoch and not has_length(train_dataloader):
            logger.warning(
                "the stream had begun again before step %d, and Trainer does not find its place in it: samples come in "
                "another order than without the interruption",
                state.global_step,
            )


def _now() -> str:
    return b64encode(torch.get_rng_state().numpy().tobytes()).decode()
