"""``anchors="auto"``: a run makes its own anchors before it learns, and keeps them in its own folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn
from torch.utils.data import Subset
from transformers import TrainingArguments

from craft_trainer.anchors import auto
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import DEFAULT_TOP_K, FeatureSpec, feature_specs, layer_paths
from craft_trainer.anchors.processes import Processes
from craft_trainer.anchors.sources.frames import Frames
from craft_trainer.language.auto import auto_texts
from craft_trainer.language.checkpoints import Checkpoint
from craft_trainer.losses.distillation import DistillationLoss, check_terms
from craft_trainer.losses.term import Need
from craft_trainer.losses.terms import TERMS
from craft_trainer.models.causal_lm import CausalLM
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.general import base_model
from craft_trainer.models.vision_language import VisionLanguage
from craft_trainer.training.config import retention_settings
from craft_trainer.training.distribution import require_whole
from craft_trainer.training.drift import preserve_rng_state


def own_anchors(
    model: nn.Module,
    args: TrainingArguments,
    dataset: Any = None,
    processor: Any = None,
    *,
    layers: Sequence[str] = ("none",),
    pooling: Sequence[str] = ("mean_masked",),
    num_tokens: int = DEFAULT_TOP_K,
    num_texts: int | None = None,
    own_tokens: int | None = None,
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
        num_texts: how many texts a language model writes; by default 512.
        own_tokens: tokens of each of them, at most; by default 128.
        path: where the model was loaded from, for the cache's card; by default what it says itself.

    Raises:
        TypeError: the model cannot be anchored.
        ValueError: nothing can be taken for this model and this data without a decision (the message names the function
            that takes it), a policy is given a number of texts, DeepSpeed has split the model already, or the folder
            holds anchors of another run.
    """
    require_whole(model, "anchors: auto cannot ask it for anchors", way_out="build a cache of it and give its folder")
    folder, view = Path(args.output_dir) / auto.FOLDER, as_anchored_model(model)
    said = getattr(model, "origin", None) or getattr(base_model(model), "name_or_path", None)
    path = path or str(said or type(model).__name__)
    with preserve_rng_state(), Processes(PartialState()) as processes:
        if isinstance(view, auto.ObservingPolicy):
            if (num_texts, own_tokens) != (None, None):
                raise ValueError("num_texts and own_tokens are of language models, and a policy writes no texts")
            cache = auto.auto_anchors(view, frames_of(dataset), folder, path=path, processes=processes)
            counts = " and ".join(f"{count:,} of {source}" for source, count in cache.provenance.groups.items())
            views = f"{auto.NUM_VIEWS} views, view_noise {auto.VIEW_NOISE:g}"
            taken = f"{counts} ({views}), which {path} labels itself"
        elif isinstance(view, CausalLM | VisionLanguage):
            specs = feature_specs(layer_paths(view, layers).values(), pooling)
            _check_terms(args, specs)
            size = {"num_texts": num_texts, "own_tokens": own_tokens}
            building = {"specs": specs, "num_tokens": num_tokens, "path": path, "device": args.device, **size}
            cache = auto_texts(Checkpoint(model, processor), view, folder, processes, **building)
            most = cache.provenance.data["own_tokens"]
            taken = f"{len(cache)} texts that {path} writes itself, each of at most {most} tokens"
        else:
            raise ValueError(
                f"anchors: auto knows policies and language models, and {type(model).__name__} is neither: build a "
                "cache with craft_trainer.anchors.building.build_anchor_cache, and give it as anchors"
            )
        processes.print(f"anchors: auto takes {taken}: {folder}")
    return cache


def _check_terms(args: TrainingArguments, specs: Sequence[FeatureSpec]) -> None:
    """Refuse what texts that a language model writes cannot hold, before it writes them: minutes on a CPU."""
    settings = retention_settings(args)
    if settings.recipe.loss is DistillationLoss:
        held = Need.TOKENS | Need.TASK | (Need.HIDDEN if specs else Need.NOTHING)
        check_terms([TERMS[name] for name in settings.retention_terms], held)


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
