"""``craft-trainer cache build-lm``: a language model's features and tokens on texts of what it knows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from craft_trainer.cli.building import BATCH_HELP, LAYERS_HELP, POOLING_HELP, CacheArguments, once
from craft_trainer.cli.texts import TextArguments
from craft_trainer.options import option

if TYPE_CHECKING:
    from accelerate import PartialState

    from craft_trainer.language.checkpoints import Checkpoint
    from craft_trainer.language.own_texts import OwnTexts
    from craft_trainer.language.samples import TextSamples
    from craft_trainer.models.base import AnchoredModel

EXAMPLE = "craft-trainer cache build-lm --teacher org/model --dataset old_texts.jsonl --output_dir outputs/lm/anchors"
TEXTS = ("dataset", "own")


@dataclass(kw_only=True)
class BuildLmArguments(TextArguments, CacheArguments):
    """The teacher and the texts."""

    teacher: str = option(
        "language or vision-language model whose behaviour is to be kept: a folder or a Hub repository (org/name, "
        "org/name@revision), or a PEFT adapter"
    )
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
    layers: list[str] = option(LAYERS_HELP, ["none"])
    pooling: list[str] = option(POOLING_HELP, ["mean_masked"])
    seed: int = option("chooses the samples, and what the teacher writes", 0)
    own_tokens: int = option("of texts that the teacher writes: tokens at most", 128)
    own_temperature: float = option("of texts that the teacher writes: 1 is its own distribution", 1.0)
    batch_size: int = option(BATCH_HELP, 16)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.texts not in TEXTS:
            raise ValueError(f"texts is {self.texts!r}: it must be one of {', '.join(TEXTS)}")
        if self.texts == "dataset" and self.dataset is None:
            raise ValueError("give a dataset of texts, or texts: own, and the teacher writes them itself")
        if self.texts == "own" and self.inputs == "reference":
            raise ValueError("texts that the teacher writes are nowhere to refer to: keep inputs embedded")


def run(arguments: BuildLmArguments) -> None:
    """Build the cache and say what it holds; several processes (accelerate launch) share the work."""
    from craft_trainer.anchors.features import TOKEN_SCALE
    from craft_trainer.language.checkpoints import load_checkpoint
    from craft_trainer.models.families import as_anchored_model

    processes = arguments.join()
    device = arguments.device or str(processes.device)
    checkpoint = load_checkpoint(arguments.teacher, dtype=arguments.teacher_dtype, device=device)
    teacher = as_anchored_model(checkpoint.model)
    specs = arguments.specs(teacher, processes)
    samples: OwnTexts | TextSamples
    if arguments.texts == "own":
        samples, rows, source = texts_of_the_teacher(arguments, checkpoint, processes)
    else:
        samples, rows, source = texts_of_a_dataset(arguments, checkpoint, teacher, processes)
    groups = [samples.groups[row] for row in rows]
    cache = arguments.build(teacher, samples, processes, rows=rows, groups=groups, specs=specs, source=source)
    counts = ", ".join(f"{count} of {group}" for group, count in cache.provenance.groups.items())
    kept = "" if arguments.output else "not "
    processes.print(f"{len(cache)} anchors: {counts}; the teacher's tokens are {kept}kept")
    if TOKEN_SCALE in (scales := cache.scales()):
        entropy = scales[TOKEN_SCALE].item()
        processes.print(f"its mean entropy is {entropy:.3g} nats: epsilon 0.05 is {0.05 * entropy:.3g} nats per token")
    processes.print(f"fingerprint {cache.provenance.fingerprint[:12]}: {arguments.output_dir}")
    processes.print(f"next: craft-trainer train-lm --model {arguments.teacher} --anchors {arguments.output_dir} …")


def texts_of_the_teacher(
    arguments: BuildLmArguments, checkpoint: "Checkpoint", processes: "PartialState"
) -> "tuple[OwnTexts, list[int], dict[str, str | int]]":
    """Let the teacher write texts; with their order and where they come from, the same in every process."""
    from craft_trainer.language.anchoring import by_length, own_texts

    source = arguments.source(arguments.group_column) if arguments.dataset is not None else None
    texts = once(
        processes,
        lambda: own_texts(
            checkpoint,
            source,
            arguments.anchors,
            new_tokens=arguments.own_tokens,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            temperature=arguments.own_temperature,
        ),
    )
    where = "written by the teacher" if source is None else f"written by the teacher after prompts of {source.dataset}"
    described: dict[str, str | int] = {"dataset": where, "frames": len(texts), "fingerprint": texts.fingerprint()}
    return texts, by_length(texts, range(len(texts))), described


def texts_of_a_dataset(
    arguments: BuildLmArguments, checkpoint: "Checkpoint", teacher: "AnchoredModel", processes: "PartialState"
) -> "tuple[TextSamples, list[int], dict[str, str | int]]":
    """Read the texts of ``dataset``; with the rows that become anchors and where they come from."""
    from craft_trainer.language.anchoring import by_length
    from craft_trainer.language.source import READING

    source = arguments.source(arguments.group_column)
    with processes.main_process_first():
        samples = source.open(checkpoint, num_proc=arguments.dataset_num_proc)
    processes.print(samples.report())
    rows = arguments.rows(samples, arguments.anchors, teacher, processes)
    described: dict[str, str | int] = {
        "dataset": source.dataset,
        "frames": len(samples),
        "revision": samples.revision,
        "fingerprint": samples.fingerprint(),
        READING: source.to_json(arguments.teacher_dtype),
    }
    return samples, by_length(samples, rows), described
