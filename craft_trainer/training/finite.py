"""End a run at a value that is not finite, before the optimizer steps by it and before it is saved."""

import logging
import math
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from craft_trainer.hub.run_folder import checkpoints
from craft_trainer.training.finishing import settle

Base: Any = Trainer if TYPE_CHECKING else object
SKIPPED_AT_MOST = 100  # steps in a row; each halves the scale of fp16, which starts at 2¹⁶
logger = logging.getLogger(__name__)


class FiniteMixin(Base):  # type: ignore[misc]  # transformers is not typed
    """Looks at every task loss and every norm of the gradient; Trainer's log would say that such a loss is another.

    Raises:
        FloatingPointError: one is not finite, and neither an fp16 scaler nor DeepSpeed's own, in fp16, skips the step.
            The weights are those before the step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(FiniteWeights())

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the base's, whose loss must be finite."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self.require_finite({"the task loss": float(loss)})
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, which asks for it before the optimizer steps."""
        norm = super()._get_grad_norm(*args, **kwargs)
        if norm is not None:
            self.require_finite({"the norm of the gradient": float(norm)})
        return norm

    def require_finite(self, values: dict[str, float]) -> None:
        """Raise a FloatingPointError if one of the named ``values`` of this step is not finite, without a scaler."""
        if all(map(math.isfinite, values.values())):
            return
        step, told = (
            self.state.global_step + 1,
            " and ".join(f"{name} is {value:.3g}" for name, value in values.items()),
        )
        deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        if self.accelerator.scaler is None and not (deepspeed and self.accelerator.mixed_precision == "fp16"):
            raise FloatingPointError(
                f"step {step}: {told}: lower learning_rate, or look for bad samples; {way_back(self.args)}"
            )
        logger.warning("step %d: %s, so the fp16 scaler skips it", step, told)


class FiniteWeights(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Stops a run before it saves, and at its end, if it has met what is not a number.

    An fp16 scaler skips the steps whose gradient is not finite. A run that it skips on and on learns nothing.

    Raises:
        FloatingPointError: a weight, a state of the optimizer or the loss of an evaluation is not finite, or too many
            steps were skipped.
    """

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Count anew."""
        self._steps = self._skipped = 0

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Count the steps that the fp16 scaler has skipped, until there are so many that its scale is almost 0."""
        self._steps += 1
        self._skipped = self._skipped + 1 if getattr(kwargs["optimizer"], "step_was_skipped", False) else 0
        if self._skipped == SKIPPED_AT_MOST:
            self._refuse_skipped(state)

    def _refuse_skipped(self, state: TrainerState) -> None:
        raise FloatingPointError(
            f"step {state.global_step}: the fp16 scaler has skipped the last {self._skipped} steps, so the gradient is "
            "not finite at any scale: look for bad samples, or use bf16"
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look before a checkpoint is written."""
        if control.should_save:
            require_finite_run(args, state, **kwargs)

    on_epoch_end = on_step_end

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Look at the loss of an evaluation, which may choose the best checkpoint; the weights or the data are why."""
        for name, value in kwargs["metrics"].items():
            if name.endswith("loss") and isinstance(value, Real) and not math.isfinite(value):
                require_finite_run(args, state, **kwargs)
                raise FloatingPointError(
                    f"step {state.global_step}: {name} is {value} although every weight is finite: look for bad "
                    "samples in what is evaluated, or for a batch of it without labels"
                )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Look at what will be saved, and whether every step of the run was skipped."""
        require_finite_run(args, state, **kwargs)
        if self._skipped and self._skipped == self._steps:
            self._refuse_skipped(state)


def require_finite_run(
    args: TrainingArguments, state: TrainerState, *, model: nn.Module, optimizer: Any = None, **_: Any
) -> None:
    """Raise a FloatingPointError if a trained parameter, a running statistic of norms or a state is not finite."""
    for name, tensor in (*_tensors_of(model), *_tensors_of_optimizer(optimizer)):
        if not _is_finite(tensor.detach()):
            raise FloatingPointError(
                f"step {state.global_step}: {name} is not finite any more, so the model is lost: lower learning_rate, "
                f"set max_grad_norm, or look for bad samples; {way_back(args)}"
            )


def way_back(args: TrainingArguments) -> str:
    """Say which checkpoint a run can go on from; one that is being finished is waited for."""
    settle(Path(args.output_dir))
    return last_saved(args)


def last_saved(args: TrainingArguments) -> str:
    """Say which checkpoint a run can go on from as it is now."""
    saved = checkpoints(Path(args.output_dir))
    return f"go on from {saved[-1]}" if saved else "no checkpoint was saved before"


def _is_finite(tensor: Tensor) -> bool:
    """A finite sum has finite terms only, and takes a tenth of the time; that of large terms may be infinite."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _tensors_of(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, _own_part(parameter)
    for name, buffer in model.named_buffers():
        if ".running_" in f".{name}":
            yield name, buffer


def _own_part(parameter: Tensor) -> Tensor:
    """The weights that this process has: in ZeRO 3 its part, without the padding, which DeepSpeed does not write."""
    if not hasattr(parameter, "ds_tensor"):
        return parameter
    split: Any = parameter
    part: Tensor = split.ds_tensor
    return part[: max(0, split.ds_numel - part.numel() * split.ds_zero_partition_rank)]


def _tensors_of_optimizer(optimizer: Any) -> Iterable[tuple[str, Tensor]]:
    for states in getattr(optimizer, "state", {}).values():
        for name, value in states.items() if isinstance(states, dict) else ():
            if isinstance(value, Tensor) and value.is_floating_point():
                yield f"{name} of the optimizer", value
