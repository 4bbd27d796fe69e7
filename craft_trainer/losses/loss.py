"""The loss of which g_retain is the gradient: what every method's own has to say of itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, Self

from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.features import AnchorBatch, FeatureSpec
from craft_trainer.losses.term import LossSettings, Need, Scales
from craft_trainer.models.base import AnchoredModel


class TrainingStart(NamedTuple):
    """The parts that a loss is made from, before the first step: the student still equals its teacher.

    Attributes:
        model: the student.
        specs: the hidden features that the anchors have.
        scales: gives the teacher's units; they may cost passes of the teacher.
        num_anchors: how many anchors there are.
        read: gives the anchors of some rows, on the model's device.
        settings: of the run.
        sharded: whether FSDP shards the model.
    """

    model: AnchoredModel
    specs: Sequence[FeatureSpec]
    scales: Callable[[], Scales]
    num_anchors: int
    read: Callable[[list[int]], AnchorBatch]
    settings: LossSettings
    sharded: bool


class RetentionLoss(ABC):
    """A loss of the student on a batch of anchors.

    Attributes:
        needs: what it reads of an anchor.
        per_anchor: whether there is one loss per anchor, rather than one of the whole batch.
        supports_sharding: whether FSDP may shard the model.
    """

    needs: Need
    per_anchor: ClassVar[bool] = False
    supports_sharding: ClassVar[bool] = True

    @classmethod
    def begin(cls, start: TrainingStart) -> Self:
        """Make the loss of a run; without more, of one of which nothing has to be known.

        Raises:
            ValueError: the anchors lack what it needs.
        """
        return cls()

    @abstractmethod
    def __call__(self, model: AnchoredModel, anchors: AnchorBatch) -> Float[Tensor, " losses"]:
        """Compute the losses, one per anchor or one in all; differentiable."""
