"""One backward pass of L_task + λ·L_retain: where an engine hides gradients, or a trainer has a step of its own."""

import copy
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from craft_trainer.training.config import RetentionArguments, retention_settings
from craft_trainer.training.distribution import engine_that_hides, hidden_by
from craft_trainer.training.guards import own_step
from craft_trainer.training.step import joint_step, joint_weight

VISIBLE = "use DDP (`accelerate launch --multi_gpu`) or FSDP version 2 (`fsdp_version: 2`)"
logger = logging.getLogger(__name__)


def choose_backward(trainer: Any) -> None:
    """Set ``backward`` of this trainer's arguments to joint where separate is impossible, and say so once.

    Raises:
        ValueError: an engine hides gradients, and the settings need them.
        TypeError: the trainer has a ``training_step`` of its own, and the settings need gradients.
    """
    args, settings = trainer.args, trainer.settings
    engine, step = hidden_by(trainer.accelerator), own_step(type(trainer))
    idle = trainer.anchors is None or settings.recipe.loss is None
    if idle or settings.backward == "joint" or (engine is None and step is None):
        return
    if engine is not None:
        _refuse_comparison(args, engine)
        reason = f"{engine} hides gradients (what was run under it: docs/distributed.md)"
    elif settings.recipe.surgery != "none":
        raise TypeError(
            f"{step} does not call super().training_step, so retention cannot follow what it does with gradients: "
            "call it there, set surgery none (backward is then joint), or train without anchors"
        )
    else:
        reason = f"{step} does not call super().training_step"
    trainer.args = copy.copy(args)  # which may be those of another trainer as well
    setattr(trainer.args, args.renamed.get("backward", "backward"), "joint")
    try:
        trainer.settings.check()
    except ValueError as error:
        error.add_note(f"backward is joint because {reason}")
        raise
    if trainer.is_world_process_zero():
        logger.warning("backward is joint: %s, so one backward pass takes L_task + λ·L_retain", reason)


def require_possible(args: Any) -> None:
    """Refuse, before it starts, an engine that hides gradients with a surgery that compares them.

    Raises:
        ValueError: it does.
    """
    engine = engine_that_hides(args) if isinstance(args, RetentionArguments) else None
    if engine is not None:
        _refuse_comparison(args, engine)


def _refuse_comparison(args: Any, engine: str) -> None:
    settings = retention_settings(args)
    surgery, method = settings.recipe.surgery, settings.method
    if method == "plain":
        return
    if surgery == "none":
        return
    way_out = "set surgery none (backward is then joint)" if method == "craft" else "choose another method"
    raise ValueError(
        f"CraftTrainer with anchors cannot see gradients under {engine}, and surgery {surgery} compares them: "
        f"{way_out}, or {VISIBLE}"
    )


@contextmanager
def joining(accelerator: Accelerator, join: Callable[[Tensor], Tensor], name: str) -> Iterator[None]:
    """Let the one ``accelerator.backward(loss)`` inside be that of ``join(loss)``.

    Raises:
        RuntimeError: there is none, or a second; ``name`` is the trainer's.
    """
    original, calls = accelerator.backward, 0

    def backward(loss: Tensor, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise RuntimeError(
                f"{name}.training_step calls accelerator.backward more than once, so L_retain cannot be added to its "
                "loss (backward joint): add its losses up and call it once, or train without anchors"
            )
        original(join(loss), **options)

    accelerator.backward = backward
    try:
        yield
    finally:
        accelerator.backward = original
    if calls == 0:
        raise RuntimeError(
            f"{name}.training_step does not call accelerator.backward, so L_retain cannot be added to its loss "
            "(backward joint): call self.accelerator.backward(loss) there, or train without anchors"
        )


def joined_loss(trainer: Any, model: nn.Module, loss: Tensor) -> Tensor:
    """L_task of a micro-batch; of the one that ends an optimizer step, L_task + λ·L_retain.

    Raises:
        FloatingPointError: either is not finite, and there is no fp16 scaler to skip the step.
    """
    task_loss = trainer.task_loss_beside(loss.detach())
    if task_loss is None:
        return loss
    retention_pass = trainer.retention_pass(trainer.retention, task_loss)
    done = joint_step(retention_pass, step=trainer.state.global_step + 1)
    finite = math.isfinite(done.task_loss) and math.isfinite(done.retention_loss)
    trainer.require_finite({"the task loss": done.task_loss, "L_retain": done.retention_loss})
    trainer.end_step(trainer.retention, retention_pass, done, None, finite=finite)
    joined: Tensor = loss + joint_weight(trainer.settings, retention_pass) * retention_pass.loss
    if isinstance(model, DistributedDataParallel) and model.find_unused_parameters and not model.static_graph:
        model.reducer.prepare_for_backward([joined])  # DDP has seen what the task's output reaches, alone
    return joined
