"""CraftTrainer: HuggingFace's Trainer with a second gradient, surgery between the two, and a multiplier."""

import math
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import DistributedType, send_to_device
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from craft_trainer.anchors.cache import AnchorBatch, AnchorCache
from craft_trainer.anchors.features import FeatureSpec, extract
from craft_trainer.anchors.loss import retention_loss
from craft_trainer.anchors.sampling import anchor_rows
from craft_trainer.callbacks import CraftStep, DualState, RetentionHistory
from craft_trainer.config import CraftConfig
from craft_trainer.models.base import AnchoredModel, require_anchored
from craft_trainer.optim import gradients
from craft_trainer.optim.dual import ascend, epsilon_at
from craft_trainer.optim.surgery import RULES
from craft_trainer.optim.surgery import none as no_surgery


class CraftTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """A ``Trainer`` that keeps L_retain ≤ ε on anchors while it minimises the task loss.

    With g_t the gradient of the task loss over all micro-batches of an optimizer step and g_r that of the retention
    loss on one anchor batch, the optimizer sees w_t·g_t + w_r·g_r, whose weights come from the rule ``args.surgery``
    and the multiplier λ; then λ ← clip(λ + η(L_retain − ε), 0, λ_max). Between retention passes
    (``retention_every`` > 1) the optimizer sees g_t alone, so λ acts on one step in K.

    Without ``anchors`` this is the plain Trainer.

    Raises:
        ValueError: the cache was not made by ``model`` (and ``teacher_mismatch`` is refuse), or a distributed mode that
            hides or shards gradients is active.
        TypeError: ``model`` cannot be anchored, or ``args`` is not a CraftConfig.
        FloatingPointError: a gradient is not finite, and there is no fp16 scaler to skip the step.
    """

    args: CraftConfig

    def __init__(
        self,
        model: nn.Module | None = None,
        args: CraftConfig | None = None,
        *,
        anchors: AnchorCache | str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        args = args or CraftConfig()
        if not isinstance(args, CraftConfig):
            raise TypeError(f"args is a {type(args).__name__}: CraftTrainer needs a CraftConfig, which extends it")
        super().__init__(model=model, args=args, **kwargs)
        self.anchors = AnchorCache(anchors) if isinstance(anchors, str | Path) else anchors
        if self.anchors is not None:
            self._require_visible_gradients()
            if self.args.teacher_mismatch == "refuse":
                self.anchors.check_teacher(self.anchored_model)
            self._variance = {name: value.to(self.args.device) for name, value in self.anchors.total_variance().items()}
            self.add_callback(DualState(self.args.multiplier_init))
            self.add_callback(RetentionHistory())

    @property
    def anchored_model(self) -> AnchoredModel:
        """The unwrapped model, as the anchors see it."""
        return require_anchored(self.accelerator.unwrap_model(self.model))

    @property
    def dual(self) -> DualState:
        """The callback that holds λ; Trainer makes a new one when it resumes."""
        return self._callback(DualState)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Task loss and backward; on the micro-batch that ends an optimizer step, retention and surgery as well."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.anchors is None:
            return loss
        history = self._callback(RetentionHistory)
        history.add_task_loss(loss)
        if self.accelerator.sync_gradients:
            task_loss = history.take_task_loss()
            if self.state.global_step % self.args.retention_every == 0:
                history.add(self._retention_step(task_loss))
        return loss

    def _retention_step(self, task_loss: float) -> CraftStep:
        """g_task and g_retain become one gradient; λ takes its step."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        task = gradients.take(parameters)
        retention = self._retention_backward()
        retain = gradients.take(parameters)

        gram = gradients.gramian(task, retain) / self._loss_scale() ** 2
        finite = bool(gram.isfinite().all())
        if not finite and self.accelerator.scaler is None:
            raise FloatingPointError(
                f"step {self.state.global_step + 1}: squared norms of the task and retention gradients are "
                f"{gram[0, 0]:.3g} and {gram[1, 1]:.3g}: lower learning_rate, or look for bad samples"
            )
        multiplier = self.dual.multiplier
        rule = RULES[self.args.surgery] if finite else no_surgery
        surgery = rule(gram, multiplier, self.args.conflict_threshold)
        gradients.put(parameters, gradients.combine(task, retain, surgery.task_weight, surgery.retain_weight))

        epsilon = self._epsilon()
        violation = retention - epsilon
        if finite:
            self.dual.multiplier = ascend(
                multiplier, violation, learning_rate=self.args.multiplier_lr, maximum=self.args.multiplier_max
            )
        return CraftStep(
            step=self.state.global_step + 1,
            task_loss=task_loss,
            retention_loss=retention,
            multiplier=multiplier,
            epsilon=epsilon,
            violation=violation,
            cosine=surgery.cosine,
            conflict=surgery.conflict,
            task_grad_norm=math.sqrt(gram[0, 0]),
            retention_grad_norm=math.sqrt(gram[1, 1]),
        )

    def _retention_backward(self) -> float:
        """L_retain on this step's anchors; its gradient is left in ``.grad``."""
        anchors = self._anchor_batch()
        weights = self.args.term_weights
        with self.accelerator.autocast():
            student = extract(self.anchored_model, anchors.inputs, self._specs(weights), output="output" in weights)
            loss = retention_loss(
                student, anchors.teacher, self._variance, weights=weights, hidden_distance=self.args.hidden_distance
            )
        self.accelerator.backward(loss)
        return loss.item()

    def _anchor_batch(self) -> AnchorBatch:
        assert self.anchors is not None
        rows = anchor_rows(
            len(self.anchors),
            self.args.retention_batch_size,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            draw=self.state.global_step // self.args.retention_every,
        )
        return cast(AnchorBatch, send_to_device(self.anchors.batch(rows), self.args.device))

    def _specs(self, weights: dict[str, float]) -> list[FeatureSpec]:
        """The cached features to hold; none when only the output is held, so that none is captured."""
        assert self.anchors is not None
        return self.anchors.specs if "hidden" in weights else []

    def _epsilon(self) -> float:
        final = self.args.epsilon if self.args.epsilon_final is None else self.args.epsilon_final
        return epsilon_at(
            self.state.global_step,
            self.state.max_steps,
            schedule=self.args.epsilon_schedule,
            start=self.args.epsilon,
            end=final,
        )

    def _loss_scale(self) -> float:
        """What fp16 training multiplies both losses by; 1 without a gradient scaler."""
        scaler = self.accelerator.scaler
        return 1.0 if scaler is None else float(scaler.get_scale())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's logs, with the means of the retention passes since the last training log."""
        if "loss" in logs and self.anchors is not None:
            logs |= self._callback(RetentionHistory).take_means()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, AnchoredModel):
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder, state_dict)
        torch.save(self.args, folder / TRAINING_ARGS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.accelerator.unwrap_model(model or self.model)
        if isinstance(target, AnchoredModel):
            target.load_checkpoint(resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if isinstance(self.model, AnchoredModel) and best is not None:
            self.model.load_checkpoint(best)
        else:
            super()._load_best_model()

    def _callback[Kind](self, kind: type[Kind]) -> Kind:
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, kind))

    def _require_visible_gradients(self) -> None:
        """Refuse what would hide or shard gradients, rather than train without surgery."""
        mode = self.accelerator.distributed_type
        if mode not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise ValueError(
                f"CraftTrainer with anchors cannot see whole gradients under {mode.value}: use one process"
            )
        if self.args.n_gpu > 1:
            raise ValueError(
                f"CraftTrainer with anchors sees {self.args.n_gpu} GPUs in one process, which Trainer would drive by "
                "DataParallel: start it with `accelerate launch --num_processes 1`, or set CUDA_VISIBLE_DEVICES=0"
            )
        if self.accelerator.num_processes > 1:
            raise ValueError(
                f"CraftTrainer with anchors was started in {self.accelerator.num_processes} processes; retention "
                "gradients are not yet summed over processes: use --num_processes 1"
            )
