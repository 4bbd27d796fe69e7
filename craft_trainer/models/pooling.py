"""Hidden states pooled over their tokens: the one place where this is written."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from craft_trainer.models.base import TokenLayout

POOLINGS = ("none", "mean_masked", "mean_image_tokens", "last_token", "cls_token")


def pool(hidden: Float[Tensor, "batch tokens dim"], pooling: str, layout: TokenLayout) -> Float[Tensor, "batch *rest"]:
    """Pool hidden states over their tokens.

    ``none`` keeps every token (padding set to zero), ``mean_masked`` averages the tokens that are not padding,
    ``mean_image_tokens`` those that come from images, ``last_token`` and ``cls_token`` take the last valid and the
    first token.

    Raises:
        ValueError: unknown pooling, or image tokens asked of a module that sees none.
    """
    valid = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if layout.valid is None else layout.valid
    match pooling:
        case "none":
            return hidden * valid[..., None]
        case "mean_masked":
            return _masked_mean(hidden, valid)
        case "mean_image_tokens":
            if layout.image is None:
                raise ValueError("pooling mean_image_tokens: this layer sees no image tokens; choose another pooling")
            return _masked_mean(hidden, layout.image & valid)
        case "last_token":
            positions = torch.arange(hidden.shape[1], device=hidden.device)
            last = torch.where(valid, positions, -1).amax(dim=1)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        case "cls_token":
            return hidden[:, 0]
        case _:
            raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")


def _masked_mean(hidden: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]) -> Tensor:
    weights = mask.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
