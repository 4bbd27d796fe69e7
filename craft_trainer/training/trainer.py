"""CraftTrainer: HuggingFace's Trainer with a second gradient, surgery between the two, and multipliers."""

import logging
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.hub.facts import RunFacts
from craft_trainer.hub.hub_trainer import PublishingTrainer
from craft_trainer.hub.readme import text_of
from craft_trainer.hub.resolve_path import resolve_path
from craft_trainer.hub.run_folder import in_use
from craft_trainer.models.base import AnchoredModel, SupportsCheckpointing
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.pretrained import restore
from craft_trainer.optim.angle import UpdateAngle
from craft_trainer.optim.blocks import GRANULARITIES
from craft_trainer.optim.clipping import KnownNorm
from craft_trainer.optim.merging import BlockRule, Merge, Merged
from craft_trainer.optim.surgery import MERGES, Surgery, Weights, surgery_rule
from craft_trainer.optim.surgery import none as no_surgery
from craft_trainer.training.callbacks import TASK_KL, CraftStep, DualState, RetentionHistory
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.distribution import is_sharded, require_joined_processes, require_visible_gradients
from craft_trainer.training.drift import TaskDrift, preserve_rng_state
from craft_trainer.training.retention import Retention, RetentionPass
from craft_trainer.training.run_card import run_facts
from craft_trainer.training.run_record import RunRecord, changed_fields

logger = logging.getLogger(__name__)
CLIP = Accelerator.clip_grad_norm_


class CraftTrainer(PublishingTrainer):
    """A ``Trainer`` that keeps L_retain ≤ ε on anchors while it minimises the task loss.

    With g_t the gradient of the task loss over all micro-batches of an optimizer step and g_r that of the retention
    loss on one anchor batch, the optimizer sees w_t·g_t + w_r·g_r, whose weights come from the rule ``args.surgery``
    and the multiplier λ; then λ follows L_retain − ε by the rule ``args.multiplier``. Between retention passes
    (``retention_every`` > 1) the optimizer sees g_t alone, so λ acts on one step in K.

    Without ``anchors``, or with ``method="plain"``, this is the plain Trainer.

    Raises:
        ValueError: ``method`` is a baseline and there are no anchors, the cache was not made by ``model`` (and
            ``teacher_mismatch`` is refuse), or a distributed mode that hides gradients is active.
        TypeError: ``model`` cannot be anchored, or ``args`` is neither a CraftConfig nor plain TrainingArguments.
        FloatingPointError: a gradient is not finite, and there is no fp16 scaler to skip the step.
    """

    args: CraftConfig

    def __init__(
        self,
        model: nn.Module | None = None,
        args: CraftConfig | TrainingArguments | None = None,
        *,
        anchors: AnchorCache | AdapterAnchors | str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        args = args or CraftConfig()
        if not isinstance(args, CraftConfig):
            args = CraftConfig.extending(args)
        require_joined_processes(args)
        if anchors is None and args.method not in ("craft", "plain"):
            raise ValueError(f"method {args.method} has no effect without anchors: give some, or drop it")
        super().__init__(model=model, args=args, **kwargs)
        self.anchors = AnchorCache(resolve_path(anchors, "dataset")) if isinstance(anchors, str | Path) else anchors
        self.retention: Retention | None = None
        self.task_drift: TaskDrift | None = None
        self._known_norm: KnownNorm | None = None
        self.run_record = RunRecord(anchored=self.anchors is not None)
        self.add_callback(self.run_record)
        if anchors is None and self.args.method == "craft" and self.is_world_process_zero():
            self._warn_of_idle_settings()
        if self.anchors is not None and self.args.recipe.source is not None:
            require_visible_gradients(self.accelerator, self.args)
            if self.args.teacher_mismatch == "refuse" and self.accelerator.is_main_process:
                self.anchors.check_teacher(self.anchored_model)
            self.retention = Retention(self.anchors, self.anchored_model, self.args, self.accelerator)
            self.add_callback(DualState(self.args.recipe.multiplier_init, self.retention.groups))
            self.add_callback(RetentionHistory(by_group=self.args.constraints == "per_group"))

    def _warn_of_idle_settings(self) -> None:
        of_retention = CraftConfig.__dataclass_fields__.keys() - TrainingArguments.__dataclass_fields__.keys()
        idle = [name for name in changed_fields(self.args) if name in of_retention]
        if idle:
            logger.warning("no anchors: this is plain training, without effect of %s", ", ".join(idle))

    @property
    def anchored_model(self) -> AnchoredModel:
        """The unwrapped model, as the anchors see it."""
        return as_anchored_model(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))

    @property
    def dual(self) -> DualState:
        """The callback that holds λ."""
        return self._callback(DualState)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Task loss and backward; on the micro-batch that ends an optimizer step, retention and surgery as well."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.retention is None:
            return loss
        history = self._callback(RetentionHistory)
        history.add_task_loss(loss)
        if self.accelerator.sync_gradients:
            task_loss = history.take_task_loss()
            if self.retention.is_due(self.state.global_step, self.dual):
                self._retention_step(self.retention, task_loss)
        return loss

    def _retention_step(self, retention: Retention, task_loss: Tensor) -> None:
        """g_task and g_retain become one gradient; λ takes its step."""
        named = dict(self.model.named_parameters())
        parameters = [parameter for parameter in named.values() if parameter.requires_grad]
        frozen = [parameter for parameter in named.values() if not parameter.requires_grad]
        blocks = GRANULARITIES[self.args.granularity]([name for name, p in named.items() if p.requires_grad])
        watched = self.state.global_step % self.args.update_angle_every == 0
        angle = UpdateAngle(parameters) if watched else None
        keep = None if angle is None else angle.keep

        retention_pass = retention.forward(self.anchored_model, self.state, self.dual, task_loss)  # L_retain
        as_ready = len(blocks) > 1 and self.accelerator.num_processes == 1
        with Merge(parameters, blocks, self._rule(retention_pass), as_ready=as_ready, on_retain=keep) as merge:
            retention.backward(retention_pass.loss, parameters)  # g_retain
            merged = merge.finish(average=retention.averages_gradients)  # surgery
        if not merged.finite and self.accelerator.scaler is None:
            raise FloatingPointError(
                f"step {self.state.global_step + 1}: squared norms of the task and retention gradients are "
                f"{merged.gram[0, 0]:.3g} and {merged.gram[1, 1]:.3g}: lower learning_rate, or look for bad samples"
            )
        if self.accelerator.scaler is None and self._clips_alone():
            self._known_norm = KnownNorm.after(merged, parameters, frozen)
        skipped = retention.step(self.state.global_step, self.dual, retention_pass, finite=merged.finite)  # dual
        self._callback(RetentionHistory).add(
            self._step(retention_pass, merged, skipped), angle, retention_pass.group_states
        )

    def _clips_alone(self) -> bool:
        """Whether nothing of a user's is between surgery and the optimizer: no step, no clipping of their own."""
        own = ((self.training_step, CraftTrainer.training_step), (self.accelerator.clip_grad_norm_, CLIP))
        return all(getattr(bound, "__func__", None) is function for bound, function in own)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | float:
        """As Trainer's, without measuring a norm that surgery has found already."""
        known = None if self._known_norm is None else self._known_norm.clip(self.args.max_grad_norm)
        norm: Tensor | float = super()._clip_grad_norm(model) if known is None else known
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float:
        if grad_norm is None and self._known_norm is not None:
            grad_norm = self._known_norm.clip(math.inf)
        self._known_norm = None
        norm: Tensor | float = super()._get_grad_norm(model, grad_norm=grad_norm)
        return norm

    def _rule(self, retention_pass: RetentionPass) -> BlockRule:
        """The surgery rule of this step: a block's Gramian → its weights."""
        if retention_pass.probing:
            return lambda gram: no_surgery(gram, Weights(1.0, 0.0), self.args.conflict_threshold)
        constraint = retention_pass.constraint
        weights = MERGES[self.args.merge](constraint.multiplier)
        rule = surgery_rule(
            self.args.recipe.surgery,
            excess=constraint.violation / constraint.epsilon,
            strength=self.args.barrier_strength,
            maximum=self.args.multiplier_max,
        )

        def of_block(gram: Tensor) -> Surgery:
            return rule(gram, weights, self.args.conflict_threshold)

        return of_block

    def _step(self, retention_pass: RetentionPass, merged: Merged, skipped: int) -> CraftStep:
        task_norm, retention_norm = (merged.gram.diagonal().sqrt() / self._loss_scale()).tolist()
        implied = self.args.recipe.surgery == "barrier" and not retention_pass.probing
        return CraftStep(
            step=self.state.global_step + 1,
            task_loss=retention_pass.task_loss,
            retention_loss=retention_pass.constraint.retention_loss,
            multiplier=merged.retain_weight if implied else retention_pass.constraint.multiplier,
            epsilon=retention_pass.constraint.epsilon,
            violation=retention_pass.constraint.violation,
            cosine=merged.cosine,
            conflict=merged.conflict,
            task_grad_norm=task_norm,
            retention_grad_norm=retention_norm,
            projected_energy=merged.projected_energy,
            skipped=skipped,
        )

    def _loss_scale(self) -> float:
        """What fp16 training multiplies both losses by; 1 without a gradient scaler."""
        scaler = self.accelerator.scaler
        return 1.0 if scaler is None else float(scaler.get_scale())

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; remembers first what the teacher, which the model still is, expects on some task data."""
        with in_use(Path(self.args.output_dir)) if self.is_world_process_zero() else nullcontext():
            if self.retention is not None:
                self.task_drift = self._begin_task_drift()
            return super().train(*args, **kwargs)

    def _begin_task_drift(self) -> TaskDrift | None:
        count, dataset = self.args.task_kl_samples, self.train_dataset
        indexable = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
        if count == 0 or self.anchored_model.output_kind != "logits" or not indexable:
            return None
        with preserve_rng_state(), self.accelerator.autocast():
            batch = self.data_collator([dataset[index] for index in range(min(count, len(dataset)))])
            return TaskDrift(self.anchored_model, batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's logs, with the means of the retention passes since the last training log."""
        if "loss" in logs and self.retention is not None:
            logs |= self._callback(RetentionHistory).take_means()
            if self.task_drift is not None:
                with self.accelerator.autocast():
                    logs[TASK_KL] = self.task_drift.measure(self.anchored_model)
        super().log(logs, start_time)

    def run_facts(self) -> RunFacts:
        """What is known of the run, for its card."""
        return run_facts(
            self.accelerator.unwrap_model(self.model, keep_torch_compile=False),
            self.args,
            None if self.retention is None else self.anchors,
            dataset=getattr(self.train_dataset, "source", None),
            processor=self.processing_class,
            step=self.state.global_step,
            repo=self.hub_model_id,
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        before = text_of(folder)  # PEFT writes a card of its own
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, SupportsCheckpointing):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:  # newer transformers come here with every process
            folder.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(folder, state_dict)
            torch.save(self.args, folder / TRAINING_ARGS_NAME)
        if self.args.should_save:
            self._write_card(folder, before)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.accelerator.unwrap_model(model or self.model)
        if is_sharded(self.accelerator) or not restore(target, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None or is_sharded(self.accelerator) or not restore(self.model, best):
            super()._load_best_model()

    def _callback[Kind](self, kind: type[Kind]) -> Kind:
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, kind))
