"""Make sure that the task loss of a micro-batch is its share of the optimizer step's loss."""

import copy
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from craft_trainer.anchors.features import evaluating
from craft_trainer.training.distribution import sums_over_processes
from craft_trainer.training.drift import preserve_rng_state
from craft_trainer.training.guards import own_loss, own_step

LARGER = 1000  # times as many labels and micro-batches as an optimizer step has, to see what the loss makes of them
CHANGED = 0.01  # of the loss: more than rounding
logger = logging.getLogger(__name__)


def times_too_large(trainer: Any, num_items_in_batch: Tensor | int | None) -> int:
    """Return what Trainer leaves a loss multiplied by, if that loss is not divided by ``num_items_in_batch`` itself.

    Trainer divides by ``gradient_accumulation_steps`` only where it takes the loss for a mean over a micro-batch.
    Elsewhere it takes it for a sum over the labels of the micro-batch, divided by ``num_items_in_batch``, those of the
    whole step. Under ``average_tokens_across_devices`` it multiplies this by the number of processes.
    """
    args, counted = trainer.args, num_items_in_batch is not None
    function = trainer.compute_loss_func
    declared = getattr(trainer, "loss_is_scaled_for_ga", None) is not None or isinstance(function, str)  # those of TRL
    divided = function is None and not (trainer.model_accepts_loss_kwargs and counted)
    if declared or divided or own_step(type(trainer)) is not None:
        return 1
    averaged = counted and args.average_tokens_across_devices
    return int(args.gradient_accumulation_steps * (trainer.accelerator.num_processes if averaged else 1))


def settle_shares(
    trainer: Any, model: nn.Module, inputs: Mapping[str, Any], num_items_in_batch: Tensor | int | None
) -> bool:
    """Let Trainer divide the task loss where nothing else does; False if this micro-batch cannot tell.

    Otherwise the task loss and g_task would be several times too large beside λ·g_retain. Models whose ``forward``
    takes ``**kwargs`` may ignore ``num_items_in_batch`` (BERT, T5, Mamba, ModernBERT), and so may a ``compute_loss``.

    Raises:
        ValueError: ``compute_loss_func`` ignores it, whose loss Trainer never divides.
    """
    factor = times_too_large(trainer, num_items_in_batch)
    is_share = factor == 1 or _is_share(trainer, model, inputs, num_items_in_batch)
    if is_share is None or is_share:
        return is_share is not None
    if trainer.compute_loss_func is not None:
        raise ValueError(
            f"compute_loss_func does not use num_items_in_batch, so the task loss is {factor} times too large beside "
            "L_retain: let it return a sum divided by num_items_in_batch, the labels of the whole optimizer step. "
            "Where the batches have no labels, write it as compute_loss of a subclass, whose loss Trainer divides"
        )
    trainer.model_accepts_loss_kwargs = False
    if trainer.is_world_process_zero():
        logger.warning(
            "%s does not use num_items_in_batch, so Trainer would leave the task loss %d times too large beside "
            "L_retain. It is now the mean over micro-batches (model_accepts_loss_kwargs = False)",
            own_loss(trainer) or f"the loss of {type(trainer.accelerator.unwrap_model(model)).__name__}",
            factor,
        )
    return True


def _is_share(
    trainer: Any, model: nn.Module, inputs: Mapping[str, Any], num_items_in_batch: Tensor | int | None
) -> bool | None:
    """True if the loss is smaller in a larger optimizer step; None if it is 0 or not finite on this micro-batch.

    It is computed twice in evaluation mode, with the same random numbers. Weights, generators and what trainers of TRL
    log are left as they were.
    """
    inputs, metrics = trainer._prepare_inputs(inputs), copy.deepcopy(getattr(trainer, "_metrics", None))
    losses = []
    with evaluating(model), preserve_rng_state(), torch.no_grad(), trainer.compute_loss_context_manager():
        for larger in (1, LARGER):
            num_items = None if num_items_in_batch is None else num_items_in_batch * larger
            torch.manual_seed(0)
            with _in_a_larger_step(trainer, larger):
                losses.append(trainer.compute_loss(model, copy.copy(inputs), num_items_in_batch=num_items))
    if metrics is not None:
        trainer._metrics = metrics
    first, second = (loss.detach().double().mean() for loss in losses)
    found = {"size": first.abs(), "change": (first - second).abs()}
    totals = sums_over_processes(found, trainer.accelerator.num_processes)
    if not math.isfinite(totals["change"]) or totals["size"] == 0:
        return None
    return totals["change"] > CHANGED * totals["size"]


@contextmanager
def _in_a_larger_step(trainer: Any, larger: int) -> Iterator[None]:
    """Let a ``compute_loss`` that divides by the number of micro-batches itself see ``larger`` times as many."""
    args, now = trainer.args, trainer.current_gradient_accumulation_steps
    given = args.gradient_accumulation_steps
    args.gradient_accumulation_steps, trainer.current_gradient_accumulation_steps = given * larger, now * larger
    try:
        yield
    finally:
        args.gradient_accumulation_steps, trainer.current_gradient_accumulation_steps = given, now
