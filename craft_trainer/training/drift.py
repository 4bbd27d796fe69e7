"""Drift without old data: how far the student's next-token distribution has moved on the new task itself."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device

from craft_trainer.anchors.features import extract, teacher_features
from craft_trainer.losses.terms import token_divergence
from craft_trainer.models.base import AnchoredModel


class TaskDrift:
    """KL(teacher‖student) in nats per token on a fixed batch of task data.

    The teacher is the model as it is when this is made. Forward KL on the new task predicts forgetting without any
    old data: RL's Razor, Shenfeld et al. 2025, arXiv 2509.04259. From the teacher's likeliest tokens only, so a lower
    bound (``anchors.loss.token_divergence``).
    """

    def __init__(self, model: AnchoredModel, batch: dict[str, Any]) -> None:
        inputs = {key: value for key, value in batch.items() if key in model.input_keys()}
        self._batch = send_to_device(inputs, _device(model))
        targets = teacher_features(model, self._batch, []).tokens
        assert targets is not None
        self._targets = targets

    @torch.no_grad()
    def measure(self, model: AnchoredModel) -> float:
        """The divergence of ``model`` as it is now."""
        self._batch, self._targets = send_to_device((self._batch, self._targets), _device(model))
        logits = extract(model, self._batch, [], output=True).output
        assert logits is not None
        return token_divergence(logits, self._targets).mean().item()


def _device(model: AnchoredModel) -> torch.device:
    """Where the model is now: FSDP moves it only when training begins."""
    return next(model.network.parameters()).device


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """What is drawn inside is not drawn: the generators of Python, NumPy and torch are put back."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
