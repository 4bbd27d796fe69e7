"""Views: perturbed copies of anchors, each of which the teacher labels anew."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.sources.source import AnchorSource
from craft_trainer.models.base import Moments

VIEWS, KEPT = "views", "anchors_kept"  # in a provenance: how many of each frame, and whether it is there itself
STREAM = 2  # of random numbers, beside that of states drawn from statistics
KNOWN = 3.0  # deviations from the mean, within which a policy that normalises is taken to know its inputs
SHIFT, COLOUR = 0.04, 0.2  # of pictures: of their width and height, and of brightness, contrast and saturation


class Views:
    """``num_views`` perturbed copies of each of the ``rows`` of ``source``, after the anchor itself if it is ``kept``.

    Anchors that are about to be learned are not kept: holding the teacher's output on them would forbid to learn them.
    Where their numbers lie more than 3 σ from μ they are first brought to that bound, for the same reason: the teacher
    knows nothing there, and noise of σ would leave them near the inputs that are learned. In a copy

    - the numbers of ``moments`` are s + ``noise``·σ·z with z ~ N(0, I), μ and σ the mean and the deviation that the
      policy normalises by; with ``mix`` they are first (1 − a)·s + a·s′ with a ~ U(0, ``mix``) and s′ another anchor of
      the same group, if it has one. Whole numbers become fractions: noise and μ are no whole numbers;
    - pictures are shifted by up to 4 % and their brightness, contrast and saturation changed by up to 20 %
      (torchvision's transforms v2), each camera by itself.

    All of it is a function of ``seed`` and i alone. Labels stay those of the anchor; with ``mix`` there are none
    (``labels`` are their keys), for a state between two frames was demonstrated by nobody.

    Raises:
        ValueError: there is no noise, and a group has one anchor alone, so that its views would be copies.
    """

    def __init__(
        self,
        source: AnchorSource,
        rows: Sequence[int],
        num_views: int,
        *,
        noise: float,
        seed: int,
        moments: Moments,
        images: Collection[str] = (),
        labels: Collection[str] = (),
        mix: float = 0.0,
        kept: bool = True,
    ) -> None:
        self._source, self._rows, self._each, self._kept = source, list(rows), num_views + kept, kept
        self._noise, self._mix, self._seed = noise, mix, seed
        self._moments, self._images = dict(sorted(moments.items())), sorted(images)
        self._dropped = frozenset(labels) if mix else frozenset()
        groups = [source.groups[row] for row in rows]
        self.groups = [group for group in groups for _ in range(self._each)]
        self.strata = [(group,) for group in self.groups]
        self._others = {group: [place for place, one in enumerate(groups) if one == group] for group in set(groups)}
        alone = sorted(group for group, places in self._others.items() if len(places) == 1)
        if not noise and moments and not images and alone:
            raise ValueError(
                f"{alone[0]} has one anchor, and view_mix moves an anchor towards others of its old task: its views "
                "would be copies. Give view_noise, or more anchors"
            )

    def __len__(self) -> int:
        return len(self.groups)

    def batch(self, rows: list[int]) -> dict[str, Any]:
        """The views at ``rows``."""
        generators = [np.random.default_rng([self._seed, row, STREAM]) for row in rows]
        found = self._read([row // self._each for row in rows])
        seen = {key: value for key, value in found.items() if key not in self._dropped}
        perturbed = [place for place, row in enumerate(rows) if row % self._each or not self._kept]
        if not perturbed:
            return seen
        numbers = {key: seen[key].clone() for key in self._moments if key in seen}
        if not self._kept:
            numbers = {key: self._known(key, values) for key, values in numbers.items()}
        if self._mix:
            self._mix_in(numbers, rows, perturbed, generators)
        for key, values in numbers.items():
            for place in perturbed:
                drawn = generators[place].standard_normal(values[place].shape)
                values[place] += self._noise * self._moments[key][1] * torch.from_numpy(drawn).to(values)
        pictures = {key: seen[key].clone() for key in self._images if key in seen}
        for values in pictures.values():
            for place in perturbed:
                values[place] = changed_picture(values[place], int(generators[place].integers(2**31)))
        return seen | numbers | pictures

    def _read(self, places: Sequence[int]) -> dict[str, Any]:
        """The anchors at ``places``, their numbers in the type of the policy's own."""
        found = self._source.batch([self._rows[place] for place in places])
        whole = {key for key in self._moments if key in found and not found[key].is_floating_point()}
        return {key: value.to(self._moments[key][0].dtype) if key in whole else value for key, value in found.items()}

    def _known(self, key: str, values: Tensor) -> Tensor:
        mean, std = (part.to(values) for part in self._moments[key])
        return values.clamp(mean - KNOWN * std, mean + KNOWN * std)

    def _mix_in(
        self, numbers: dict[str, Tensor], rows: list[int], perturbed: list[int], generators: list[np.random.Generator]
    ) -> None:
        """Move the perturbed states towards those of other anchors of their groups."""
        others = self._read([self._other_than(rows[place] // self._each, generators[place]) for place in perturbed])
        for index, place in enumerate(perturbed):
            share = float(generators[place].uniform(0.0, self._mix))
            for key, values in numbers.items():
                other = others[key][index] if self._kept else self._known(key, others[key][index])
                values[place] += share * (other - values[place])

    def _other_than(self, place: int, generator: np.random.Generator) -> int:
        """Draw another anchor of the group of the one at ``place``; that one itself where it is alone."""
        others = self._others[self.groups[place * self._each]]
        drawn = int(generator.integers(max(len(others) - 1, 1)))
        return others[drawn + (drawn >= others.index(place))] if len(others) > 1 else place

    def description(self) -> Mapping[str, Any]:
        """That of the source, with what the views are."""
        told = self._source.description()
        views: dict[str, Any] = {VIEWS: self._each - self._kept, KEPT: self._kept}
        views |= {"view_noise": self._noise, "view_mix": self._mix, "view_seed": self._seed}
        views |= {} if self._kept else {"within_deviations": KNOWN}
        content = [told["fingerprint"], self._rows, views, self._images]
        digest = hashlib.sha256(json.dumps(content).encode())
        for name, parts in self._moments.items():
            digest.update(name.encode() + b"".join(part.numpy().tobytes() for part in parts))
        return {**told, **views, "frames": len(self), "fingerprint": digest.hexdigest()}


def changed_picture(
    picture: Float[Tensor, "*frames 3 rows columns"], seed: int
) -> Float[Tensor, "*frames 3 rows columns"]:
    """``picture`` in [0, 1], shifted a little and in other light, in 8 bits a colour: a function of ``seed``."""
    from torchvision.transforms import v2  # type: ignore[import-untyped]

    change = v2.Compose(
        [
            v2.RandomAffine(degrees=0, translate=(SHIFT, SHIFT)),
            v2.ColorJitter(brightness=COLOUR, contrast=COLOUR, saturation=COLOUR),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        changed: Tensor = change(picture)
    return (changed.clamp(0, 1) * 255).round() / 255
