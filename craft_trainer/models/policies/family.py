"""Differences between LeRobot's policies, and the file that holds them: the file named after the policy type."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from craft_trainer.models import policies
from craft_trainer.models.base import Batch, TokenLayout

GENERAL = "craft_trainer.models.any_policy"


class PolicyLoss(NamedTuple):
    """A :class:`TaskLoss` that takes the policy as well."""

    losses: Callable[[PreTrainedPolicy, Batch, Tensor], Tensor]
    unit: str


class PolicyFamily(NamedTuple):
    """One policy type; its file ``models/policies/<type>.py`` calls it ``FAMILY``.

    Attributes:
        layers: where the hidden layers are read, first to last, as module paths (or ``path@input``: what goes into a
            module); ``hidden_layer=-1`` is the last of them.
        predict: the policy's output for prepared inputs, differentiable and without randomness of its own.
        loss: the policy's own loss for every sample, from prepared inputs and what ``predict`` gave; None if it is
            known of whole batches only.
        layout: token layout of the hidden state of a given shape at a path; path "" is that of ``predict``.
        prepare: inputs of ``predict`` and ``layout``, from a batch that the policy's preprocessor has seen.
        noise: random inputs for each row of a dataset, for a policy that denoises its actions.
        output_kind: ``numbers``, or ``logits`` of a policy whose actions are tokens.
        reads_actions: whether ``predict`` takes the demonstrated actions: to add noise to, or as preceding tokens.
        act: the policy's own chunk of normalised actions [batch steps dim], as long as a demonstrated one, from a batch
            that its preprocessor has seen; None if it can do without actions, or cannot give such a chunk.
        is_tried: whether it has to be tried that its features are functions of the sample.
    """

    layers: Callable[[PreTrainedPolicy], list[str]]
    predict: Callable[[PreTrainedPolicy, Batch], Tensor]
    loss: PolicyLoss | None
    layout: Callable[[PreTrainedPolicy, str, Batch, torch.Size], TokenLayout]
    prepare: Callable[[PreTrainedPolicy, Batch], Batch] = lambda _policy, batch: batch
    noise: Callable[[PreTrainedPolicy, Sequence[int]], dict[str, Tensor]] = lambda _policy, _rows: {}
    output_kind: str = "numbers"
    reads_actions: bool = False
    act: Callable[[PreTrainedPolicy, Batch], Tensor] | None = None
    is_tried: bool = False


def family_of(policy_type: str) -> PolicyFamily:
    """The family of a LeRobot policy type; without a file for it the general one.

    Raises:
        ValueError: the type is one that cannot be anchored.
    """
    known = known_families()
    found: Any = importlib.import_module(f"{policies.__name__}.{policy_type}" if policy_type in known else GENERAL)
    if policy_type not in known and policy_type in found.UNLIKE:
        raise ValueError(
            f"policy type {policy_type!r} cannot be anchored: {found.UNLIKE[policy_type]} (known: {', '.join(known)})"
        )
    family: PolicyFamily = found.FAMILY
    return family


def known_families() -> list[str]:
    """The policy types with a file of their own."""
    return sorted(module.name for module in pkgutil.iter_modules(policies.__path__) if module.name != "family")
