"""``craft-trainer train`` of a language or vision-language model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import TYPE_CHECKING

from craft_trainer.anchors.provenance import AUTO
from craft_trainer.cli.places import ADAPTER
from craft_trainer.cli.texts import COLUMNS_HELP, TextArguments
from craft_trainer.cli.training import begin, train_and_save
from craft_trainer.options import option, pairs_or_json, refuse_idle, split_list

if TYPE_CHECKING:
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.anchors.live import AdapterAnchors
    from craft_trainer.cli.train import TrainArguments
    from craft_trainer.language.checkpoints import Checkpoint
    from craft_trainer.language.samples import TextSamples
    from craft_trainer.language.source import TextSource
    from craft_trainer.training.language_config import LanguageConfig

OF_LORA = ("lora_alpha", "lora_dropout", "lora_targets")  # settings of a fresh adapter
OF_ADAPTER = ("anchors_config", "anchors_split", "anchors_columns", "anchors_chat", "group_column")
HELD = ("layers", "pooling", "num_tokens")  # of anchors that are made here; a cache says these itself
SAME_SPLIT = "eval_split {} is what is learned: name another, or an eval_dataset"
HELD_USUALLY = ("none", "mean_masked")  # layers and pooling of a language model


@dataclass(kw_only=True)
class TextTrainArguments(TextArguments):
    """Options of a language model alone."""

    heading = TextArguments.heading
    eval_dataset: str | None = option(
        "texts whose loss is logged as eval_loss when eval_strategy says so: as dataset, with the same columns", None
    )
    eval_config: str | None = option("configuration of an eval_dataset that has several", None)
    eval_split: str | None = option("of eval_dataset; without that, another split of dataset", None)
    dtype: str = option("of the weights; bf16 (computation in mixed precision) leaves them as they are", "float32")
    quantization: str | None = option(
        "of the weights, by bitsandbytes: 4bit or 8bit; an adapter on them is trained (lora_rank, or a PEFT adapter as "
        "model)",
        None,
    )
    lora_rank: int | None = option("train a LoRA adapter of this rank instead of all weights", None)
    lora_alpha: int | None = option("numerator of the adapter's scale alpha / rank; by default twice the rank", None)
    lora_dropout: float = option("of the adapter's input", 0.0)
    lora_targets: list[str] = option("names of the modules that get an adapter, or all-linear", ["all-linear"])
    anchors_config: str | None = option("configuration of anchors_dataset", None)
    anchors_split: str | None = option("of anchors_dataset; by default train, or the only one", None)
    anchors_columns: dict | str | None = option(COLUMNS_HELP, None)  # type: ignore[type-arg]  # argparse wants it bare
    anchors_chat: bool = option("put the prompts of anchors_dataset into the model's chat template", False)
    group_column: str | None = option(
        "of anchors_dataset: which old task a row belongs to (constraints per_group)", None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.anchors_columns = pairs_or_json("anchors_columns", self.anchors_columns)

    @property
    def evaluates(self) -> bool:
        """True if there are texts to evaluate on."""
        return self.eval_dataset is not None or self.eval_split is not None

    def require_evaluation(self, config: "LanguageConfig") -> None:
        """Trainer evaluates by ``eval_strategy`` or ``eval_on_start``, on texts: both or neither.

        Raises:
            ValueError: one is missing, or the texts are those that are learned.
        """
        asked = config.eval_strategy != "no" or config.eval_on_start
        if self.evaluates and not asked:
            raise ValueError("eval_dataset and eval_split have no effect without eval_strategy: set steps or epoch")
        if asked and not self.evaluates:
            raise ValueError(
                "an evaluation needs texts: name them with eval_dataset, or another split of dataset with eval_split; "
                "mcq_data asks questions while training"
            )
        if self.eval_config is not None and self.eval_dataset is None:
            raise ValueError("eval_config has no effect without eval_dataset: dataset has dataset_config")
        if self.eval_dataset is None and self.eval_split is not None and self.eval_split == (self.split or "train"):
            raise ValueError(SAME_SPLIT.format(self.eval_split))

    def eval_source(self) -> "TextSource":
        """The texts to evaluate on."""
        source = self.text_source()
        if self.eval_dataset is not None:
            source = replace(source, dataset=self.eval_dataset, config=self.eval_config)
        return replace(source, split=self.eval_split)


def train(arguments: "TrainArguments", config: "LanguageConfig") -> None:
    """Train and save a checkpoint that `from_pretrained` and `craft-trainer mcq` load, in ``output_dir``."""
    from craft_trainer.cli.output import claimed_output

    check_options(arguments, config.retention_terms, config.constraints)
    arguments.require_evaluation(config)
    if arguments.evaluates:
        config.prediction_loss_only = True  # nothing reads the logits of an evaluation, which fill the memory
    with claimed_output(config) as resumed:
        train_language_model(arguments, config, resumed)


def check_options(arguments: "TrainArguments", terms: Sequence[str], constraints: str) -> None:
    """Refuse, by a ValueError, options that would change nothing, and anchors without their texts."""
    if arguments.lora_rank is None:
        refuse_idle(arguments, OF_LORA, "there is no lora_rank")
    if arguments.anchors != ADAPTER:
        refuse_idle(arguments, OF_ADAPTER, "it is an option of anchors: adapter")
    if constraints == "single":
        refuse_idle(arguments, ["group_column"], "it is of constraints per_group, and there is a single one")
    arguments.check_anchors(terms, makes=(AUTO, ADAPTER), of="texts")
    if arguments.layers is None:
        refuse_idle(arguments, ["pooling"], "no layers are named, and a language model has none by default")
    if arguments.anchors == AUTO and arguments.anchors_dataset is not None:
        raise ValueError("anchors_dataset has no effect with anchors: auto, whose texts are the model's: leave it out")
    if arguments.anchors is None and arguments.anchors_dataset is not None:
        raise ValueError(
            "anchors_dataset has no effect without anchors: give anchors: adapter (with lora_rank), or build a cache "
            "of it with `craft-trainer cache build`"
        )


def train_language_model(arguments: "TrainArguments", config: "LanguageConfig", resumed: str | None) -> None:
    """Train from the beginning or from the checkpoint ``resumed``, save, say what comes next."""
    from craft_trainer.language.checkpoints import Lora, load_checkpoint
    from craft_trainer.losses.smoothing import SmoothedLoss
    from craft_trainer.models.general import base_model
    from craft_trainer.models.quantization import method_of
    from craft_trainer.training.text_trainer import TextTrainer

    assert arguments.model is not None
    begin(config)
    smoothing = config.label_smoothing_factor
    rank, targets = arguments.lora_rank, split_list(arguments.lora_targets)
    lora = None if rank is None else Lora(rank, arguments.lora_alpha, targets, arguments.lora_dropout)
    given = {"dtype": arguments.dtype, "quantization": arguments.quantization}
    checkpoint = load_checkpoint(arguments.model, **given, lora=lora, trainable=True)
    if method_of(base_model(checkpoint.model).config) is not None:
        checkpoint.model.to(config.device)  # Trainer leaves quantised weights where they are
    with config.main_process_first(desc="tokens"):
        samples = arguments.open_texts(checkpoint)
        held_out, told = None, [samples.report()]
        if arguments.evaluates:
            held_out = arguments.eval_source().open(checkpoint, num_proc=arguments.dataset_num_proc)
            told.append(evaluated_on(arguments, samples, held_out))
    if config.process_index == 0:
        print(*told, sep="\n")
    trainer = TextTrainer(
        checkpoint.model,
        config,
        anchors=anchors_of(arguments, config, checkpoint),
        train_dataset=samples,
        eval_dataset=held_out,
        data_collator=samples.collate,
        compute_loss_func=SmoothedLoss.of(base_model(checkpoint.model).config, smoothing) if smoothing else None,
        processing_class=checkpoint.processor,
    )
    train_and_save(trainer, arguments, resumed, checkpoint.processor)
    if trainer.is_world_process_zero():
        kind = "PEFT adapter" if hasattr(checkpoint.model, "peft_config") else "checkpoint"
        print(f"{kind}: {config.output_dir}")
        alike = "" if arguments.quantization is None else f" --quantization {arguments.quantization}"
        compared = f"--model {quote(arguments.model)}{alike} --compare {quote(config.output_dir)}"
        print(f"next: craft-trainer mcq {compared} --data questions.jsonl")


def evaluated_on(arguments: "TrainArguments", learned: "TextSamples", held_out: "TextSamples") -> str:
    """Say what the run is evaluated on, and how much of that is learned too.

    Raises:
        ValueError: it is an ``eval_split`` of which everything is learned, whatever it is called.
    """
    both = learned.num_in_common(held_out)
    if both == len(held_out) and arguments.eval_dataset is None:
        raise ValueError(SAME_SPLIT.format(arguments.eval_split))
    warning = f"; {both} of them are learned too, so the evaluation is too good" if both else ""
    return f"evaluated on: {held_out.report()}{warning}"


def anchors_of(
    arguments: "TrainArguments", config: "LanguageConfig", checkpoint: "Checkpoint"
) -> "AnchorCache | AdapterAnchors | None":
    """The cache, texts that the model writes itself, the model without its adapter, or nothing.

    Raises:
        TypeError: ``adapter`` is asked for, and there is none.
    """
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.hub.resolve_path import resolve_path
    from craft_trainer.language.anchoring import adapter_anchors
    from craft_trainer.language.source import followed
    from craft_trainer.training.auto import own_anchors

    if arguments.anchors is None:
        return None
    if arguments.anchors == AUTO:
        layers, poolings = arguments.held(*HELD_USUALLY)
        return own_anchors(
            checkpoint.model,
            config,
            processor=checkpoint.processor,
            layers=layers,
            pooling=poolings,
            num_tokens=arguments.num_tokens,
            path=str(arguments.model),
        )
    if arguments.anchors != ADAPTER:
        return followed(AnchorCache(resolve_path(arguments.anchors, "dataset")), checkpoint, arguments.anchors_dataset)
    if not hasattr(checkpoint.model, "peft_config"):
        raise ValueError("anchors: adapter needs an adapter: give lora_rank, or start from a PEFT adapter")
    with config.main_process_first(desc="anchors"):
        texts = anchor_texts(arguments).open(checkpoint, num_proc=arguments.dataset_num_proc)
    return adapter_anchors(checkpoint, texts, *arguments.held(*HELD_USUALLY), num_tokens=arguments.num_tokens)


def anchor_texts(arguments: "TrainArguments") -> "TextSource":
    """The texts that the model without its adapter reads."""
    assert arguments.anchors_dataset is not None
    assert isinstance(arguments.anchors_columns, dict)
    return replace(
        arguments.text_source(arguments.group_column),
        dataset=arguments.anchors_dataset,
        config=arguments.anchors_config,
        split=arguments.anchors_split,
        columns=arguments.anchors_columns,
        chat=arguments.anchors_chat,
    )
