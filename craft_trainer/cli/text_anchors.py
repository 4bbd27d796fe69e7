"""``craft-trainer cache build`` of a language or vision-language model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from shlex import quote
from typing import TYPE_CHECKING

from craft_trainer.cli.building import Defaults, require_sources, weights_of
from craft_trainer.cli.loading import LoadArguments
from craft_trainer.cli.sources import SourceArguments
from craft_trainer.cli.text_sources import TEXT_SOURCES
from craft_trainer.cli.texts import opened
from craft_trainer.options import refuse_idle

if TYPE_CHECKING:
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.processes import Processes
    from craft_trainer.anchors.sources.source import AnchorSource
    from craft_trainer.cli.cache_build import BuildArguments
    from craft_trainer.language.anchoring import TextAnchors
    from craft_trainer.language.checkpoints import Checkpoint
    from craft_trainer.language.source import TextSource
    from craft_trainer.models.base import AnchoredModel

DEFAULTS = Defaults(layers="none", pooling="mean_masked", batch_size=16)
OF_OWN_TEXTS = ("own_tokens", "own_temperature")
OF_CORPUS = ("corpus", "corpus_config", "corpus_split", "corpus_columns")
OF_DATASET = ("dataset", "dataset_config", "split", "columns", "chat", "group_column")
OF_GIVEN_TEXTS = ("max_length", "completion_only_loss", "assistant_only_loss", "dataset_num_proc", "selection")
TOKENS = {"input_ids", "attention_mask", "labels"}


def build(arguments: "BuildArguments", processes: "Processes") -> "AnchorCache":
    """Build the cache of a language model's features and tokens, and say what it holds.

    Raises:
        ValueError: a source or an option is of policies, or none of the sources reads an option.
    """
    from craft_trainer.anchors.features import TOKEN_SCALE
    from craft_trainer.language.checkpoints import load_checkpoint
    from craft_trainer.language.source import QUANTIZATION, TEACHER_DTYPE
    from craft_trainer.models.families import as_anchored_model

    check_options(arguments)
    arguments.fill(DEFAULTS)
    device = arguments.device or str(processes.device)
    dtype, quantization = arguments.teacher_dtype, arguments.quantization
    checkpoint = load_checkpoint(arguments.teacher, dtype=dtype, device=device, quantization=quantization)
    teacher = as_anchored_model(checkpoint.model)
    specs = arguments.specs(teacher, processes)
    samples, rows = chosen_texts(arguments, checkpoint, teacher, processes)
    loaded = {TEACHER_DTYPE: dtype} | ({} if quantization is None else {QUANTIZATION: quantization})
    told = {"source": ",".join(arguments.source), **loaded, **samples.description()}
    groups = [samples.groups[row] for row in rows]
    cache = arguments.build(teacher, samples, processes, rows=rows, groups=groups, specs=specs, source=told)
    counts = ", ".join(f"{count} of {group}" for group, count in cache.provenance.groups.items())
    kept = "" if arguments.output else "not "
    processes.print(f"{len(cache)} anchors: {counts}; the teacher's tokens are {kept}kept")
    if TOKEN_SCALE in (scales := cache.scales()):
        entropy = scales[TOKEN_SCALE].item()
        processes.print(f"its mean entropy is {entropy:.3g} nats: epsilon 0.05 is {0.05 * entropy:.3g} nats per token")
    held = "" if quantization is None else f" --quantization {quantization} --lora_rank 16"
    given = f"--model {quote(arguments.teacher)}{held} --anchors {quote(arguments.output_dir)}"
    processes.print(f"next: craft-trainer train {given} …")
    return cache


def check_options(arguments: "BuildArguments") -> None:
    """Refuse, by a ValueError, what a language model has not, sources without their texts, and options of no effect."""
    source, is_language = arguments.source, f"{arguments.teacher} is a language model"
    require_sources(source, TEXT_SOURCES, is_language)
    names = [field.name for kind in (SourceArguments, LoadArguments) for field in fields(kind)]
    of_policies = [name for name in names if name not in ("source", "source_weights", "dataset")]
    refuse_idle(arguments, of_policies, f"it is an option of policies, and {is_language}")
    if "dataset" in source and arguments.dataset is None:
        raise ValueError("source dataset reads old texts: give them by --dataset, or take source own_texts")
    if "corpus" in source and arguments.corpus is None:
        raise ValueError("source corpus reads any text: give it by --corpus")
    if "own_texts" not in source:
        refuse_idle(arguments, OF_OWN_TEXTS, "it is an option of source own_texts")
    if "corpus" not in source:
        refuse_idle(arguments, OF_CORPUS, "it is an option of source corpus")
    if source == ["corpus"]:
        refuse_idle(arguments, OF_DATASET, "it is an option of sources dataset and own_texts")
    if arguments.dataset is None:
        refuse_idle(arguments, OF_DATASET, "no dataset is given")
    if source == ["own_texts"]:
        names = [*OF_GIVEN_TEXTS, *([] if arguments.dataset else ["on_bad_row", "streamed_rows"])]
        refuse_idle(arguments, names, "the model writes all texts itself")


def chosen_texts(
    arguments: "BuildArguments", checkpoint: "Checkpoint", teacher: "AnchoredModel", processes: "Processes"
) -> "tuple[AnchorSource, Sequence[int]]":
    """Open the sources and choose the rows of each; with those that become anchors, in the order of their lengths.

    Raises:
        ValueError: a source would get no anchor, or pictures among several sources.
    """
    from craft_trainer.anchors.sources.mixture import Mixture, shares
    from craft_trainer.language.anchoring import by_length

    parts: dict[str, tuple[TextAnchors, list[int]]] = {}
    counts = shares(arguments.anchors, weights_of(arguments.source, arguments.source_weights))
    for name, count in zip(arguments.source, counts, strict=True):
        texts = OPENED[name](arguments, checkpoint, count, processes)
        is_written = name == "own_texts"
        rows = list(range(count)) if is_written else arguments.rows(texts, count, teacher, processes)
        parts[name] = texts, rows
    if len(parts) == 1:
        texts, rows = parts[arguments.source[0]]
        return texts, by_length(texts.lengths, rows)
    for name, (texts, rows) in parts.items():
        if more := texts.batch(rows[:1]).keys() - TOKENS:
            raise ValueError(
                f"texts of source {name} come with {', '.join(sorted(more))}, and several sources can be mixed only "
                "where all are plain text: build a cache of each source"
            )
    mixture = Mixture(parts)
    lengths = [texts.lengths[row] for texts, rows in parts.values() for row in rows]
    return mixture, by_length(lengths, range(len(mixture)))


def given_texts(arguments: "BuildArguments") -> "TextSource":
    """Gather ``dataset`` and how it is read."""
    return streamed(arguments, arguments.text_source(arguments.group_column))


def streamed(arguments: "BuildArguments", source: "TextSource") -> "TextSource":
    """Read ``source`` as a stream, if ``streamed_rows`` says so."""
    return replace(source, streamed=arguments.streamed_rows, seed=arguments.seed if arguments.streamed_rows else 0)


def old_texts(
    arguments: "BuildArguments", checkpoint: "Checkpoint", count: int, processes: "Processes"
) -> "TextAnchors":
    """Read the texts of ``dataset``, with their own groups."""
    return _read(arguments, given_texts(arguments), checkpoint, processes)


def corpus(arguments: "BuildArguments", checkpoint: "Checkpoint", count: int, processes: "Processes") -> "TextAnchors":
    """Read the texts of ``corpus``, which are all of one group."""
    return _read(arguments, streamed(arguments, arguments.corpus_source()), checkpoint, processes, group="corpus")


def own_texts(
    arguments: "BuildArguments", checkpoint: "Checkpoint", count: int, processes: "Processes"
) -> "TextAnchors":
    """Let the teacher write ``count`` texts, the same in every process."""
    from craft_trainer.language.anchoring import TextAnchors
    from craft_trainer.language.anchoring import own_texts as written

    prompts = given_texts(arguments) if arguments.dataset is not None else None
    texts = processes.once(
        lambda: written(
            checkpoint,
            prompts,
            count,
            new_tokens=arguments.own_tokens,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            temperature=arguments.own_temperature,
        )
    )
    after = "" if prompts is None else f" after prompts of {prompts.dataset}"
    return TextAnchors(texts, {"dataset": f"written by the teacher{after}"})


def _read(
    arguments: "BuildArguments",
    source: "TextSource",
    checkpoint: "Checkpoint",
    processes: "Processes",
    group: str | None = None,
) -> "TextAnchors":
    from craft_trainer.language.anchoring import TextAnchors
    from craft_trainer.language.source import READING, TextSource

    with processes.main_process_first():
        is_alone = len(arguments.source) == 1  # or an option may be for the other texts
        open_texts = opened if is_alone else TextSource.open
        samples = open_texts(source, checkpoint, num_proc=arguments.dataset_num_proc)
    processes.print(samples.report())
    told = {"dataset": source.dataset, "revision": samples.revision, READING: source.to_json()}
    return TextAnchors(samples, told, group)


OPENED: "Mapping[str, Callable[[BuildArguments, Checkpoint, int, Processes], TextAnchors]]" = {
    "dataset": old_texts,
    "own_texts": own_texts,
    "corpus": corpus,
}
