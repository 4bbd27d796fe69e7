"""Anchors of language models: what is held of a teacher, on which texts."""

from collections.abc import Sequence
from typing import Any

from craft_trainer.anchors.features import DEFAULT_TOP_K, feature_specs, layer_paths
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.anchors.selection import stratified_rows
from craft_trainer.language.checkpoints import Checkpoint
from craft_trainer.language.own_texts import OwnTexts, from_nothing, read_questions_of, written_by
from craft_trainer.language.samples import TextSamples
from craft_trainer.language.source import TextSource
from craft_trainer.models.families import as_anchored_model


def by_length(samples: TextSamples | OwnTexts, rows: Sequence[int]) -> list[int]:
    """``rows`` in the order of their lengths: a batch of like lengths has little padding to compute and to store."""
    lengths = samples.lengths
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
    return AdapterAnchors(view, samples.batch, samples.groups, specs, num_tokens=num_tokens)
