"""States drawn from the statistics that a policy normalises by: anchors without any data."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from craft_trainer.anchors.sources.frames import SENTENCE
from craft_trainer.anchors.sources.pictures import Pictures
from craft_trainer.models.base import Moments

STREAM = 1  # of random numbers, beside that of views
WIDTH = 2.0  # the widest states are drawn with so many of the policy's deviations
SHRINKAGE = 0.01  # of correlations towards none, so that no direction is left out
GROUP = "states from statistics"


class StatisticsSource:
    """``count`` states s = μ + w·σ·z with z ~ N(0, R) and a width w ~ U(0, ``width``) for each state.

    μ and σ are the mean and the deviation of every number that the policy observes. The width differs from state to
    state, so that some lie near the centre of what the teacher knows and some at its edge. R is the identity, or the
    ``correlation`` of all numbers, the features in alphabetical order (:func:`correlation_of`). State i is a function
    of ``seed`` and i alone. A policy that reads ``num_steps`` frames at once sees the same state in all of them, as if
    the robot stood still; with 0 a state has no time dimension. ``pictures`` stand in for what its cameras would show.
    """

    def __init__(
        self,
        moments: Moments,
        count: int,
        *,
        seed: int,
        prompts: Sequence[str] = (),
        width: float = WIDTH,
        correlation: Float64[np.ndarray[Any, Any], "numbers numbers"] | None = None,
        num_steps: int = 0,
        pictures: Pictures | None = None,
    ) -> None:
        self._moments = {name: (mean.numpy(), std.numpy()) for name, (mean, std) in sorted(moments.items())}
        self._count, self._seed, self._width, self._num_steps = count, seed, width, num_steps
        self._pictures = pictures
        sizes = [mean.size for mean, _ in self._moments.values()]
        self._ends = np.cumsum(sizes)[:-1]
        self._root = np.eye(sum(sizes)) if correlation is None else np.linalg.cholesky(correlation)
        self._prompts = list(prompts) or [""]
        self.groups = [self._prompts[row % len(self._prompts)] or GROUP for row in range(count)]
        self.strata = [(group,) for group in self.groups]

    def __len__(self) -> int:
        return self._count

    def batch(self, rows: list[int]) -> dict[str, Any]:
        """The states at ``rows``, each under one of the prompts in turn."""
        drawn = [self._draw(row) for row in rows]
        states = {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in self._moments}
        if self._num_steps:
            states = {name: value[:, None].repeat_interleave(self._num_steps, 1) for name, value in states.items()}
        pictures = {} if self._pictures is None else self._pictures.batch(rows)
        return states | pictures | {SENTENCE: [self._prompts[row % len(self._prompts)] for row in rows]}

    def _draw(self, row: int) -> dict[str, Any]:
        generator = np.random.default_rng([self._seed, row, STREAM])
        width = generator.uniform(0.0, self._width)
        parts = np.split(self._root @ generator.standard_normal(len(self._root)), self._ends)
        return {
            name: (mean + width * std * part).astype(np.float32)
            for (name, (mean, std)), part in zip(self._moments.items(), parts, strict=True)
        }

    def description(self) -> Mapping[str, Any]:
        """The statistics by digest, the seed and the width."""
        settings = [self._seed, self._width, self._prompts, self._count, self._num_steps]
        digest = hashlib.sha256(json.dumps(settings).encode())
        digest.update(self._root.tobytes())
        for name, parts in self._moments.items():
            digest.update(name.encode() + b"".join(part.tobytes() for part in parts))
        told = {"dataset": "states drawn from the policy's statistics", "frames": self._count}
        told |= {"seed": self._seed, "width": self._width}
        if self._pictures is not None:
            seen = dict(self._pictures.description())
            digest.update(seen.pop("fingerprint").encode())
            told |= seen
        return told | {"fingerprint": digest.hexdigest()}


def correlation_of(
    values: Mapping[str, Float[Tensor, "frames dim"]], *, shrinkage: float = SHRINKAGE
) -> Float64[np.ndarray[Any, Any], "numbers numbers"]:
    """(1 − ``shrinkage``)·C + ``shrinkage``·I, C the correlation of all numbers of ``values`` over their frames.

    The features are in alphabetical order. A number that never moves is correlated with nothing.
    """
    numbers = np.concatenate(
        [values[name].double().numpy().reshape(len(values[name]), -1) for name in sorted(values)], 1
    )
    centred = numbers - numbers.mean(axis=0)
    deviations = centred.std(axis=0)
    moving = deviations > 1e-6 * np.abs(numbers).max(axis=0, initial=0.0) + 1e-12
    scaled = np.where(moving, centred / np.where(moving, deviations, 1.0), 0.0)
    correlation = scaled.T @ scaled / len(scaled)
    np.fill_diagonal(correlation, 1.0)
    shrunk: Float64[np.ndarray[Any, Any], "numbers numbers"] = (1 - shrinkage) * correlation + shrinkage * np.eye(
        len(scaled[0])
    )
    return shrunk
