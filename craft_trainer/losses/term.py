"""Retention terms: what each needs of an anchor, and the unit in which it is measured."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Flag, auto
from typing import ClassVar, Protocol, Self

from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.features import Features

Scales = Mapping[str, Float[Tensor, ""]]


class Need(Flag):
    """Pieces of an anchor that a loss reads beside the anchor's inputs."""

    NOTHING = 0
    HIDDEN = auto()  # the teacher's hidden features
    OUTPUT = auto()  # the teacher's output: an action chunk
    TOKENS = auto()  # the teacher's top-k next-token probabilities
    LABELS = auto()  # the targets of the task loss
    TASK = auto()  # the teacher's task loss on those targets

    def __str__(self) -> str:
        return ", ".join(piece.name.lower() for piece in self if piece.name) or "nothing"


class LossSettings(Protocol):
    """The settings of a run that losses and their terms may read: the distance of hidden features, and the weights."""

    hidden_distance: str

    @property
    def term_weights(self) -> Mapping[str, float]: ...


class RetentionTerm(ABC):
    """The student's distance from its teacher: one number per anchor, 0 where the two are equal.

    Attributes:
        name: the word for it in ``retention_terms``.
        needs: what it reads of an anchor. Anchors that lack it are refused before training.
        way_out: what to do about anchors that lack what it needs.
    """

    name: ClassVar[str]
    needs: ClassVar[Need]
    way_out: ClassVar[str] = "rebuild the anchors"

    @classmethod
    def configured(cls, settings: LossSettings) -> Self:
        """Make the term as ``settings`` say."""
        return cls()

    @property
    @abstractmethod
    def unit(self) -> str:
        """What its value is a fraction of; a plain attribute where that does not depend on the settings."""

    @abstractmethod
    def __call__(self, student: Features, teacher: Features, scales: Scales) -> Float[Tensor, " batch"]:
        """Compare ``student`` with ``teacher`` in units of the teacher's ``scales``; differentiable in the student."""
