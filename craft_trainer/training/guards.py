"""Refuse by name what would change the meaning of retention or of a whole run."""

import inspect
import logging
import re
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import fields
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from craft_trainer.losses.distillation import DistillationLoss
from craft_trainer.losses.ewc import EWCLoss
from craft_trainer.losses.replay import ReplayLoss
from craft_trainer.losses.smoothing import SmoothedLoss
from craft_trainer.losses.task import Task
from craft_trainer.models.general import base_model
from craft_trainer.training.config import RetentionArguments, retention_settings
from craft_trainer.training.distribution import is_sharded
from craft_trainer.training.run_record import changed_fields
from craft_trainer.training.settings import RetentionSettings

FOLLOWED = ("train", "_inner_training_loop")  # what an optimizer step passes through, beside training_step
OF_THE_START = (  # settings that are read once, when a training begins; a callback may change the others
    *("method", "retention", "retention_terms", "retention_weights", "hidden_distance", "constraints", "backward"),
    *("multiplier_init", "task_kl_samples"),
)
STEP_IN_BACKWARD = ("lomo", "layerwise")  # in the names of optimizers
logger = logging.getLogger(__name__)
FUSED_AWAY = "the optimizer steps inside the backward pass, before the two gradients meet"


def require_own_arguments(kind: type, given: Iterable[Any]) -> None:
    """Refuse, by a TypeError, arguments with retention that are not those of the Trainer that ``kind`` is made of."""
    makers = (vars(owner)["__init__"] for owner in kind.__mro__ if "__init__" in vars(owner))
    asked = (inspect.signature(maker).parameters.get("args") for maker in makers)
    named = (re.search(r"\w+(Config|Arguments)\b", str(one.annotation)) for one in asked if one)
    wanted = next(found[0] for found in named if found)
    for one in given:
        if isinstance(one, RetentionArguments) and wanted not in {owner.__name__ for owner in type(one).__mro__}:
            raise TypeError(
                f"{kind.__name__} takes the arguments of {wanted}, not {type(one).__name__}: make them with "
                f"craft_trainer.retaining_config({wanted})(...)"
            )


def require_followed(kind: type) -> None:
    """Refuse, by a TypeError, a Trainer whose optimizer steps do not pass through retention's ``training_step``."""
    for owner in kind.__mro__[: kind.__mro__.index(Trainer)]:
        below = owner in kind.__mro__[: _place_of_retention(kind)]
        for name in (*FOLLOWED, "training_step") if below else FOLLOWED:
            if _goes_its_own_way(owner, name):
                raise TypeError(
                    f"{_named(owner)}.{name} does not call super().{name}, so retention cannot "
                    "follow what it does with gradients: call it there, or train without anchors"
                )


def own_step(kind: type) -> str | None:
    """The ``training_step`` that retention calls and that does not reach Trainer's own; None if it does."""
    owners = kind.__mro__[_place_of_retention(kind) : kind.__mro__.index(Trainer)]
    return next((f"{_named(one)}.training_step" for one in owners if _goes_its_own_way(one, "training_step")), None)


def _place_of_retention(kind: type) -> int:
    """The place of retention in the order of ``kind``'s classes."""
    return next(place for place, owner in enumerate(kind.__mro__) if owner.__name__ == "RetentionMixin")


def _named(owner: type) -> str:
    return f"{owner.__module__}.{owner.__qualname__}"


def _goes_its_own_way(owner: type, name: str) -> bool:
    function = vars(owner).get(name)
    return function is not None and not _calls_super(function, name)


def _calls_super(function: Callable[..., Any], name: str) -> bool:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is None or "super" in code.co_names or name in code.co_names


def own_loss(trainer: Trainer) -> str | None:
    """The ``compute_loss`` that stands in for the model's own loss; None if there is none.

    TRL's for the loss type nll computes what the model does.
    """
    owners = type(trainer).__mro__[: type(trainer).__mro__.index(Trainer)]
    own = (one for one in owners if "compute_loss" in vars(one) and not one.__module__.startswith("craft_trainer."))
    found = next((f"{_named(one)}.compute_loss" for one in own), None)
    return None if getattr(trainer.args, "loss_type", None) == "nll" else found


def _loss_without_trainers(trainer: Trainer) -> str | None:
    """The ``compute_loss`` that does not reach Trainer's own, which smooths labels; None if it does."""
    owners = type(trainer).__mro__[: type(trainer).__mro__.index(Trainer)]
    return next((f"{_named(one)}.compute_loss" for one in owners if _goes_its_own_way(one, "compute_loss")), None)


def require_exact(trainer: Trainer) -> None:
    """Refuse, by a ValueError, arguments under which the gradient that is applied is not that of the model's loss.

    docs/training.md has a line for every argument of Trainer.
    """
    args, settings = trainer.args, retention_settings(trainer.args)
    optimizer = str(getattr(args.optim, "value", args.optim))
    if any(word in optimizer for word in STEP_IN_BACKWARD):
        raise ValueError(f"optim {optimizer} cannot be used with anchors: {FUSED_AWAY}. Use optim adamw_torch")
    smoothed = args.label_smoothing_factor != 0
    if smoothed and (own := _loss_without_trainers(trainer)) is not None:
        if trainer.is_world_process_zero():
            logger.warning(
                "label_smoothing_factor %g smooths nothing unless %s reads it: that does not call super().compute_loss",
                *(args.label_smoothing_factor, own),
            )
    elif smoothed and (fault := _fault_of_smoothing(trainer)) is not None:
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}: {fault}. Set it to 0; for a model that predicts "
            f"the next token, compute_loss_func=SmoothedLoss({args.label_smoothing_factor}) of "
            "craft_trainer.losses.smoothing does it right"
        )
    takes = settings.recipe.loss in (ReplayLoss, EWCLoss)
    held = f"method {settings.method}" if takes else "retention term task"
    takes = takes or (settings.recipe.loss is DistillationLoss and Task.name in settings.retention_terms)
    replaced = smoothed or trainer.compute_loss_func is not None
    by = "label_smoothing_factor or compute_loss_func" if replaced else own_loss(trainer)
    if by is not None and takes:
        raise ValueError(
            f"{held} takes the model's own loss on the anchors, which {by} replaces on the task: drop it, or hold "
            "something else (method craft with other retention_terms)"
        )


def require_movable(loss: Tensor, settings: RetentionSettings) -> None:
    """Refuse, by a ValueError, an L_retain that no trained parameter reaches: it would stay as it is."""
    if not loss.requires_grad:
        held = f"retention_terms {settings.retention_terms}" if settings.recipe.loss is DistillationLoss else "the loss"
        raise ValueError(
            f"nothing that is held can move: no parameter that is trained acts on {held} of method {settings.method}. "
            "Train layers before those that are held (of an adapter: more lora_targets), or hold what comes after the "
            "trained ones (output, or token_kl of a model that predicts tokens)"
        )


def refuse_idle_settings(trainer: Any) -> None:
    """Refuse, by a ValueError, a baseline without anchors, and warn of settings that have no effect without them."""
    settings = trainer.settings
    if settings.method not in ("craft", "plain"):
        raise ValueError(f"method {settings.method} has no effect without anchors: give some, or drop it")
    idle = [name for name in changed_fields(settings) if name in {one.name for one in fields(RetentionSettings)}]
    if idle and settings.method == "craft" and trainer.is_world_process_zero():
        logger.warning("no anchors: this is plain training, without effect of %s", ", ".join(idle))


def _fault_of_smoothing(trainer: Trainer) -> str | None:
    """The fault of Trainer's label smoothing of this model: Trainer.compute_loss pops the labels for it."""
    model, accelerator = base_model(trainer.model), trainer.accelerator
    config = getattr(model, "config", None)
    if isinstance(trainer.compute_loss_func, SmoothedLoss):
        return None
    name, text = type(model).__name__, getattr(config, "get_text_config", lambda: None)()
    causal = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    encodes = getattr(config, "is_encoder_decoder", False)  # its labels are not shifted
    renamed = accelerator.state.dynamo_plugin.backend != DynamoBackend.NO or is_sharded(accelerator)
    generates = getattr(model, "can_generate", lambda: False)() and not encodes
    faults = {
        "compute_loss_func replaces the loss that it would smooth": trainer.compute_loss_func is not None,
        "Trainer leaves it out for problem_type multi_label_classification": trainer.label_smoother is None,
        f"Trainer leaves the auxiliary loss of the routers of a {name} out": getattr(
            text, "output_router_logits", False
        ),
        f"Trainer looks for `labels`, and a {name} takes none": "labels" not in trainer.label_names,
        f"Trainer does not shift the labels of a {name} to the next token": generates and not causal,
        f"Trainer does not shift the labels of a {name} under torch_compile or FSDP": causal and renamed,
    }
    return next((fault for fault, found in faults.items() if found), None)


class GradientGuard(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Stops a run whose optimizer steps retention does not see, by a ValueError or, in its midst, a RuntimeError.

    So too a run in which a callback changes a setting that retention was made for when the training began.
    """

    def __init__(self, accelerator: Accelerator, settings: RetentionSettings) -> None:
        self._accelerator = accelerator
        self._joint = settings.backward == "joint"  # so it is not looked for gradients, or for what takes them
        self._made_for = {name: deepcopy(getattr(settings, name)) for name in OF_THE_START}
        self._followed = False

    def follow(self, model: nn.Module) -> None:
        """Say that the optimizer step which comes next has passed through retention's ``training_step``.

        Raises:
            ValueError: the task's backward pass left no gradient, as LOMO does, which steps and clears them.
        """
        if not self._joint and all(parameter.grad is None for parameter in model.parameters()):
            raise ValueError(f"the backward pass of the task left no gradient to merge: {FUSED_AWAY}. Use another")
        self._followed = True

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        """Refuse several optimizers, and one that steps a parameter in its backward pass."""
        if self._joint:
            return
        optimizers = len(self._accelerator._optimizers)
        if optimizers > 1:
            raise ValueError(f"{optimizers} optimizers were prepared: retention merges the gradients of one")
        parameters = [] if is_sharded(self._accelerator) else kwargs["model"].named_parameters()
        hooked = [name for name, parameter in parameters if getattr(parameter, "_post_accumulate_grad_hooks", None)]
        if hooked:
            raise ValueError(f"{hooked[0]} has a hook that runs when its gradient is ready: {FUSED_AWAY}")

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Make sure that retention saw the step, and that it is still what it was made for.

        ``training_step`` may have been replaced on the trainer.
        """
        settings = retention_settings(args)
        for name, value in self._made_for.items():
            if getattr(settings, name) != value:
                raise RuntimeError(
                    f"{name} was changed to {getattr(settings, name)} during the training, which would have no effect: "
                    f"retention was made for {value} when it began. Change it before train()"
                )
        if not self._followed:
            raise RuntimeError(
                f"optimizer step {state.global_step + 1} did not pass through CraftTrainer.training_step, so nothing "
                "was retained: call super().training_step in your own, or train without anchors"
            )
        self._followed = False
