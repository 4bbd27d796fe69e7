"""Drift without old data: how far the student's next-token distribution has moved on the new task itself."""

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset

from craft_trainer.anchors.features import extract, teacher_features
from craft_trainer.anchors.teacher_pass import POSITIONS, inputs_of, texts_of_rows
from craft_trainer.losses.token_kl import token_divergence
from craft_trainer.models.base import AnchoredModel
from craft_trainer.options import refuse_idle
from craft_trainer.training.settings import RetentionSettings

SKIPPED = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
logger = logging.getLogger(__name__)


class TaskDrift:
    """KL(teacher‖student) in nats per token on a fixed batch of task data.

    The teacher is the model as it is when this is made. Forward KL on the new task predicts forgetting without any
    old data: RL's Razor, Shenfeld et al. 2025, arXiv 2509.04259. From the teacher's top-k tokens only, so a lower
    bound (:func:`token_divergence`).
    """

    def __init__(self, model: AnchoredModel, batch: Mapping[str, Any]) -> None:
        self._batch = send_to_device(inputs_of(model, batch), _device(model))
        targets = teacher_features(model, self._batch, []).tokens
        assert targets is not None
        self._targets = targets

    @classmethod
    def begin(cls, model: AnchoredModel, batch: Mapping[str, Any]) -> Self | None:
        """Measure the teacher; None, and a warning, where its batch is not what ``model`` reads: this never raises."""
        try:
            with preserve_rng_state():
                return cls(model, batch)
        except SKIPPED as error:
            logger.warning("task_kl is not logged: the model cannot read a task batch by itself (%r)", error)
            return None

    @torch.no_grad()
    def measure(self, model: AnchoredModel) -> float:
        """The divergence of ``model`` as it is now."""
        self._batch, self._targets = send_to_device((self._batch, self._targets), _device(model))
        logits = extract(model, self._batch, [], output=True).output
        assert logits is not None
        return token_divergence(logits, self._targets).mean().item()


def begin_task_drift(trainer: Any) -> TaskDrift | None:
    """Measure the teacher on task samples of ``trainer``; None without any, or where the model predicts no tokens.

    Raises:
        ValueError: somebody asked for more or fewer than usual, and the model predicts no tokens.
    """
    count = trainer.settings.task_kl_samples
    if trainer.anchored_model.output_kind != "logits":
        if count != 0:
            refuse_idle(trainer.settings, ["task_kl_samples"], "the model predicts no tokens, so it has no task_kl")
        return None
    if count == 0:
        return None
    batch = probe_batch(trainer, count)
    if batch is None:
        return None
    with trainer.accelerator.autocast():
        return TaskDrift.begin(trainer.anchored_model, batch)


def probe_batch(trainer: Any, count: int) -> dict[str, Any] | None:
    """Up to ``count`` samples of a first batch that ``trainer`` could train on, from its own dataloader.

    None where looking would use samples up, and, with a warning, where the dataloader fails: training will say why.
    """
    dataset = trainer.train_dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return None
    try:
        with preserve_rng_state():
            loader = trainer.get_train_dataloader()
            batch, model = next(iter(loader)), trainer.anchored_model
            known = {key: batch[key] for key in [*model.input_keys(), POSITIONS] if key in batch}
            inputs = inputs_of(model, one_text_a_row(known))
            packed = model.packed(inputs)  # these inputs have several entries for a sample, or none
            ends = {key: sum(packed[key][:count]) if key in packed else count for key in inputs}
            _warn_if_fewer(trainer, min((len(inputs[key]) for key in inputs if key not in packed), default=count))
            first = {key: value[: ends[key]] for key, value in inputs.items()}
    except SKIPPED as error:
        logger.warning("task_kl is not logged: no batch of the task could be read (%r)", error)
        return None
    trainer.accelerator.gradient_state._remove_dataloader(loader)  # it was begun and will not be ended
    trainer.accelerator._dataloaders = [other for other in trainer.accelerator._dataloaders if other is not loader]
    return first


def one_text_a_row(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """``batch`` with a row for every text, where its rows hold several as in packed and padding-free training.

    Then a text sees itself alone whatever attention the model has, and is a sample of its own.

    Raises:
        ValueError: something in the batch has no entry for every token.
    """
    rows = [(row, columns) for row, texts in enumerate(texts_of_rows(batch)) for columns in texts]
    if len(rows) <= len(batch.get("input_ids", ())):
        return batch
    ids = batch["input_ids"]
    if others := [key for key, value in batch.items() if value.shape != ids.shape]:
        raise ValueError(f"a row of input_ids holds several texts, and which of them {others[0]} is of is not known")
    whole = {**batch, "attention_mask": torch.ones_like(ids)}  # what is left of a row is without padding
    return {
        key: pad_sequence([value[row, columns] for row, columns in rows], batch_first=True)
        for key, value in whole.items()
        if key != "labels"  # are not read
    }


def _warn_if_fewer(trainer: Any, there: int) -> None:
    """Say how many samples are measured, where that is fewer than somebody asked for."""
    asked = trainer.settings.task_kl_samples
    if there < asked != RetentionSettings.task_kl_samples and trainer.is_world_process_zero():
        logger.warning(
            "task_kl_samples is %d, and a batch of the task has %d samples, so task_kl is of those. Lower it, or raise "
            "per_device_train_batch_size",
            *(asked, there),
        )


def _device(model: AnchoredModel) -> torch.device:
    """The model's present device: FSDP moves it only when training begins."""
    return next(model.network.parameters()).device


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Undo every random draw inside: the generators of Python, NumPy and torch are put back."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
