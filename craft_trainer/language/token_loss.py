"""The loss of every row of a dataset of texts, and whether two models read the same tokens."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import send_to_device
from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.features import extract, task_loss_of
from craft_trainer.language.checkpoints import Checkpoint
from craft_trainer.language.encoding import UNLEARNED
from craft_trainer.language.samples import TextSamples
from craft_trainer.models.base import Batch
from craft_trainer.models.causal_lm import CausalLM
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.finite import require_finite
from craft_trainer.models.general import base_model
from craft_trainer.progress import progress


class RowLosses(NamedTuple):
    """The mean loss of every row, in nats a token, and how many of its tokens have a label."""

    losses: Float[np.ndarray[Any, Any], " rows"]
    tokens: Float[np.ndarray[Any, Any], " rows"]


def row_losses(checkpoint: Checkpoint, samples: TextSamples, rows: Sequence[int], batch_size: int) -> RowLosses:
    """Compute mean(−log q(token)) of every one of ``rows``, in evaluation mode, ``batch_size`` at a time.

    Rows of like length are computed together, which changes nothing but the time.

    Raises:
        ValueError: no row has a token with a label, or the model has no loss of single texts.
        FloatingPointError: a loss is not finite.
    """
    model = _with_trained_prompt(checkpoint.model) or as_anchored_model(checkpoint.model)
    if task_loss_of(model) is None:
        raise ValueError(f"{type(checkpoint.model).__name__} has no loss of single texts: give a causal language model")
    device, lengths = next(checkpoint.model.parameters()).device, samples.lengths
    order = sorted(range(len(rows)), key=lambda place: -lengths[rows[place]])
    losses, tokens = np.zeros(len(rows)), np.zeros(len(rows))
    for start in progress(range(0, len(rows), batch_size), desc="loss", unit="batch", leave=False):
        places = order[start : start + batch_size]
        batch = send_to_device(samples.batch([rows[place] for place in places]), device)
        with torch.no_grad():
            found = extract(model, batch, [], output=True, task=True).task
        assert found is not None
        losses[places] = found.double().cpu().numpy()
        require_finite(f"{samples.place}: the model's loss is", losses[places])
        tokens[places] = (batch["labels"][:, 1:] != UNLEARNED).sum(dim=1).cpu().numpy()
    if not tokens.any():
        raise ValueError(f"{samples.place}: no row has a token that is learned, so there is no loss")
    return RowLosses(losses, tokens)


class BehindPrompt(CausalLM):
    """A causal LM that reads a prompt trained by PEFT before every text."""

    def predict(self, inputs: Batch) -> Float[Tensor, "batch tokens vocabulary"]:
        """Logits at the tokens of the texts: prompt tuning and p-tuning give those of the prompt before them."""
        return super().predict(inputs)[:, -inputs["input_ids"].shape[1] :]


def _with_trained_prompt(model: Any) -> BehindPrompt | None:
    """A view of a causal LM with such a prompt, which cannot have anchors; None of any other model."""
    prompt = getattr(model, "active_peft_config", None)
    if prompt is None or not prompt.is_prompt_learning:
        return None
    config: Any = base_model(model).config
    return BehindPrompt(model) if config.get_text_config() is config else None


def require_same_tokens(first: TextSamples, second: TextSamples, rows: Sequence[int]) -> None:
    """Refuse, by a ValueError, two models that read other tokens: their losses per token are of different things."""
    for row in rows:
        if any(first[row][key] != second[row][key] for key in ("input_ids", "labels")):
            raise ValueError(
                f"the two models make different tokens of {first.place} (sample {row + 1}), so their losses per token "
                "are not comparable: compare models with one tokenizer and one chat template"
            )
