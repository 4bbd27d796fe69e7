"""Predict a policy's own actions, in place of actions that nobody demonstrated."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lerobot.utils.constants import ACTION
from torch import Tensor

from craft_trainer.models.base import Batch
from craft_trainer.models.noise import OWN_ACTIONS, forked_rng

if TYPE_CHECKING:
    from craft_trainer.models.lerobot import PolicyModel


def own_actions(
    model: "PolicyModel", act: Callable[..., Any] | None, batch: Batch, rows: Sequence[int]
) -> dict[str, Tensor]:
    """``action`` [batch steps dim] in the environment's units as ``act`` of its family gives it, none of it padding.

    Samples are taken one by one, with torch's generators seeded with the row, so that the actions of a row do not
    depend on what it is batched with.

    Raises:
        ValueError: this type of policy gives no chunk as long as a demonstrated one.
    """
    if act is None:
        raise ValueError(
            f"what a {model.policy_config.type} predicts depends on demonstrated actions, and its own cannot take "
            "their place: give it samples that have some (source dataset)"
        )
    seen = set(model.input_keys()) - set(model.target_keys())
    chunks = []
    with forked_rng(model.device):
        for place, row in enumerate(rows):
            torch.manual_seed(OWN_ACTIONS + row)
            sample = {key: value[place : place + 1] for key, value in batch.items() if key in seen}
            chunks.append(model.postprocessor(act(model.policy, model.preprocessed(sample))))
    actions = torch.cat(chunks).to(model.device)
    return {ACTION: actions, "action_is_pad": torch.zeros(actions.shape[:2], dtype=torch.bool, device=model.device)}
