"""Does a language model see the tokens that it is to predict?"""

import inspect
from pathlib import Path
from typing import Any

import torch

from craft_trainer.models.embeddings import Embeddings

PREFIX_LM = {"paligemma"}  # whose prompt (tokens of type 0) sees itself whole
HALF = 8  # tokens of the text that is tried, of a model that has as many positions
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # of what the later half moves: experts round in other groups
HALF_TOLERANCE = 1e-2


@torch.no_grad()
def require_causal(model: Any, folder: str | Path) -> None:
    """Raise a ValueError if other tokens in the later half of a text move the logits of its first half.

    Configurations say it in many ways (``is_decoder``, ``use_bidirectional_attention``, XLNet's permutations, or none).
    """
    rows, positions = Embeddings.of(model)
    half = HALF if positions is None else min(HALF, positions // 2)
    ids = (torch.arange(2 * half) + rows // 2).remainder(rows).repeat(2, 1)  # the middle of a vocabulary is words
    ids[1, half:] = ids[0, :half]
    inputs = {"input_ids": ids.to(model.get_input_embeddings().weight.device)}
    if "token_type_ids" in inspect.signature(type(model).forward).parameters:
        inputs["token_type_ids"] = torch.full_like(inputs["input_ids"], int(model.config.model_type in PREFIX_LM))
    logits = model(**inputs).logits.float()
    moved = (logits[0] - logits[1]).abs()
    if moved[:half].max() > TOLERANCE.get(model.dtype, HALF_TOLERANCE) * moved[half:].max():
        raise ValueError(
            f"{type(model).__name__} in {folder} sees the tokens that it is to predict, so that neither a loss nor a "
            "likelihood of it means anything: take a causal language model (of BERT's kind only those that were "
            "trained as decoders, with is_decoder: true in their config.json)"
        )
