"""Hold what the teacher computed on its anchors: hidden features, outputs, tokens. This is CRaFT's own loss."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.features import TASK_SCALE, TOKEN_SCALE, AnchorBatch, Features, FeatureSpec, extract
from craft_trainer.losses.loss import RetentionLoss, TrainingStart
from craft_trainer.losses.term import Need, RetentionTerm, Scales
from craft_trainer.losses.terms import TERMS
from craft_trainer.models.base import AnchoredModel


class DistillationLoss(RetentionLoss):
    """L_retain = Σ w · term for every anchor; see :func:`retention_loss`."""

    per_anchor = True

    def __init__(
        self,
        specs: Sequence[FeatureSpec],
        scales: Scales,
        terms: Mapping[RetentionTerm, float],
        *,
        whole_pass: bool = False,
    ) -> None:
        """Hold ``terms``, each times its weight, on anchors that have ``specs`` and ``scales`` of their teacher.

        ``whole_pass`` runs the model to its end, and the loss reaches it: FSDP2 reduces gradients from there on.

        Raises:
            ValueError: the anchors lack what a term needs.
        """
        check_terms(terms, _pieces(specs, scales))
        self.needs = reduce(or_, (term.needs for term in terms))
        self._specs = list(specs) if Need.HIDDEN in self.needs else []
        self._scales, self._terms = scales, terms
        self._whole_pass = whole_pass
        self._output = whole_pass or self.needs != Need.HIDDEN

    @classmethod
    def begin(cls, start: TrainingStart) -> Self:
        """Hold the terms that the settings name."""
        weights = start.settings.term_weights
        terms = {TERMS[name].configured(start.settings): weight for name, weight in weights.items()}
        return cls(start.specs, start.scales(), terms, whole_pass=start.sharded)

    def __call__(self, model: AnchoredModel, anchors: AnchorBatch) -> Float[Tensor, " batch"]:
        """Run the student up to the deepest held layer, or to its end if a term compares what comes out there."""
        student = extract(model, anchors.inputs, self._specs, output=self._output, task=Need.TASK in self.needs)
        losses = retention_loss(student, anchors.teacher, self._scales, self._terms)
        if self._whole_pass and student.output is not None:
            losses = losses + 0 * student.output.flatten(1).sum(dim=1)
        return losses


def retention_loss(
    student: Features, teacher: Features, scales: Scales, terms: Mapping[RetentionTerm, float]
) -> Float[Tensor, " batch"]:
    """Sum w · term of every anchor over ``terms``, each in units of the teacher's own ``scales``.

    So a value of 0.05 with unit weight means 5 % of the teacher's variance (of its entropy, for tokens).
    """
    return torch.stack([weight * term(student, teacher, scales) for term, weight in terms.items()]).sum(dim=0)


def _pieces(specs: Sequence[FeatureSpec], scales: Scales) -> Need:
    """Find the pieces of their teacher that anchors with ``specs`` and ``scales`` have."""
    found = {Need.HIDDEN: bool(specs), Need.OUTPUT: "output" in scales, Need.TOKENS: TOKEN_SCALE in scales}
    found[Need.TASK] = TASK_SCALE in scales
    return reduce(or_, (piece for piece, there in found.items() if there), Need.NOTHING)


def check_terms(terms: Iterable[RetentionTerm | type[RetentionTerm]], held: Need) -> None:
    """Refuse, by a ValueError, a term that needs of an anchor what is not ``held`` there."""
    for term in terms:
        if term.needs not in held:
            possible = ", ".join(name for name, one in TERMS.items() if one.needs in held)
            raise ValueError(
                f"retention term {term.name!r} cannot be held: the anchors have {held} of their teacher. Set "
                f"retention_terms to some of {possible}, or {term.way_out}"
            )
