"""Describe a run for its card: the facts of its card, from its model, its settings and its anchors."""

from dataclasses import fields
from typing import Any

from torch import nn
from torch.utils.data import Subset
from transformers import ImageProcessingMixin, PreTrainedModel, TrainingArguments
from transformers.models.auto import modeling_auto

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.hub.facts import Retained, RunFacts, Source, Teacher
from craft_trainer.hub.run_folder import step_of_weights
from craft_trainer.losses.distillation import DistillationLoss
from craft_trainer.losses.task import Task
from craft_trainer.losses.term import Need
from craft_trainer.losses.terms import TERMS, units
from craft_trainer.models.general import base_model, encoder_of, sentence_transformers_class
from craft_trainer.models.quantization import RECORD
from craft_trainer.training.config import SETTINGS, samples_per_device
from craft_trainer.training.run_record import changed_fields, versions
from craft_trainer.training.settings import RetentionSettings

LOADERS = {  # what loads a class of transformers, and those that it loads by the type of a configuration
    "AutoModelForImageTextToText": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSeq2SeqLM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForImageClassification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
}
ALWAYS = ("learning_rate", "seed", "epsilon", "retention_every")  # are said even if they are the default
TRAINING = (  # of TrainingArguments
    *("learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "bf16", "fp16", "seed"),
)
NOT_OF_THE_METHOD = ("method", "retention_terms", "retention_weights")
DIGEST = 12  # characters that are shown
HELD = {  # of the methods that hold something else than what the teacher did; see losses/
    "replay": "while the task loss on the labels of {anchors} is minimised with its own",
    "agem": "without the part of its gradient that would raise the task loss on the labels of {anchors}",
    "l2": "while the weights are pulled back to those before training; the {anchors} play no part",
    "ewc": "while the weights are pulled back to those before training, as the labels of {anchors} need them",
}


def run_facts(trainer: Any) -> RunFacts:
    """The facts of the run of a ``trainer`` with retention, for its card."""
    model, args = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False), trainer.args
    anchors, settings = trainer.anchors if trainer.retention is not None else None, trainer.settings
    processor, repo = trainer.processing_class, trainer.hub_model_id
    learned = trainer.train_dataset
    dataset = getattr(learned.dataset if isinstance(learned, Subset) else learned, "source", None)
    library, loader = _library(model)
    return RunFacts(
        method="plain" if anchors is None else settings.method,
        library=library,
        loader=loader,
        processor=None if processor is None else _processor_class(processor),
        adapter=getattr(model, "peft_model", None) is not None,
        base=_base(model, args),
        base_quantization=_base_quantization(model),
        dataset=Source.of(dataset) if isinstance(dataset, str) else None,
        retained=None if anchors is None else _retained(anchors, settings),
        settings={} if anchors is None else _settings(settings),
        training=_chosen(args, set(TRAINING)) | _batch(trainer),
        versions=versions(),
        step=trainer.state.global_step if trainer.is_in_train else step_of_weights(args, trainer.state),
        repo=repo,
        revision=args.hub_revision if repo else None,
    )


def _batch(trainer: Any) -> dict[str, str]:
    """The batch that ``auto_find_batch_size`` has found."""
    found = samples_per_device(trainer.args, trainer.state.train_batch_size)
    return {"per_device_train_batch_size": str(found)} if trainer.args.auto_find_batch_size else {}


def _library(model: nn.Module) -> tuple[str | None, str | None]:
    """The library that a model is of, and what of it loads the model again."""
    if hasattr(model, "library_name"):
        return str(model.library_name), str(getattr(getattr(model, "policy_config", None), "type", "policy"))
    if loader := sentence_transformers_class(model):
        return "sentence-transformers", loader
    base = base_model(model)
    if not isinstance(base, PreTrainedModel):
        return None, None
    kind, owners = base.config.model_type, {owner.__name__ for owner in type(base).__mro__}
    of_kind = {name: classes.get(kind, ()) for name, classes in LOADERS.items()}  # one, or several
    known = (name for name, one in of_kind.items() if owners & ({one} if isinstance(one, str) else {*one}))
    return ("transformers" if base is model else "peft"), next(known, "AutoModel")


def _processor_class(processor: Any) -> str:
    if hasattr(processor, "image_processor"):
        return "AutoProcessor"
    return "AutoImageProcessor" if isinstance(processor, ImageProcessingMixin) else "AutoTokenizer"


def _base(model: nn.Module, args: TrainingArguments) -> Source | None:
    """The model that was loaded before training; not the run itself."""
    origin = getattr(model, "origin", None) or getattr(
        getattr(encoder_of(base_model(model)), "config", None), "_name_or_path", None
    )
    peft_config = getattr(model, "active_peft_config", None)
    origin = getattr(peft_config, "base_model_name_or_path", None) or origin
    return None if origin == args.output_dir else Source.of(origin)


def _base_quantization(model: nn.Module) -> dict[str, bool | str]:
    """Quantisation of an adapter's base when it was loaded; {} if it was not, or is saved quantised."""
    known = getattr(getattr(model, "active_peft_config", None), "auto_mapping", None) or {}
    return dict(known.get(RECORD, {}))


def _retained(anchors: AnchorCache | AdapterAnchors, settings: RetentionSettings) -> Retained:
    terms = settings.term_weights if settings.recipe.loss is DistillationLoss else {}
    hidden = any(Need.HIDDEN in TERMS[name].needs for name in terms)
    features = [[spec.path, spec.pooling] for spec in anchors.specs if hidden]
    what, common = held(settings, f"{len(anchors):,} anchors"), (terms, units(settings) if terms else [], features)
    if isinstance(anchors, AdapterAnchors):
        base = Teacher(Source("the base model, without its adapter"), len(anchors))
        counts = {group: anchors.groups.count(group) for group in dict.fromkeys(anchors.groups)}
        return Retained(what, [base], *common, counts)
    made = anchors.provenance
    teachers = [
        Teacher(Source.of(str(one["path"])) or Source("unknown"), int(one["anchors"]), str(one["weights"])[:DIGEST])
        for one in made.teachers
    ]
    return Retained(what, teachers, *common, dict(made.groups), made.fingerprint, made.told_source())


def held(settings: RetentionSettings, anchors: str) -> str:
    """What the method holds on so many ``anchors``, for the sentence "a new task is learned …"."""
    if settings.method in HELD:
        return HELD[settings.method].format(anchors=anchors)
    answers = [name for name in settings.retention_terms if name != Task.name]
    if not answers:
        return f"while the task loss on the labels of {anchors} is held to the teacher's"
    labels = Task.name in settings.retention_terms
    return f"while what the teacher did on {anchors} is retained" + (", and its task loss on their labels" * labels)


def _settings(settings: RetentionSettings) -> dict[str, str]:
    """Of the method: its rules as they are in force, and what is not the default."""
    rules = {"surgery": settings.recipe.surgery, "multiplier": settings.recipe.multiplier}
    return rules | _chosen(settings, {*SETTINGS} - {*rules, *NOT_OF_THE_METHOD})


def _chosen(arguments: Any, names: set[str]) -> dict[str, str]:
    """Those of the fields ``names`` that are not the default, or always said."""
    told = {*changed_fields(arguments), *ALWAYS} & names
    shown = {one.name: getattr(arguments, one.name) for one in fields(arguments) if one.name in told}
    texts = {name: str(getattr(value, "value", value)) for name, value in shown.items()}
    return {name: text for name, text in texts.items() if text not in ("None", "{}")}
