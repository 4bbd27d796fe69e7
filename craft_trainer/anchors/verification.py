"""Does a cache hold what its teacher makes of its samples?"""

import torch
from accelerate.utils import send_to_device
from safetensors.torch import load_file
from torch import Tensor

from craft_trainer.anchors.cache import (
    OUTPUT_COLUMN,
    ROW_COLUMN,
    STATISTICS_FILE,
    TASK_COLUMN,
    AnchorCache,
    feature_columns,
)
from craft_trainer.anchors.columns import open_columns
from craft_trainer.anchors.features import TASK_SCALE, Features, TokenTargets, teacher_features
from craft_trainer.anchors.integrity import AGAIN
from craft_trainer.anchors.statistics import cache_statistics
from craft_trainer.anchors.teacher_pass import rows_digest
from craft_trainer.models.base import AnchoredModel
from craft_trainer.progress import progress

TOKENS = "tokens"
HALF_ROUNDING = 2.0**-10  # of a number stored in float16


def deviations(cache: AnchorCache, teacher: AnchoredModel, *, num_rows: int, batch_size: int) -> dict[str, float]:
    """The largest deviation of recomputed features from cached ones, on ``num_rows`` of its anchors, spread over all.

    Of hidden features and outputs max |t' − t| / √Var(t), in standard deviations, beyond the rounding of a float16
    cache; of the task loss the same in its own unit; of tokens max |log p'(y) − log p(y)| in nats over the tokens that
    both list at a valid position, infinite if the top-1 tokens differ at more than one position in a hundred. Rounding
    differs with the batch, so it is seldom 0. NaN where either is.
    """
    own = cache.rows_of(teacher.fingerprint())
    rows = [own[place] for place in torch.linspace(0, len(own) - 1, min(num_rows, len(own))).long()]
    device = next(teacher.network.parameters()).device
    largest: dict[str, Tensor] = {}
    for start in progress(range(0, len(rows), batch_size), desc="verify", unit="batch"):
        batch = cache.batch(rows[start : start + batch_size])
        live = teacher_features(
            teacher,
            send_to_device(batch.inputs, device),
            cache.specs,
            num_tokens=cache.provenance.storage["num_tokens"],
            output=cache.provenance.storage["output"],
            task=True,
        )
        half = cache.provenance.storage["dtype"] == "float16"
        for name, deviation in _compare(batch.teacher, send_to_device(live, "cpu"), cache.scales(), half=half).items():
            largest[name] = torch.maximum(largest.get(name, torch.zeros(())), deviation)  # which keeps NaN
    return {name: value.item() for name, value in largest.items()}


def require_own_values(cache: AnchorCache) -> None:
    """Raise a ValueError unless rows and statistics, measured again, are those that the cache says it has."""
    if rows_digest(cache.dataset.with_format("arrow")[ROW_COLUMN].to_pylist()) != cache.provenance.data["rows"]:
        raise ValueError(f"{cache.folder}: the anchors are of other rows than its provenance says; {AGAIN}")
    stored = load_file(cache.folder / STATISTICS_FILE)
    measured = cache_statistics(open_columns(cache.dataset), len(cache), feature_columns(cache.dataset))
    for key, value in measured.items():
        spread = measured.get(key.replace("mean/", "variance/"), value).double().mean().abs().sqrt()
        if not torch.allclose(stored[key].double(), value.double(), rtol=1e-4, atol=1e-4 * float(spread)):
            raise ValueError(f"{cache.folder}: {key} is not that of its anchors; {AGAIN}")


def _compare(cached: Features, live: Features, scales: dict[str, Tensor], *, half: bool) -> dict[str, Tensor]:
    pairs = {name: (value, live.hidden[name]) for name, value in cached.hidden.items()}
    if cached.output is not None and live.output is not None:
        pairs[OUTPUT_COLUMN] = (cached.output, live.output)
    units = {name: scales[name].sqrt() for name in pairs}
    if cached.task is not None and live.task is not None:
        pairs[TASK_COLUMN], units[TASK_COLUMN] = (cached.task, live.task), scales[TASK_SCALE]
    found = {}
    for name, (ours, theirs) in pairs.items():
        rounding = ours.abs() * HALF_ROUNDING if half else 0.0
        found[name] = ((ours - theirs).abs() - rounding).max().clamp_min(0) / units[name]
    if cached.tokens is not None and live.tokens is not None:
        found[TOKENS] = _compare_tokens(cached.tokens, live.tokens, half=half)
    return found


def _compare_tokens(cached: TokenTargets, live: TokenTargets, *, half: bool) -> Tensor:
    valid = cached.valid
    if (cached.indices[..., 0] == live.indices[..., 0])[valid].float().mean() < 0.99:
        return torch.tensor(torch.inf)
    same = cached.indices[..., :, None] == live.indices[..., None, :]
    apart = (cached.log_probs[..., :, None] - live.log_probs[..., None, :]).abs()
    rounding = cached.log_probs.abs()[..., :, None] * HALF_ROUNDING if half else 0.0
    return (apart - rounding)[same & valid[..., None, None]].max().clamp_min(0)
