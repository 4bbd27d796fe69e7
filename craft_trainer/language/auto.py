"""Anchors that ask for no decision, of a language model: texts that it writes itself."""

from collections.abc import Sequence
from pathlib import Path

import torch

from craft_trainer.anchors.auto import build_auto, made_before
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.anchors.processes import Processes
from craft_trainer.language.anchoring import by_length, own_texts
from craft_trainer.language.checkpoints import Checkpoint
from craft_trainer.language.source import QUANTIZATION, TEACHER_DTYPE
from craft_trainer.models.base import AnchoredModel
from craft_trainer.models.embeddings import Embeddings
from craft_trainer.models.general import base_model
from craft_trainer.models.quantization import quantised_when_loaded

NUM_TEXTS = 512  # as in configs/anchors/lm.yaml
NUM_TOKENS = 128  # of a text, at most; fewer if the model has fewer positions
BATCH = 16
SEED = 0


def auto_texts(
    checkpoint: Checkpoint,
    teacher: AnchoredModel,
    folder: Path,
    processes: Processes,
    *,
    specs: Sequence[FeatureSpec],
    num_tokens: int,
    path: str,
    device: torch.device,
    num_texts: int | None = None,
    own_tokens: int | None = None,
) -> AnchorCache:
    """Texts that the model writes from nothing on ``device``, in the cache ``folder``, or those of an earlier start.

    Args:
        num_texts: how many; by default ``NUM_TEXTS``.
        own_tokens: of each, at most; by default ``NUM_TOKENS``, or what the model has positions for.

    Raises:
        ValueError: the checkpoint has no tokenizer, the model has fewer positions than ``own_tokens``, a number is
            below 1, or ``folder`` holds anchors of another run.
    """
    processor = checkpoint.processor
    if not hasattr(getattr(processor, "tokenizer", processor), "eos_token_id"):
        raise ValueError(
            "anchors: auto lets the model write texts, and needs its tokenizer for that: give it as processing_class, "
            "or build a cache with craft_trainer.anchors.building.build_anchor_cache"
        )
    positions = Embeddings.of(checkpoint.model).positions
    if own_tokens is None:
        own_tokens = NUM_TOKENS if positions is None else min(NUM_TOKENS, positions - 1)  # a text begins with one more
    num_texts = NUM_TEXTS if num_texts is None else num_texts
    if num_texts < 1 or own_tokens < 1:
        raise ValueError(f"num_texts and own_tokens must be 1 or more, not {num_texts} and {own_tokens}")
    made = {"source": "own_texts", "frames": num_texts, "own_tokens": own_tokens, "num_tokens": num_tokens}
    if found := made_before(folder, teacher, specs, made):
        return found
    before = next(checkpoint.model.parameters()).device
    if before != device:
        checkpoint.model.to(device)
    writing = {"new_tokens": own_tokens, "batch_size": BATCH, "seed": SEED}
    texts = processes.once(lambda: own_texts(checkpoint, None, num_texts, **writing))
    rows = by_length(texts.lengths, range(len(texts)))
    told = {"dataset": "written by the teacher", TEACHER_DTYPE: str(checkpoint.model.dtype).removeprefix("torch.")}
    if quantization := quantised_when_loaded(base_model(checkpoint.model)):
        told[QUANTIZATION] = quantization
    cache = build_auto(
        teacher,
        texts.batch,
        folder,
        rows=rows,
        groups=[texts.groups[row] for row in rows],
        specs=specs,
        source={**told, **made, "fingerprint": texts.fingerprint()},
        teacher_path=path,
        batch_size=BATCH,
        num_tokens=num_tokens,
        processes=processes,
    )
    if before != device:
        checkpoint.model.to(before)
    return cache
