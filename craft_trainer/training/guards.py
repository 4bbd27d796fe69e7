"""What would make retention or a whole run mean something else, refused by name."""

import inspect
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from craft_trainer.models.general import base_model
from craft_trainer.training.config import RetentionArguments
from craft_trainer.training.distribution import is_sharded

FOLLOWED = ("train", "_inner_training_loop", "training_step")  # what an optimizer step passes through
STEP_IN_BACKWARD = ("lomo", "layerwise")  # in the names of optimizers
FUSED_AWAY = "the optimizer steps inside the backward pass, before the two gradients meet"


def require_own_arguments(kind: type, given: Iterable[Any]) -> None:
    """Refuse arguments with retention that are not those of the Trainer that ``kind`` is made of.

    Raises:
        TypeError: they are of another class; the message says how the right one is made.
    """
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
    """Refuse a Trainer whose optimizer steps do not pass through Trainer's own ``training_step``.

    Raises:
        TypeError: a class between ``kind`` and ``Trainer`` has a loop or a backward pass of its own.
    """
    for owner in kind.__mro__[: kind.__mro__.index(Trainer)]:
        for name in FOLLOWED:
            function = vars(owner).get(name)
            if function is not None and not _calls_super(function, name):
                raise TypeError(
                    f"{owner.__module__}.{owner.__qualname__}.{name} does not call super().{name}, so retention cannot "
                    "follow what it does with gradients: call it there, or train without anchors"
                )


def _calls_super(function: Callable[..., Any], name: str) -> bool:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is None or "super" in code.co_names or name in code.co_names


def require_exact(args: TrainingArguments, model: nn.Module) -> None:
    """Refuse training arguments under which the gradient that is applied is not that of the model's loss.

    Raises:
        ValueError: one of them is set; docs/training.md has a line for every argument of Trainer.
    """
    optimizer = str(getattr(args.optim, "value", args.optim))
    if any(word in optimizer for word in STEP_IN_BACKWARD):
        raise ValueError(f"optim {optimizer} cannot be used with anchors: {FUSED_AWAY}. Use optim adamw_torch")
    require_exact_loss(args, model)


def require_exact_loss(args: TrainingArguments, model: nn.Module) -> None:
    """Refuse label smoothing where Trainer's loss for it is not the model's.

    Trainer shifts the labels of causal language models only, so that any other model that predicts the next token would
    learn to repeat the current one. It also leaves out the number of accumulated micro-batches.

    Raises:
        ValueError: label smoothing is asked for, and would be wrong.
    """
    if args.label_smoothing_factor == 0:
        return
    name = type(base_model(model)).__name__
    if name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and getattr(model, "can_generate", lambda: False)():
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}: Trainer smooths the labels of {name} without "
            "shifting them to the next token, so the model would learn to repeat its input. Set it to 0"
        )
    if args.gradient_accumulation_steps > 1:
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}: Trainer does not divide the smoothed loss by "
            f"gradient_accumulation_steps ({args.gradient_accumulation_steps}). Set one of the two to its default"
        )


class GradientGuard(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Stops a run whose optimizer steps retention does not see."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._followed = False

    def follow(self) -> None:
        """Say that the optimizer step which comes next has passed through retention's ``training_step``."""
        self._followed = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the optimizers that there are.

        Raises:
            ValueError: there are several, or a parameter is stepped in its backward pass.
        """
        del args, state, control
        optimizers = len(self._accelerator._optimizers)
        if optimizers > 1:
            raise ValueError(f"{optimizers} optimizers were prepared: retention merges the gradients of one")
        parameters = [] if is_sharded(self._accelerator) else kwargs["model"].named_parameters()
        hooked = [name for name, parameter in parameters if getattr(parameter, "_post_accumulate_grad_hooks", None)]
        if hooked:
            raise ValueError(f"{hooked[0]} has a hook that runs when its gradient is ready: {FUSED_AWAY}")

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make sure that retention saw the step.

        Raises:
            RuntimeError: ``training_step`` was replaced on the trainer.
        """
        del args, control, kwargs
        if not self._followed:
            raise RuntimeError(
                f"optimizer step {state.global_step + 1} did not pass through CraftTrainer.training_step, so nothing "
                "was retained: call super().training_step in your own, or train without anchors"
            )
        self._followed = False


class FiniteWeights(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Stops a run before it saves, and at its end, if a weight is not a number: a log may say that the loss is 0."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look before a checkpoint is written.

        Raises:
            FloatingPointError: a weight is not finite.
        """
        del args
        if control.should_save:
            require_finite_weights(kwargs["model"], state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look where the norm of the gradient was not finite; an fp16 scaler may have skipped that step.

        Raises:
            FloatingPointError: a weight is not finite.
        """
        del args, control
        if not math.isfinite(kwargs["logs"].get("grad_norm", 0.0)):
            require_finite_weights(kwargs["model"], state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at what will be saved.

        Raises:
            FloatingPointError: a weight is not finite.
        """
        del args, control
        require_finite_weights(kwargs["model"], state.global_step)


def require_finite_weights(model: nn.Module, step: int) -> None:
    """Look at every parameter that is trained.

    Raises:
        FloatingPointError: one of them is infinite or not a number.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.detach().isfinite().all():
            raise FloatingPointError(
                f"step {step}: {name} is not finite any more, so the model is lost: lower learning_rate, set "
                "max_grad_norm, or look for bad samples; go on from the last checkpoint"
            )
