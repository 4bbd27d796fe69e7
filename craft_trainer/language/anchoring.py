"""Anchors of language models: what is held of a teacher, on which texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from craft_trainer.anchors.features import DEFAULT_TOP_K, feature_specs, layer_paths
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.anchors.selection import stratified_rows
from craft_trainer.language.checkpoints import Checkpoint
from craft_trainer.language.own_texts import OwnTexts, from_nothing, read_questions_of, written_by
from craft_trainer.language.samples import TextSamples
from craft_trainer.language.source import TextSource
from craft_trainer.models.families import as_anchored_model


@dataclass(frozen=True)
class TextAnchors:
    """Texts as a source of anchors, see :class:`craft_trainer.anchors.sources.source.AnchorSource`.

    Attributes:
        data: what the provenance says of them.
        group: of all of them; each has its own if None.
    """

    samples: TextSamples | OwnTexts
    data: Mapping[str, Any]
    group: str | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of every text."""
        return self.samples.lengths

    @property
    def groups(self) -> list[str]:
        """The old task of every text."""
        return self.samples.groups if self.group is None else [self.group] * len(self)

    @property
    def strata(self) -> list[tuple[str]]:
        """The group of every text, over which a stratified selection spreads."""
        return [(group,) for group in self.groups]

    def batch(self, rows: list[int]) -> dict[str, Any]:
        """The texts at ``rows``, collated."""
        return self.samples.batch(rows)

    def description(self) -> Mapping[str, Any]:
        """The description for the provenance."""
        return {"frames": len(self), "fingerprint": self.samples.fingerprint(), **self.data}


def by_length(lengths: Sequence[int], rows: Sequence[int]) -> list[int]:
    """``rows`` in the order of their lengths: a batch of like lengths has little padding to compute and to store."""
    return sorted(rows, key=lambda row: (lengths[row], row))


def own_texts(
    checkpoint: Checkpoint, prompts: TextSource | None, count: int, *, seed: int, **settings: Any
) -> OwnTexts:
    """``count`` texts that the teacher writes: answers to ``prompts``, drawn evenly from its groups, or from nothing.

    ``settings`` are those of :func:`written_by`; a ValueError if there are fewer prompts.
    """
    if prompts is None:
        questions = from_nothing(count)
    else:
        every = read_questions_of(prompts, checkpoint.processor)
        rows = stratified_rows([(question.group,) for question in every], count, seed=seed)
        questions = [every[row] for row in rows]
    return written_by(checkpoint.model, checkpoint.processor, questions, seed=seed, **settings)


def adapter_anchors(
    checkpoint: Checkpoint,
    samples: TextSamples,
    layers: Sequence[str],
    poolings: Sequence[str],
    *,
    num_tokens: int = DEFAULT_TOP_K,
) -> AdapterAnchors:
    """Anchors whose teacher is the model without its adapter, run whenever they are needed."""
    view = as_anchored_model(checkpoint.model)
    specs = feature_specs(layer_paths(view, layers).values(), poolings)
    return AdapterAnchors(
        view, samples.batch, samples.groups, specs, num_tokens=num_tokens, fingerprint=samples.fingerprint()
    )
