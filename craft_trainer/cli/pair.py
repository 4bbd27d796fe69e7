"""The two checkpoints of `merge`, loaded and compared: LeRobot policies, or language models."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from craft_trainer.cli.cache_verify import say_compared
from craft_trainer.cli.loading import LoadArguments, open_cache
from craft_trainer.cli.texts import TextArguments

if TYPE_CHECKING:
    from craft_trainer.anchors.cache import AnchorCache
    from craft_trainer.cli.merge import MergeArguments
    from craft_trainer.models.base import AnchoredModel

WAY_OUT = "Give the checkpoint that the tuned model was trained from, or"


class Pair(NamedTuple):
    """The two modules whose weights are merged, and what measures and saves the tuned one."""

    teacher: Any
    tuned: Any
    student: "AnchoredModel"
    cache: "AnchorCache"
    samples: tuple[Any, Callable[[Any], Any]] | None
    save: Callable[[Path], None]


def policy_pair(arguments: "MergeArguments", cache: "AnchorCache") -> Pair:
    """Load two LeRobot policies; a ValueError if their processors, statistics or configurations differ."""
    from craft_trainer.models.configuration import saved_digest
    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.models.lerobot_dataset import PolicyDataset, collate
    from craft_trainer.models.policy_configuration import policy_configuration

    arguments.refuse_idle(TextArguments, "language models")
    if arguments.teacher_dtype is not None:
        raise ValueError("teacher_dtype has no effect on a policy: give its dtype in policy_options")
    device = device_of(arguments)
    teacher = arguments.load(arguments.teacher, device)
    say_compared(cache.check_teacher(teacher))
    assert isinstance(arguments.policy_options, dict)
    tuned = PolicyModel.from_pretrained(arguments.tuned, device=device, options=arguments.policy_options)
    if saved_digest(*teacher.processors) != saved_digest(*tuned.processors):
        raise ValueError(
            f"the processors of {arguments.teacher} and {arguments.tuned} differ (steps, renamed features or "
            f"normalisation statistics), so their weights mean different actions. {WAY_OUT} train with the "
            "teacher's statistics (`train --statistics keep`)"
        )
    if policy_configuration(teacher.policy) != policy_configuration(tuned.policy):
        raise ValueError(
            f"the configurations of {arguments.teacher} and {arguments.tuned} differ in a field that decides outputs, "
            f"so there is no line between them. {WAY_OUT} correct config.json"
        )
    samples = None
    if arguments.dataset is not None:
        samples = PolicyDataset.of(tuned, arguments.dataset).without_last_frames(), collate
    cache = open_cache(arguments.anchors, teacher, arguments.anchors_dataset)
    ends = {"teacher": teacher.peft_model or teacher.policy, "tuned": tuned.peft_model or tuned.policy}
    return Pair(**ends, student=tuned, cache=cache, samples=samples, save=tuned.save_pretrained)


def texts_pair(arguments: "MergeArguments", cache: "AnchorCache") -> Pair:
    """Load two language or vision-language models; a ValueError if their tokenizers or configurations differ."""
    from craft_trainer.language.checkpoints import load_checkpoint
    from craft_trainer.language.source import followed, teacher_dtype, teacher_quantization
    from craft_trainer.models.configuration import saved_digest
    from craft_trainer.models.families import as_anchored_model
    from craft_trainer.models.pretrained import checkpoint_folder, is_adapter

    arguments.refuse_idle(LoadArguments, "policies")
    if arguments.dataset is None:
        arguments.refuse_idle(TextArguments, "the texts of a dataset")
    dtype, device = arguments.teacher_dtype or teacher_dtype(cache), device_of(arguments)
    quantization = teacher_quantization(cache)
    teacher = load_checkpoint(arguments.teacher, dtype=dtype, device=device, quantization=quantization)
    say_compared(cache.check_teacher(as_anchored_model(teacher.model)))
    tuned_dtype = dtype if is_adapter(checkpoint_folder(arguments.tuned)) else None
    tuned = load_checkpoint(arguments.tuned, dtype=tuned_dtype, device=device, trainable=True)
    require_same_configuration(arguments, teacher.model, tuned.model)
    if saved_digest(teacher.processor) != saved_digest(tuned.processor):
        raise ValueError(
            f"the tokenizers or processors of {arguments.teacher} and {arguments.tuned} differ, so the same text is "
            f"not the same input. {WAY_OUT} put the teacher's tokenizer files into the tuned model's folder"
        )
    samples = None
    if arguments.dataset is not None:
        texts = arguments.open_texts(tuned)
        samples = texts, texts.collate

    def save(folder: Path) -> None:
        tuned.model.save_pretrained(folder)
        tuned.processor.save_pretrained(folder)

    cache = followed(cache, teacher, arguments.anchors_dataset)
    return Pair(teacher.model, tuned.model, as_anchored_model(tuned.model), cache, samples, save)


def require_same_configuration(arguments: "MergeArguments", teacher: Any, tuned: Any) -> None:
    """Refuse, by a ValueError, models whose outputs differ even with the same weights."""
    from craft_trainer.models.configuration import decisive_fields
    from craft_trainer.models.general import base_model

    ours, theirs = (decisive_fields(base_model(model).config) for model in (teacher, tuned))
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if differing:
        raise ValueError(
            f"the configurations of {arguments.teacher} and {arguments.tuned} differ in {', '.join(differing)}, so "
            f"there is no line between them. {WAY_OUT} correct config.json"
        )


def device_of(arguments: "MergeArguments") -> str:
    """Choose where both models run."""
    from accelerate import PartialState

    return arguments.device or PartialState().device.type
