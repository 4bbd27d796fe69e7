"""``craft-trainer cache build-lm``: a language model's features and tokens on texts of what it knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_trainer.cli.arguments import parse
from craft_trainer.cli.texts import TextArguments
from craft_trainer.options import option, split_list

if TYPE_CHECKING:
    from craft_trainer.language.checkpoints import Checkpoint

EXAMPLE = "craft-trainer cache build-lm --teacher org/model --dataset old_texts.jsonl --output_dir outputs/lm/anchors"
TEXTS = ("dataset", "own")


@dataclass(kw_only=True)
class BuildLmArguments(TextArguments):
    """Which teacher, which texts, what of it is kept."""

    teacher: str = option(
        "language or vision-language model whose behaviour is to be kept: a folder or a Hub repository (org/name, "
        "org/name@revision), or a PEFT adapter"
    )
    output_dir: str = option("folder of the new anchor cache; it must not exist")
    dataset: str | None = option(  # not needed with texts: own
        "texts of what is to be kept: JSON lines, a folder, or a dataset of the Hub; with texts: own the prompts that "
        "the teacher answers",
        None,
    )
    texts: str = option(
        "dataset, or own: texts that the teacher writes itself, after the prompts of dataset if given", "dataset"
    )
    group_column: str | None = option("column that says which old task a row belongs to (constraints per_group)", None)
    teacher_dtype: str = option("of the teacher's weights: the same as dtype of train-lm", "float32")
    layers: list[str] = option(
        "hidden layers: indices (-1 is the last) or module paths; none for no features", ["none"]
    )
    pooling: list[str] = option(
        "of every layer: none (every token), mean_masked, mean_image_tokens, last_token, cls_token, or several",
        ["mean_masked"],
    )
    anchors: int = option("number of samples", 1000)
    selection: str = option(
        "which samples of a dataset: stratified (evenly over groups), uniform, or k_center (spread over the features "
        "of the last layer, which takes a pass of the teacher over all samples)",
        "stratified",
    )
    seed: int = option("chooses the samples, and what the teacher writes", 0)
    output: bool = option("keep the teacher's likeliest tokens; false is hidden features only", True)
    num_tokens: int = option("likeliest tokens kept per position", 32)
    own_tokens: int = option("of texts that the teacher writes: tokens at most", 128)
    own_temperature: float = option("of texts that the teacher writes: 1 is its own distribution", 1.0)
    inputs: str = option("embedded (the samples are in the cache) or reference (only their rows are)", "embedded")
    dtype: str = option("of the features in the cache: float32 or float16", "float32")
    batch_size: int = option("samples per forward pass of the teacher", 16)
    num_workers: int = option("processes that load samples ahead of the teacher", 0)
    device: str | None = option("cpu, cuda, …; by default the first accelerator", None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.texts not in TEXTS:
            raise ValueError(f"texts is {self.texts!r}: it must be one of {', '.join(TEXTS)}")
        if self.texts == "dataset" and self.dataset is None:
            raise ValueError("give a dataset of texts, or texts: own, and the teacher writes them itself")
        if self.texts == "own" and self.inputs == "reference":
            raise ValueError("texts that the teacher writes are nowhere to refer to: keep inputs embedded")


def run(argv: Sequence[str]) -> None:
    """Build the cache and say what it holds; several processes (accelerate launch) share the work."""
    arguments = parse("cache build-lm", EXAMPLE, BuildLmArguments, argv)
    import torch
    from accelerate import PartialState

    from craft_trainer.anchors.building import build_anchor_cache
    from craft_trainer.anchors.features import TOKEN_SCALE, feature_specs, layer_paths
    from craft_trainer.language.checkpoints import load_checkpoint
    from craft_trainer.models.families import as_anchored_model

    if Path(arguments.output_dir).exists():
        raise FileExistsError(f"{arguments.output_dir} exists: delete it, or choose another folder")
    processes = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))  # shares may be uneven
    device = arguments.device or str(processes.device)
    checkpoint = load_checkpoint(arguments.teacher, dtype=arguments.teacher_dtype, device=device)
    teacher = as_anchored_model(checkpoint.model)
    paths = layer_paths(teacher, split_list(arguments.layers))
    for layer, path in paths.items():
        processes.print(f"layer {layer} → {path}")
    samples, rows, source = texts_of(arguments, checkpoint, processes)
    cache = build_anchor_cache(
        teacher,
        samples.batch,
        Path(arguments.output_dir),
        rows=rows,
        groups=[samples.groups[row] for row in rows],
        specs=feature_specs(paths.values(), split_list(arguments.pooling)),
        batch_size=arguments.batch_size,
        source=source,
        teacher_path=arguments.teacher,
        num_tokens=arguments.num_tokens,
        output=arguments.output,
        inputs=arguments.inputs,
        dtype=arguments.dtype,
        num_workers=arguments.num_workers,
        processes=processes,
    )
    groups = ", ".join(f"{count} of {group}" for group, count in cache.provenance.groups.items())
    processes.print(
        f"{len(cache)} anchors: {groups}; the teacher's tokens are {'' if arguments.output else 'not '}kept"
    )
    if TOKEN_SCALE in (scales := cache.scales()):
        entropy = scales[TOKEN_SCALE].item()
        processes.print(f"its mean entropy is {entropy:.3g} nats: epsilon 0.05 is {0.05 * entropy:.3g} nats per token")
    processes.print(f"fingerprint {cache.provenance.fingerprint[:12]}: {arguments.output_dir}")
    processes.print(f"next: craft-trainer train-lm --model {arguments.teacher} --anchors {arguments.output_dir} …")


def texts_of(
    arguments: BuildLmArguments, checkpoint: "Checkpoint", processes: Any
) -> tuple[Any, list[int], dict[str, str | int]]:
    """The texts, which of them become anchors, and where they come from; the same in every process."""
    from accelerate.utils import broadcast_object_list

    from craft_trainer.anchors.selection import chosen_rows
    from craft_trainer.anchors.teacher_pass import candidate_features
    from craft_trainer.language.anchoring import by_length, own_texts
    from craft_trainer.language.source import READING
    from craft_trainer.models.families import as_anchored_model

    source = arguments.source(arguments.group_column) if arguments.dataset is not None else None
    if arguments.texts == "own":
        made = [
            own_texts(
                checkpoint,
                source,
                arguments.anchors,
                new_tokens=arguments.own_tokens,
                batch_size=arguments.batch_size,
                seed=arguments.seed,
                temperature=arguments.own_temperature,
            )
            if processes.is_main_process
            else None
        ]
        texts = broadcast_object_list(made)[0]
        where = (
            "written by the teacher" if source is None else f"written by the teacher after prompts of {source.dataset}"
        )
        described: dict[str, str | int] = {"dataset": where, "frames": len(texts), "fingerprint": texts.fingerprint()}
        return texts, by_length(texts, range(len(texts))), described
    assert source is not None
    with processes.main_process_first():
        samples = source.open(checkpoint, num_proc=arguments.dataset_num_proc)
    processes.print(samples.report())
    chosen: list[Any] = [None]
    if processes.is_main_process:
        chosen = [
            chosen_rows(
                arguments.selection,
                [(group,) for group in samples.groups],
                arguments.anchors,
                seed=arguments.seed,
                features=lambda: candidate_features(
                    as_anchored_model(checkpoint.model), samples.batch, len(samples), batch_size=arguments.batch_size
                ),
            )
        ]
    return (
        samples,
        by_length(samples, broadcast_object_list(chosen)[0]),
        {
            "dataset": source.dataset,
            "frames": len(samples),
            "revision": samples.revision,
            "fingerprint": samples.fingerprint(),
            READING: source.to_json(arguments.teacher_dtype),
        },
    )
