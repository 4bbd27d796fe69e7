"""Retention as a mixin of any Trainer: a second gradient, surgery between the two, and multipliers."""

import logging
from collections.abc import Mapping, Sized
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import Trainer

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.lineage import Lineage
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.anchors.provenance import AUTO
from craft_trainer.anchors.trial import require_held
from craft_trainer.hub.facts import RunFacts
from craft_trainer.hub.resolve_path import resolve_path
from craft_trainer.hub.run_folder import in_use
from craft_trainer.models.base import AnchoredModel
from craft_trainer.models.families import as_anchored_model, require_adapter_inside
from craft_trainer.models.precision import warn_if_emulated
from craft_trainer.optim.angle import UpdateAngle
from craft_trainer.optim.blocks import GRANULARITIES
from craft_trainer.optim.merging import Merge
from craft_trainer.training.accumulation import settle_shares
from craft_trainer.training.auto import own_anchors
from craft_trainer.training.callbacks import TASK_KL, CraftStep, DualState, RetentionHistory
from craft_trainer.training.config import retention_settings, with_columns
from craft_trainer.training.console import write_short_lines
from craft_trainer.training.distribution import (
    is_partitioned,
    require_agreement,
    require_joined_processes,
    require_supported_mode,
    require_whole,
    through_root,
)
from craft_trainer.training.drift import TaskDrift, begin_task_drift
from craft_trainer.training.guards import (
    GradientGuard,
    refuse_idle_settings,
    require_exact,
    require_followed,
    require_movable,
    require_own_arguments,
)
from craft_trainer.training.joint import choose_backward, joined_loss, joining, require_possible
from craft_trainer.training.learned_inputs import refuse_learned_inputs
from craft_trainer.training.missed import warn_if_missed
from craft_trainer.training.order import EpochOrder, is_drawn_at_every_epoch
from craft_trainer.training.pass_cost import PassCost
from craft_trainer.training.retention import Retention, RetentionPass
from craft_trainer.training.run_card import run_facts
from craft_trainer.training.run_record import RunRecord, changed_fields, lineage_of
from craft_trainer.training.settings import RetentionSettings
from craft_trainer.training.short_run import ShortRun
from craft_trainer.training.step import block_rule, craft_step

Base: Any = Trainer if TYPE_CHECKING else object
OWN_CALLBACKS = (DualState, RetentionHistory, GradientGuard, PassCost, ShortRun)  # made anew when a run begins
logger = logging.getLogger(__name__)


class RetentionMixin(Base):  # type: ignore[misc]  # transformers is not typed
    """Keeps L_retain ≤ ε on anchors while the Trainer that it is mixed into minimises its own loss.

    With g_t the gradient of the task loss over all micro-batches of an optimizer step and g_r that of the retention
    loss on one anchor batch, the optimizer sees w_t·g_t + w_r·g_r, whose weights come from the rule ``surgery`` and
    the multiplier λ. Then λ follows L_retain − ε by the rule ``multiplier``. Between retention passes
    (``retention_every`` > 1) the optimizer sees g_t alone, so λ acts on one step in K.

    The settings are those of the training arguments where they have some (:class:`CraftConfig`, or
    :func:`craft_trainer.retaining_config`), else the defaults. They are read again when a training begins, so that
    ``hyperparameter_search`` may search over them. Without ``anchors``, or with method plain, the step is the base's.

    Args:
        anchors: a cache, its folder or name on the Hub, the anchors of an adapter, or ``auto``: what the model makes of
            states, frames or texts before it learns (:func:`craft_trainer.training.auto.own_anchors`). Everything else
            is the base's.

    Raises:
        ValueError: ``method`` is a baseline and there are no anchors, the cache was not made by the model (and
            ``teacher_mismatch`` is refuse), the anchors have the inputs that are learned (and ``learned_inputs`` is
            refuse), or a setting or a distributed mode hides gradients.
        TypeError: the model cannot be anchored, or the base trains in a way that retention cannot follow.
        FloatingPointError: L_retain or a gradient is not finite, and there is no fp16 scaler to skip the step.
    """

    anchors: AnchorCache | AdapterAnchors | None = None
    retention: Retention | None = None
    task_drift: TaskDrift | None = None
    warns_if_missed = True  # of a constraint, when a training ends; the commands say what came of it themselves
    _prepared: tuple[Any, ...] | None = None  # what retention was made for
    _shares_settled = False  # whether the task loss of a micro-batch is known to be its share of its step's
    _untouched = False  # whether the student must equal its only teacher still

    def __init__(
        self, *args: Any, anchors: AnchorCache | AdapterAnchors | str | Path | None = None, **kwargs: Any
    ) -> None:
        require_own_arguments(type(self), (*args, *kwargs.values()))
        for given in (*args, *kwargs.values()) if anchors is not None else ():
            require_possible(given)
        super().__init__(*args, **kwargs)
        self.args: Any = with_columns(self)
        require_joined_processes(self.args)
        require_adapter_inside(self.model)
        if isinstance(anchors, str | Path) and anchors != AUTO:
            anchors = AnchorCache(resolve_path(anchors, "dataset"))
        held = anchors.provenance.fingerprint if isinstance(anchors, AnchorCache) else anchors and type(anchors)
        num_samples = len(self.train_dataset) if isinstance(self.train_dataset, Sized) else None
        require_agreement(self.args, anchors=held, num_samples=num_samples)
        if isinstance(anchors, str | Path):
            anchors = own_anchors(self.model, self.args, self.train_dataset, self.processing_class)
        self.anchors = anchors
        if is_drawn_at_every_epoch(self.args, self.train_dataset):
            self.add_callback(EpochOrder())
        self.add_callback(RunRecord(anchored=self.anchors is not None, groups=getattr(self.anchors, "groups", ())))
        if self.anchors is None:
            refuse_idle_settings(self)
        else:
            write_short_lines(self)
            self.record_run({})
            self._prepare_retention()

    def record_run(self, inputs: Mapping[str, Any]) -> None:
        """Write ``run.json`` into the output folder, which says what the run was given: ``inputs`` and the settings."""
        record = self.callback_of(RunRecord)
        record.inputs = dict(inputs)
        if record.lineage is None and self.is_world_process_zero():
            record.lineage = lineage_of(self)

    @property
    def settings(self) -> RetentionSettings:
        """The settings of retention as they are now."""
        return retention_settings(self.args)

    @property
    def anchored_model(self) -> AnchoredModel:
        """The unwrapped model, as the anchors see it."""
        return as_anchored_model(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))

    @property
    def dual(self) -> DualState:
        """The callback that holds λ."""
        found: DualState = self.callback_of(DualState)
        return found

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Task loss and backward; on the micro-batch that ends an optimizer step, retention and surgery as well."""
        if self.retention is None:
            return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[no-any-return]  # not typed
        self._shares_settled = self._shares_settled or settle_shares(self, model, inputs, num_items_in_batch)
        if self.settings.backward == "joint":
            join = partial(joined_loss, self, model)
            with joining(self.accelerator, join, type(self).__qualname__):
                return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[no-any-return]
        cost = self.callback_of(PassCost)
        with cost.task_pass():
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        task_loss = self.task_loss_beside(loss)
        if task_loss is not None:
            with cost.retention_pass():
                self._retention_step(self.retention, task_loss)
        return loss

    def task_loss_beside(self, loss: Tensor) -> Tensor | None:
        """Add the ``loss`` of a micro-batch to its step's; L_task of the step that ends, if a retention pass is due."""
        history = self.callback_of(RetentionHistory)
        history.add_task_loss(loss)
        if not self.accelerator.sync_gradients:
            return None
        task_loss: Tensor = history.take_task_loss()
        self.callback_of(GradientGuard).follow(self.model)
        return task_loss if self.retention is not None and self.retention.is_due(self.state.global_step) else None

    def _retention_step(self, retention: Retention, task_loss: Tensor) -> None:
        """g_task and g_retain become one gradient; λ takes its step."""
        settings, scaler, step = self.settings, self.accelerator.scaler, self.state.global_step
        named = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        parameters = list(named.values())
        measured = step % settings.update_angle_every < settings.retention_every  # the first pass from a multiple on
        angle = UpdateAngle(parameters) if measured else None

        retention_pass = self.retention_pass(retention, task_loss)
        blocks = GRANULARITIES[settings.granularity](list(named))
        as_ready = len(blocks) > 1 and self.accelerator.num_processes == 1
        keep = None if angle is None else angle.keep
        with Merge(
            parameters, blocks, block_rule(settings, retention_pass), as_ready=as_ready, on_retain=keep
        ) as merge:
            retention.backward(retention_pass.loss, parameters)  # g_retain
            merged = merge.finish(average=retention.averages_gradients)  # surgery
        norms = {"|g_task|²": float(merged.gram[0, 0]), "|g_retain|²": float(merged.gram[1, 1])}
        self.require_finite({"L_retain": retention_pass.constraint.retention_loss, **norms})
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        done = craft_step(settings, retention_pass, merged, scale=scale, step=step + 1)
        self.end_step(retention, retention_pass, done, angle, finite=merged.finite)

    def end_step(
        self, retention: Retention, found: RetentionPass, done: CraftStep, angle: UpdateAngle | None, *, finite: bool
    ) -> None:
        """Let λ take its step with the optimizer, unless losses or gradients are not ``finite``; write the history."""
        self.dual.step_with_optimizer(partial(retention.step, self.dual, found, finite=finite))
        self.callback_of(RetentionHistory).add(done, angle, found.group_states)

    def retention_pass(self, retention: Retention, task_loss: Tensor) -> RetentionPass:
        """L_retain on this step's anchors; before the first step the student must equal its teacher."""
        look = partial(retention.forward, self.anchored_model, self.state, self.dual, task_loss)
        found: RetentionPass = through_root(self.model, look)
        require_movable(found.loss, self.settings)
        if self.state.global_step == 0 and self._untouched:
            found = retention.begin(found, self.dual)
        self._untouched = False  # also where a checkpoint was resumed
        return found

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the base's, in an output folder that no other run may use meanwhile; a missed constraint is a warning."""
        with in_use(Path(self.args.output_dir)) if self.is_world_process_zero() else nullcontext():
            found = super().train(*args, **kwargs)
            if self.warns_if_missed:
                warn_if_missed(self)
        return found

    def _hp_search_setup(self, trial: Any) -> None:
        """As Trainer's, called when model and settings are those of this training: retention is made of the teacher."""
        super()._hp_search_setup(trial)
        if self.is_world_process_zero():
            warn_if_emulated(self.model, self.accelerator.mixed_precision)
        if self.anchors is not None:
            self._prepare_retention()
        if self.retention is not None and self.task_drift is None:
            self.task_drift = begin_task_drift(self)

    def _prepare_retention(self) -> None:
        """Make what depends on the model and the settings, unless it is made for them already."""
        choose_backward(self)
        settings = self.settings
        settings.check()
        place = next((weight.device, weight.dtype) for weight in self.model.parameters())  # bf16_full_eval changes them
        prepared = (self.model, self.accelerator, changed_fields(settings), place)
        if self._prepared is not None and all(a is b or a == b for a, b in zip(prepared, self._prepared, strict=True)):
            return
        self._prepared, self._untouched, self._shares_settled = prepared, False, False
        for kind in OWN_CALLBACKS:
            self.remove_callback(kind)
        self.retention = self.task_drift = None
        if self.anchors is None or settings.recipe.loss is None:
            return
        require_followed(type(self))
        require_exact(self)
        require_supported_mode(self.accelerator, self.args)
        if settings.teacher_mismatch == "refuse":
            self._untouched = self._starts_at_teacher()
        elif self.is_world_process_zero() and isinstance(self.anchors, AnchorCache) and not is_partitioned(self.model):
            self.anchors.warn_of_other_teacher(Lineage.of(self.anchored_model))
        anchors = self.anchors
        require_held(self.anchored_model, lambda rows: anchors.batch(rows).inputs, anchors.specs)
        refuse_learned_inputs(self.anchors, self.train_dataset, settings)
        self.retention = Retention(self.anchors, self.anchored_model, self.args, self.accelerator)
        self.add_callback(DualState(settings.recipe.multiplier_init, self.retention.groups))
        self.add_callback(RetentionHistory(by_group=settings.constraints == "per_group"))
        self.add_callback(GradientGuard(self.accelerator, settings))
        self.add_callback(ShortRun())
        if settings.backward == "separate":
            self.add_callback(PassCost(self.retention))

    def _starts_at_teacher(self) -> bool:
        """True if the student is the only teacher of its anchors, rather than trained from it since.

        Raises:
            ValueError: it is neither.
        """
        cannot = "its weights cannot be compared with the anchors' teacher"
        require_whole(self.model, cannot, way_out="set teacher_mismatch: allow")
        found = [True]
        if self.accelerator.is_main_process:
            if isinstance(self.anchors, AnchorCache):
                found = [self.anchors.check_start(Lineage.of(self.anchored_model))]
            elif self.anchors is not None:
                self.anchors.check_teacher(self.anchored_model)
        return bool(broadcast_object_list(found)[0])

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The base's logs, with the means of the retention passes since the last training log."""
        if "loss" in logs and self.retention is not None:
            logs |= self.callback_of(RetentionHistory).take_means()
            if self.task_drift is not None:
                with self.accelerator.autocast():
                    look = partial(self.task_drift.measure, self.anchored_model)
                    logs[TASK_KL] = through_root(self.model, look)
        super().log(logs, *args, **kwargs)

    def run_facts(self) -> RunFacts:
        """The facts of the run, for its card."""
        return run_facts(self)
