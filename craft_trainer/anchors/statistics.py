"""The units of the retention losses: mean and variance of the teacher's features, the entropy of its tokens."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from craft_trainer.anchors.columns import Column, RaggedColumn
from craft_trainer.anchors.features import TOKEN_SCALE

SCALE_PREFIX = "scale/"
ENTROPIES = ("token/entropy", "token/valid")
BYTES_AT_ONCE = 2**24
ROUNDING = 1e-10  # of the mean square: a variance below it is the rounding of one and the same number


class ConstantFeatureError(ValueError):
    """A feature, or the teacher's doubt, gives no unit: more of the same anchors would not change it."""


def cache_statistics(columns: Mapping[str, Column], num_rows: int, features: Iterable[str]) -> dict[str, Tensor]:
    """``mean/<feature>`` and ``variance/<feature>`` of every feature, and ``scale/token`` if there are tokens.

    Read piece by piece, so a cache may be larger than memory.
    """
    statistics: dict[str, Tensor] = {}
    for name in features:
        statistics |= feature_statistics(name, partial(_parts, columns[name], num_rows))
    if "token/entropy" in columns:
        parts = (_parts(columns[name], num_rows, like=columns["token/entropy"]) for name in ENTROPIES)
        statistics[SCALE_PREFIX + TOKEN_SCALE] = token_scale(zip(*parts, strict=True))
    return statistics


def feature_statistics(
    name: str, parts: Callable[[], Iterable[Float[Tensor, "anchors *tokens dim"]]]
) -> dict[str, Float[Tensor, " dim"]]:
    """Mean and (biased) variance per dimension over anchors and tokens, as ``mean/<name>`` and ``variance/<name>``.

    ``parts`` gives the values of all anchors piece by piece; it is gone through twice. Tokens that are all zero are
    padding and do not count.

    Raises:
        ConstantFeatureError: a feature has no variance, so a distance in units of it would be infinite.
    """
    mean = _mean(parts(), torch.as_tensor(0.0), power=1)
    variance = _mean(parts(), mean, power=2)
    if not variance.mean().isfinite():
        raise ConstantFeatureError(
            f"the teacher's {name} is not finite for some anchors: look at the teacher and its samples"
        )
    if variance.mean() <= ROUNDING * (mean.square() + variance).mean():
        raise ConstantFeatureError(
            f"the teacher's {name} is the same for all anchors: leave it out, or take more of them"
        )
    return {f"mean/{name}": mean.float(), f"variance/{name}": variance.float()}


def token_scale(
    parts: Iterable[tuple[Float[Tensor, "*anchors tokens"], Bool[Tensor, "*anchors tokens"]]],
) -> Float[Tensor, ""]:
    """Mean entropy of the teacher's next token over the valid positions, in nats: the unit of token losses.

    ``parts`` are the entropies of some anchors at a time, and which of these positions are valid.

    Raises:
        ConstantFeatureError: it is 0, or no position is valid, so a loss in units of it would be infinite.
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    for entropy, valid in parts:
        total = total + entropy[valid].double().sum()
        count += int(valid.sum())
    scale = (total / count).float()
    if not scale > 0:
        raise ConstantFeatureError(
            f"the teacher's next token has a mean entropy of {scale.item():g} nats at {count} valid "
            "positions: token losses are measured in it, so take anchors that leave the teacher some doubt"
        )
    return scale


def task_scale(unit: str, scales: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Take the ``unit`` of a task loss (see :class:`TaskLoss`) from the other ``scales`` of the teacher."""
    match unit:
        case "variance":
            return scales["output"]
        case "standard deviation":
            return scales["output"].sqrt()
        case "mean entropy":
            return scales[TOKEN_SCALE]
        case _:
            raise AssertionError(f"unit {unit!r} of a task loss")


def _mean(parts: Iterable[Tensor], center: Tensor, *, power: int) -> Tensor:
    """Mean of (x − center)^power over all vectors of the last dimension that are not zero."""
    total, count = torch.as_tensor(0.0), 0
    for part in parts:
        flat = part.double().flatten(0, -2)
        flat = flat[flat.any(dim=-1)]
        total = total + (flat - center).pow(power).sum(dim=0)
        count += len(flat)
    return total / max(1, count)


def _parts(column: Column, num_rows: int, *, like: Column | None = None) -> Iterator[Tensor]:
    """The values of all rows, piece by piece, in pieces of as many rows as those of ``like``."""
    first: Any = (like or column).gather([0])
    rows_at_once = max(1, BYTES_AT_ONCE // max(1, first[0].nbytes))
    for start in range(0, num_rows, rows_at_once):
        values: Any = column.gather(range(start, min(start + rows_at_once, num_rows)))
        yield from map(torch.from_numpy, values if isinstance(column, RaggedColumn) else [values])
