"""The trap: a teacher's answers held on the very inputs whose new answers are to be learned forbid learning them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import datasets
from torch.utils.data import Subset

from craft_trainer.anchors.cache import ROW_COLUMN, AnchorCache
from craft_trainer.anchors.features import TASK_SCALE, TOKEN_SCALE
from craft_trainer.anchors.joining import PARTS, data_parts
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.anchors.provenance import AUTO
from craft_trainer.losses.distillation import DistillationLoss
from craft_trainer.losses.term import Need
from craft_trainer.losses.terms import TERMS
from craft_trainer.optim.constraints import EVERYTHING
from craft_trainer.training.schedule import smallest_epsilon
from craft_trainer.training.settings import RetentionSettings

OTHER_INSTRUCTIONS = "prompts"  # in the data of a cache whose anchors have other sentences than their dataset
UNKNOWN = 1.0  # how far labels are taken to be from the teacher's answers, in the unit of ε
OTHER_ANCHORS = (
    "hold hidden features alone (retention_terms: [hidden]), or give the anchors old instructions or inputs of another "
    "source"
)


@runtime_checkable
class ComparableData(Protocol):
    """A training dataset whose samples can be found again among anchors: those of ``craft-trainer train``."""

    def fingerprint(self) -> str:
        """SHA-256 of what is in it."""

    def rows_in_common(self, inputs: datasets.Dataset, learned: Sequence[int] | None = None) -> list[int]:
        """The rows of ``inputs``, those of anchors, that are also inputs of a ``learned`` sample, by default of any.

        None where it cannot be told.
        """

    def __len__(self) -> int: ...


def refuse_learned_inputs(anchors: AnchorCache | AdapterAnchors, learned: Any, settings: RetentionSettings) -> None:
    """Refuse anchors with inputs of ``learned`` while terms hold the teacher's answers to them, and ε leaves no room.

    A student that learns the labels of a share f of the anchors has L_retain ≥ w·f·d, w the weight of the term and d
    how far these labels are from the teacher's answers, in the unit of ε; 1 where it is not known. The run is refused
    if that is more than the smallest ε of the run, unless ``learned_inputs`` is allow. Where every group has a
    constraint, f and ε are those of a group. Data that cannot be compared passes.

    Raises:
        ValueError: learning and holding exclude each other.
    """
    held = answers_held(settings)
    data = learned.dataset if isinstance(learned, Subset) else learned
    if not held or settings.learned_inputs == "allow" or not isinstance(data, ComparableData):
        return
    rows = learned_rows(anchors, data, learned.indices if isinstance(learned, Subset) else None)
    if not rows:
        return
    loss = max(held.values()) * _apart(anchors, rows)
    if all(share * loss <= smallest_epsilon(settings, group) for group, share in _shares(anchors, rows, settings)):
        return
    raise ValueError(
        f"{len(rows)} of {len(anchors)} anchors have the inputs that are to be learned, so holding the teacher's "
        f"answers to them ({', '.join(held)}) forbids learning the new ones: {OTHER_ANCHORS}. If "
        "you mean it, as in Learning without Forgetting, set learned_inputs: allow"
    )


def learned_rows(
    anchors: AnchorCache | AdapterAnchors, data: ComparableData, learned: Sequence[int] | None = None
) -> list[int]:
    """The anchors whose inputs are also those of a sample of ``data``, of the ``learned`` ones if not all are.

    If they are of the same dataset, by its fingerprint, those of its samples that are learned. Otherwise embedded
    inputs are compared: pictures are not, so a policy's anchor is the frame with its state and sentence. So are those
    of a cache that was joined, whose rows may have been counted anew.
    """
    everything = list(range(len(anchors)))
    if isinstance(anchors, AdapterAnchors):
        return everything if anchors.fingerprint and anchors.fingerprint == data.fingerprint() else []
    parts = data_parts(anchors.provenance.data)
    same_size = all(part["frames"] == len(data) and OTHER_INSTRUCTIONS not in part for part in parts)
    if same_size and {part["fingerprint"] for part in parts} == {data.fingerprint()}:
        if learned is None:
            return everything
        if PARTS not in anchors.provenance.data or anchors.embedded_inputs() is None:
            chosen = set(learned)
            return [place for place, row in enumerate(anchors.dataset[ROW_COLUMN][:]) if row in chosen]
    return [] if (inputs := anchors.embedded_inputs()) is None else data.rows_in_common(inputs, learned)


def answers_held(settings: RetentionSettings) -> dict[str, float]:
    """The terms that hold the teacher's answers, with their weights."""
    recipe = settings.recipe
    weighs = recipe.multiplier != "fixed" or recipe.multiplier_init > 0
    if recipe.loss is not DistillationLoss or not weighs:
        return {}
    answers = Need.OUTPUT | Need.TOKENS
    return {name: weight for name, weight in settings.term_weights.items() if weight and TERMS[name].needs & answers}


def may_hold_what_is_learned(anchors: object, settings: RetentionSettings) -> bool:
    """True if answers are held and somebody chose the anchors: those of ``auto`` are never inputs that are learned."""
    chosen = anchors.provenance.data.get("chosen") if isinstance(anchors, AnchorCache) else None
    return chosen != AUTO and bool(answers_held(settings))


def _shares(
    anchors: AnchorCache | AdapterAnchors, rows: Sequence[int], settings: RetentionSettings
) -> Iterator[tuple[str, float]]:
    """The part of the anchors of every constraint that ``rows`` are, with the constraint's group."""
    groups = anchors.groups if settings.constraints == "per_group" else [EVERYTHING] * len(anchors)
    every = Counter(groups)
    for group, count in Counter(groups[row] for row in rows).items():
        yield group, count / every[group]


def _apart(anchors: AnchorCache | AdapterAnchors, rows: Sequence[int]) -> float:
    """The distance of ``rows``' labels from the teacher's answers, in the unit of ε.

    That is the teacher's task loss; of tokens what exceeds the entropy. A velocity has noise in its labels, so it is
    taken for as far as it seems.
    """
    losses = None if isinstance(anchors, AdapterAnchors) else anchors.task_losses(rows)
    if losses is None:
        return UNKNOWN
    assert isinstance(anchors, AnchorCache)
    scales = anchors.scales()
    match anchors.provenance.storage["task_unit"]:
        case "standard deviation":
            return float(losses.square().mean() / scales["output"])
        case "mean entropy":
            return float((losses.mean() - scales[TOKEN_SCALE]) / scales[TOKEN_SCALE])
    return float(losses.mean() / scales[TASK_SCALE])
