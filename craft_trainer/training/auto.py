"""``anchors="auto"``: a run makes its own anchors before it learns, and keeps them in its own folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import Subset
from transformers import TrainingArguments

from craft_trainer.anchors import auto
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import DEFAULT_TOP_K, FeatureSpec, feature_specs, layer_paths
from craft_trainer.anchors.processes import Processes
from craft_trainer.anchors.sources.frames import Frames
from craft_trainer.language.anchoring import by_length, own_texts
from craft_trainer.language.checkpoints import Checkpoint
from craft_trainer.language.source import QUANTIZATION, TEACHER_DTYPE
from craft_trainer.models.base import AnchoredModel
from craft_trainer.models.causal_lm import CausalLM
from craft_trainer.models.embeddings import Embeddings
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.general import base_model
from craft_trainer.models.quantization import quantised_when_loaded
from craft_trainer.models.vision_language import VisionLanguage
from craft_trainer.training.distribution import require_whole
from craft_trainer.training.drift import preserve_rng_state

NUM_TEXTS = 512  # that a language model writes itself, as in configs/anchors/lm.yaml
NUM_TOKENS = 128  # of a text, at most; fewer if the model has fewer positions
TEXT_BATCH = 16
SEED = 0


def own_anchors(
    model: nn.Module,
    args: TrainingArguments,
    dataset: Any = None,
    processor: Any = None,
    *,
    layers: Sequence[str] = ("none",),
    pooling: Sequence[str] = ("mean_masked",),
    num_tokens: int = DEFAULT_TOP_K,
    path: str = "",
) -> AnchorCache:
    """Anchors that ``model`` makes itself as it is now, in the folder ``_anchors`` of ``args.output_dir``.

    A policy labels states and perturbed frames of ``dataset``, which it is about to learn
    (:func:`craft_trainer.anchors.auto.auto_anchors`). A language model writes texts. The main process prints in a line
    what was taken. Anchors of the same model that are there already are opened again, as by a run that resumes.

    Args:
        processor: tokenizer or processor of a language model.
        layers: hidden layers of a language model that are held, and the ``pooling`` of each.
        num_tokens: likeliest tokens of a language model that are held at every position.
        path: where the model was loaded from, for the cache's card; by default what it says itself.

    Raises:
        TypeError: the model cannot be anchored.
        ValueError: nothing can be taken for this model and this data without a decision (the message names the function
            that takes it), DeepSpeed has split the model already, or the folder holds anchors of another run.
    """
    require_whole(model, "anchors: auto cannot ask it for anchors", way_out="build a cache of it and give its folder")
    folder, view = Path(args.output_dir) / auto.FOLDER, as_anchored_model(model)
    said = getattr(model, "origin", None) or getattr(base_model(model), "name_or_path", None)
    path = path or str(said or type(model).__name__)
    with preserve_rng_state(), Processes(PartialState()) as processes:
        if isinstance(view, auto.ObservingPolicy):
            cache = auto.auto_anchors(view, frames_of(dataset), folder, path=path, processes=processes)
            counts = " and ".join(f"{count:,} of {source}" for source, count in cache.provenance.groups.items())
            views = f"{auto.NUM_VIEWS} views, view_noise {auto.VIEW_NOISE:g}"
            taken = f"{counts} ({views}), which {path} labels itself"
        elif isinstance(view, CausalLM | VisionLanguage):
            specs = feature_specs(layer_paths(view, layers).values(), pooling)
            cache = text_anchors(
                Checkpoint(model, with_tokens(processor)),
                view,
                folder,
                processes,
                specs=specs,
                num_tokens=num_tokens,
                path=path,
                device=args.device,
            )
            most = cache.provenance.data["own_tokens"]
            taken = f"{len(cache)} texts that {path} writes itself, each of at most {most} tokens"
        else:
            raise ValueError(
                f"anchors: auto knows policies and language models, and {type(model).__name__} is neither: build a "
                "cache with craft_trainer.anchors.building.build_anchor_cache, and give it as anchors"
            )
        processes.print(f"anchors: auto takes {taken}: {folder}")
    return cache


def frames_of(dataset: Any) -> Frames:
    """The frames of a dataset, or of that which it is a part of; a ValueError if it has none."""
    whole = dataset.dataset if isinstance(dataset, Subset) else dataset
    if not isinstance(whole, Frames):
        found = "there is none" if whole is None else f"a {type(whole).__name__} has none that it can read"
        raise ValueError(
            f"anchors: auto perturbs the frames of train_dataset, and {found}: give PolicyDataset.of(model, name) of "
            "craft_trainer.models.lerobot_dataset as train_dataset, or build anchors with "
            "craft_trainer.anchors.auto.auto_anchors(model, dataset, folder)"
        )
    return whole


def with_tokens(processor: Any) -> Any:
    """``processor``, if texts can be written with it; a ValueError otherwise."""
    if not hasattr(getattr(processor, "tokenizer", processor), "eos_token_id"):
        raise ValueError(
            "anchors: auto lets the model write texts, and needs its tokenizer for that: give it as processing_class, "
            "or build a cache with craft_trainer.anchors.building.build_anchor_cache"
        )
    return processor


def text_anchors(
    checkpoint: Checkpoint,
    teacher: AnchoredModel,
    folder: Path,
    processes: Processes,
    *,
    specs: Sequence[FeatureSpec],
    num_tokens: int,
    path: str,
    device: torch.device,
) -> AnchorCache:
    """Texts that the model writes from nothing on ``device``, in the cache ``folder``, or those of an earlier start."""
    positions = Embeddings.of(checkpoint.model).positions
    new_tokens = NUM_TOKENS if positions is None else min(NUM_TOKENS, positions - 1)  # a text begins with one more
    made = {"source": "own_texts", "frames": NUM_TEXTS, "own_tokens": new_tokens, "num_tokens": num_tokens}
    if found := auto.made_before(folder, teacher, specs, made):
        return found
    before = next(checkpoint.model.parameters()).device
    if before != device:
        checkpoint.model.to(device)
    writing = {"new_tokens": new_tokens, "batch_size": TEXT_BATCH, "seed": SEED}
    texts = processes.once(lambda: own_texts(checkpoint, None, NUM_TEXTS, **writing))
    rows = by_length(texts.lengths, range(len(texts)))
    told = {"dataset": "written by the teacher", TEACHER_DTYPE: str(checkpoint.model.dtype).removeprefix("torch.")}
    if quantization := quantised_when_loaded(base_model(checkpoint.model)):
        told[QUANTIZATION] = quantization
    cache = auto.build_auto(
        teacher,
        texts.batch,
        folder,
        rows=rows,
        groups=[texts.groups[row] for row in rows],
        specs=specs,
        source={**told, **made, "fingerprint": texts.fingerprint()},
        teacher_path=path,
        batch_size=TEXT_BATCH,
        num_tokens=num_tokens,
        processes=processes,
    )
    if before != device:
        checkpoint.model.to(before)
    return cache
