"""Does a cache hold what its teacher makes of its samples?"""

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from craft_trainer.anchors.cache import OUTPUT_COLUMN, AnchorCache
from craft_trainer.anchors.features import Features, teacher_features
from craft_trainer.models.base import AnchoredModel

TOKENS = "tokens"


def deviations(cache: AnchorCache, teacher: AnchoredModel, *, num_rows: int, batch_size: int) -> dict[str, float]:
    """The largest deviation of recomputed features from cached ones, on ``num_rows`` anchors spread over all.

    Of hidden features and outputs max |t' − t| / √Var(t), in standard deviations; of tokens max |log p'(y) − log p(y)|
    in nats over the tokens that both list at a position. Rounding differs with the batch, so it is seldom 0.
    """
    rows = torch.linspace(0, len(cache) - 1, min(num_rows, len(cache))).long().tolist()
    device = next(teacher.network.parameters()).device
    largest: dict[str, float] = {}
    for start in range(0, len(rows), batch_size):
        batch = cache.batch(rows[start : start + batch_size])
        live = teacher_features(
            teacher,
            send_to_device(batch.inputs, device),
            cache.specs,
            num_tokens=cache.provenance.storage["num_tokens"],
            output=cache.provenance.storage["output"],
        )
        for name, deviation in _compare(batch.teacher, send_to_device(live, "cpu"), cache.scales()).items():
            largest[name] = max(largest.get(name, 0.0), deviation)
    return largest


def _compare(cached: Features, live: Features, scales: dict[str, Tensor]) -> dict[str, float]:
    pairs = {name: (value, live.hidden[name]) for name, value in cached.hidden.items()}
    if cached.output is not None and live.output is not None:
        pairs[OUTPUT_COLUMN] = (cached.output, live.output)
    found = {name: ((ours - theirs).abs().max() / scales[name].sqrt()).item() for name, (ours, theirs) in pairs.items()}
    if cached.tokens is not None and live.tokens is not None:
        same = (cached.tokens.indices == live.tokens.indices) & cached.tokens.valid[..., None]
        apart = (cached.tokens.log_probs - live.tokens.log_probs).abs()
        likeliest = same[..., 0] | ~cached.tokens.valid
        found[TOKENS] = apart[same].max().item() if same.any() and likeliest.float().mean() > 0.99 else torch.inf
    return found
