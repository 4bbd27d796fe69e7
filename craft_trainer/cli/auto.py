"""``--anchors auto`` of `train`: anchors without a second command, kept in the run's own folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.features import FeatureSpec
    from craft_trainer.anchors.processes import Processes
    from craft_trainer.cli.train import TrainArguments
    from craft_trainer.language.checkpoints import Checkpoint
    from craft_trainer.models.base import AnchoredModel
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.models.lerobot_dataset import PolicyDataset
    from craft_trainer.training.config import CraftConfig

NUM_TEXTS = 512  # that a language model writes itself, as in configs/anchors/lm.yaml
NUM_TOKENS = 128  # of a text, at most; fewer if the model has fewer positions
TEXT_BATCH = 16
SEED = 0


def anchors_of_policy(
    arguments: "TrainArguments", config: "CraftConfig", model: "PolicyModel", dataset: "PolicyDataset"
) -> "AnchorCache":
    """Build, or find again, the anchors of ``model`` from the ``dataset`` that it is about to learn."""
    from accelerate import PartialState

    from craft_trainer.anchors import auto
    from craft_trainer.anchors.processes import Processes
    from craft_trainer.training.drift import preserve_rng_state

    folder, path = Path(config.output_dir) / auto.FOLDER, str(arguments.model)
    with preserve_rng_state(), Processes(PartialState()) as processes:
        cache = auto.auto_anchors(model, dataset, folder, path=path, processes=processes)
    counts = " and ".join(f"{count:,} of {source}" for source, count in cache.provenance.groups.items())
    views = f"{auto.NUM_VIEWS} views, view_noise {auto.VIEW_NOISE:g}"
    processes.print(f"anchors: auto takes {counts} ({views}), which {path} labels itself: {folder}")
    return cache


def anchors_of_language_model(
    arguments: "TrainArguments", config: "CraftConfig", checkpoint: "Checkpoint"
) -> "AnchorCache":
    """Let the model write texts as it is now, or find again those that it wrote when the run began."""
    from accelerate import PartialState

    from craft_trainer.anchors import auto
    from craft_trainer.anchors.features import feature_specs, layer_paths
    from craft_trainer.anchors.processes import Processes
    from craft_trainer.cli.text_training import HELD_USUALLY
    from craft_trainer.models.embeddings import Embeddings
    from craft_trainer.models.families import as_anchored_model
    from craft_trainer.training.drift import preserve_rng_state

    folder, teacher = Path(config.output_dir) / auto.FOLDER, as_anchored_model(checkpoint.model)
    layers, poolings = arguments.held(*HELD_USUALLY)
    specs = feature_specs(layer_paths(teacher, layers).values(), poolings)
    positions = Embeddings.of(checkpoint.model).positions
    new_tokens = NUM_TOKENS if positions is None else min(NUM_TOKENS, positions - 1)  # a text begins with one more
    made = {"source": "own_texts", "frames": NUM_TEXTS, "own_tokens": new_tokens, "num_tokens": arguments.num_tokens}
    cache = auto.made_before(folder, teacher, specs, made)
    if cache is None:
        before = next(checkpoint.model.parameters()).device
        checkpoint.model.to(config.device)
        with preserve_rng_state(), Processes(PartialState()) as processes:
            path = str(arguments.model)
            cache = write_texts(checkpoint, folder, made, processes, teacher=teacher, specs=specs, path=path)
        checkpoint.model.to(before)
    PartialState().print(
        f"anchors: auto takes {len(cache)} texts that {arguments.model} writes itself, each of at most {new_tokens} "
        f"tokens: {folder}"
    )
    return cache


def write_texts(
    checkpoint: "Checkpoint",
    folder: Path,
    made: Mapping[str, Any],
    processes: "Processes",
    *,
    teacher: "AnchoredModel",
    specs: "Sequence[FeatureSpec]",
    path: str,
) -> "AnchorCache":
    """Build the cache ``folder`` of texts that the model writes from nothing, as ``made`` says; ``path`` is its own."""
    from craft_trainer.anchors.auto import build_auto
    from craft_trainer.language.anchoring import by_length, own_texts

    writing = {"new_tokens": made["own_tokens"], "batch_size": TEXT_BATCH, "seed": SEED}
    texts = processes.once(lambda: own_texts(checkpoint, None, made["frames"], **writing))
    rows = by_length(texts.lengths, range(len(texts)))
    return build_auto(
        teacher,
        texts.batch,
        folder,
        rows=rows,
        groups=[texts.groups[row] for row in rows],
        specs=specs,
        source={"dataset": "written by the teacher", **made, "fingerprint": texts.fingerprint()},
        teacher_path=path,
        batch_size=TEXT_BATCH,
        num_tokens=made["num_tokens"],
        processes=processes,
    )
