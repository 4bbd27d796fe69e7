"""One retention pass: which anchors, their loss under the constraints, and what the multipliers learn from it."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from jaxtyping import Float
from torch import Tensor, nn
from transformers import TrainerState, TrainingArguments

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import AnchorBatch, Features
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.anchors.sampling import anchor_rows
from craft_trainer.losses.loss import RetentionLoss, TrainingStart
from craft_trainer.losses.term import Need, Scales
from craft_trainer.models.base import AnchoredModel
from craft_trainer.models.precision import AUTOCAST
from craft_trainer.optim import constraints as duals
from craft_trainer.optim.constraints import EVERYTHING, ConstraintState, GroupConstraintState
from craft_trainer.optim.dual import Constraint
from craft_trainer.optim.gradients import put
from craft_trainer.training.callbacks import DualState
from craft_trainer.training.config import anchors_per_pass, retention_settings
from craft_trainer.training.distribution import (
    as_weights_are,
    gather_for_predict,
    is_sharded,
    of_main_process,
    splits_parameters,
    sums_over_processes,
)
from craft_trainer.training.learned_inputs import OTHER_ANCHORS, may_hold_what_is_learned
from craft_trainer.training.schedule import scheduled_epsilon
from craft_trainer.training.settings import RetentionSettings

PASSES_AT_CEILING = 100  # passes in a row with λ at its ceiling and the constraint violated that deserve a warning
FEWEST_AT_CEILING = 10  # and in a short run half of its passes, but so many at least
PASSES_VIOLATED = 500  # and in a row with the constraint violated, wherever λ is
NO_ANCHORS = AnchorBatch({}, Features({}, None), [])  # for a loss that needs nothing of them
START = 2.5  # machine epsilons per unit of weight that an untouched student may have as L_retain
START_OF_FLOAT32 = 1e-3
ROUNDING = 4.0  # times the L_retain of an untouched student are still rounding
TASK = None  # beside the names of the groups, which may be any string
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetentionPass:
    """Findings of the forward half of a retention pass.

    Attributes:
        loss: the scalar whose gradient is g_retain.
        constraint: the constraints as one, means over all processes.
        group_states: every constraint in the batch.
        probing: the run still measures the drift from which ε is made, so retention has no effect.
        rounding: L_retain is rounding error, so the gradients cannot conflict.
    """

    loss: Tensor
    task_loss: float
    constraint: ConstraintState
    group_states: list[GroupConstraintState]
    probing: bool
    rounding: bool


class Retention:
    """The retention passes of a run."""

    def __init__(
        self,
        anchors: AnchorCache | AdapterAnchors,
        model: AnchoredModel,
        args: TrainingArguments,
        accelerator: Accelerator,
    ) -> None:
        self._anchors = anchors
        self._args = args
        settings = self._settings
        self._accelerator = accelerator
        per_group = settings.constraints == "per_group"
        self._group_of = tuple(anchors.groups) if per_group else (EVERYTHING,) * len(anchors)
        self.groups = sorted(set(self._group_of))
        unknown = sorted(set(settings.group_epsilons) - set(self.groups))
        if unknown:
            raise ValueError(f"epsilon_per_group names {unknown[0]!r}; the anchors have the groups {self.groups}")
        self.averages_gradients = accelerator.num_processes > 1 and not is_sharded(accelerator)
        self._loss = self._make_loss(model)
        self._output = is_sharded(accelerator) or self._loss.needs != Need.HIDDEN  # FSDP needs whole passes
        self._gathers = False  # whether FSDP knows of predict, if it shards the model
        self._found: int | None = None  # the task's batch, if it is looked for
        self._epsilon_of_dtype = _coarsest(model.network, accelerator)

    @property
    def _settings(self) -> RetentionSettings:
        """As they are now: a callback may change them."""
        return retention_settings(self._args)

    @property
    def every(self) -> int:
        """Optimizer steps from one retention pass to the next."""
        return self._settings.retention_every

    @property
    def batch_size(self) -> int:
        """Anchors of a retention pass, on each device."""
        return anchors_per_pass(self._args, self._found)

    def is_due(self, step: int) -> bool:
        """True if optimizer step ``step`` has a retention pass."""
        return step % self.every == 0

    def forward(
        self, model: AnchoredModel, trainer: TrainerState, state: DualState, task_loss: Tensor
    ) -> RetentionPass:
        """L_retain on this step's anchors, weighted by the multipliers of their groups.

        Its mean over processes is Σ λ_k L_k / Σ λ_k, L_k the mean over the anchors of group k on all processes.
        """
        step = trainer.global_step
        self._found = trainer.train_batch_size
        rows = self._rows(step)
        losses = self._losses(model, rows)
        loss, means, mean_task_loss = self._means(losses, rows, state, task_loss)
        probing = step < self._settings.epsilon_probe_steps
        for name, value in means.items() if probing else ():
            if math.isfinite(value):
                state.constraints[name].drift = max(state.constraints[name].drift, value)
        groups = [self._group_of[row] for row in rows]
        epsilons = self._epsilons(trainer, state, probing=probing)
        constraint, group_states = duals.measure_constraints(state.constraints, means, epsilons, groups)
        rounding = self._is_rounding(constraint.retention_loss, state)
        return RetentionPass(loss, mean_task_loss, constraint, group_states, probing, rounding)

    def _losses(self, model: AnchoredModel, rows: list[int]) -> Float[Tensor, " batch"]:
        """The losses of this process's part of ``rows``: one for each anchor, or one of them all."""
        if not self._gathers:
            gather_for_predict(model.network)
            self._gathers = True
        with self._accelerator.autocast():
            batch = self._batch(self._mine(rows), output=self._output) if self._loss.needs else NO_ANCHORS
            inputs = as_weights_are(batch.inputs, model.network, self._accelerator)
            return self._loss(model, batch._replace(inputs=inputs))

    def _mine(self, rows: list[int]) -> list[int]:
        return rows[self._accelerator.process_index * self.batch_size :][: self.batch_size]

    def _means(
        self, losses: Tensor, rows: list[int], state: DualState, task_loss: Tensor
    ) -> tuple[Tensor, dict[str, float], float]:
        """The loss to differentiate, L_k of every group in the batch, and the task loss: means over all processes."""
        groups, num_processes = [self._group_of[row] for row in rows], self._accelerator.num_processes
        if not self._loss.per_anchor:
            loss, sums, counts = losses.sum(), {EVERYTHING: losses.sum()}, Counter({EVERYTHING: num_processes})
        else:
            counts, weights = Counter(groups), duals.group_weights(state.constraints, groups)
            names = sorted(weights)
            index = torch.tensor([names.index(self._group_of[row]) for row in self._mine(rows)], device=losses.device)
            factors = torch.tensor([weights[name] / counts[name] * num_processes for name in names])
            loss = losses @ factors.to(losses)[index]
            sums = dict(zip(names, losses.new_zeros(len(names)).index_add_(0, index, losses.detach()), strict=True))
        totals = sums_over_processes(sums | {TASK: task_loss.to(loss.device)}, num_processes)
        return loss, {name: totals[name] / counts[name] for name in sums}, totals[TASK] / num_processes

    def begin(self, retention_pass: RetentionPass, state: DualState) -> RetentionPass:
        """Take what the untouched student, its only teacher, has as L_retain for rounding error in any precision.

        Raises:
            ValueError: it is not about 0, so the student is not its teacher.
        """
        settings, loss = self._settings, retention_pass.constraint.retention_loss
        if not self._loss.per_anchor:
            return retention_pass
        largest = max(START_OF_FLOAT32, START * self._epsilon_of_dtype) * sum(settings.term_weights.values())
        if abs(loss) > largest:
            raise ValueError(
                f"L_retain is {loss:.3g} before the first step, where the model should equal its teacher (at most "
                f"{largest:.3g}). An adapter that was trained before, or one that changes its base (PiSSA, OLoRA), "
                "is not its base without the adapter. Build an anchor cache of the teacher, or set "
                "teacher_mismatch: allow"
            )
        state.rounding = abs(loss)
        return replace(retention_pass, rounding=True)

    def _is_rounding(self, loss: float, state: DualState) -> bool:
        """True if ``loss`` is what rounding makes of a student that equals its teacher: g_retain has no direction."""
        return self._loss.per_anchor and abs(loss) <= ROUNDING * max(state.rounding, self._epsilon_of_dtype**2)

    def backward(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Leave g_retain in ``.grad``.

        Under DDP past its hooks: they would count what retention reaches as used by the task, and the next backward
        pass of the task would fail on a parameter that it does not reach itself (find_unused_parameters).
        """
        if not self.averages_gradients:
            self._accelerator.backward(loss)
            return
        scaler = self._accelerator.scaler
        scaled = loss if scaler is None else scaler.scale(loss)
        put(parameters, list(torch.autograd.grad(scaled, parameters, allow_unused=True)))

    def step(self, state: DualState, retention_pass: RetentionPass, *, finite: bool) -> None:
        """Step the multipliers. A pass of the probe teaches nothing, nor does one whose gradients are not finite."""
        if finite and not retention_pass.probing:
            duals.step_multipliers(state.constraints, retention_pass.group_states, self._settings.controller)
            self._warn_if_infeasible(state, retention_pass)

    def _warn_if_infeasible(self, state: DualState, retention_pass: RetentionPass) -> None:
        if self._settings.controller.rule == "fixed" or self._settings.recipe.surgery == "barrier":
            return
        half = math.ceil(state.max_steps / self.every) // 2 or PASSES_AT_CEILING
        enough = min(max(half, FEWEST_AT_CEILING), PASSES_AT_CEILING)
        stuck = [one for one in retention_pass.group_states if _is_stuck(state.constraints[one.group], enough)]
        if stuck and not state.warned and self._accelerator.is_main_process:
            worst = max(stuck, key=lambda constraint: constraint.violation)
            logger.warning(self._told(worst, state.constraints[worst.group]))
            state.warned = True

    def _told(self, worst: GroupConstraintState, constraint: Constraint) -> str:
        """Describe a constraint that is not met, and what to change."""
        maximum = self._settings.multiplier_max
        if passes := constraint.passes_at_ceiling:
            seen = f"λ has been at its ceiling (multiplier_max = {maximum:g}) for {passes} retention passes"
            faster = "multiplier_max"
        else:
            seen = f"λ has risen to {constraint.multiplier:.3g} over {PASSES_VIOLATED} retention passes in a row"
            faster = "multiplier_lr"
        cause = (
            ". Are the anchors' inputs among the data that is learned? Holding the teacher's answers to them forbids "
            f"learning others: {OTHER_ANCHORS}"
        )
        return (
            f"{worst.group}: {seen} and L_retain = {worst.retention_loss:.3g} is still above ε = {worst.epsilon:.3g}, "
            f"so the constraint cannot be met like this: raise epsilon or {faster}, lower learning_rate, or hold less "
            f"(retention_terms){cause if may_hold_what_is_learned(self._anchors, self._settings) else ''}"
        )

    def _rows(self, step: int) -> list[int]:
        """The anchors of this pass, of all processes together."""
        draw = step // self.every
        seed = self._args.data_seed if self._args.data_seed is not None else self._args.seed
        total = self.batch_size * self._accelerator.num_processes
        return anchor_rows(len(self._anchors), total, seed=seed, draw=draw)

    def _batch(self, rows: list[int], *, output: bool = True) -> AnchorBatch:
        batch: AnchorBatch = send_to_device(self._anchors.batch(rows, output=output), self._args.device)
        return batch

    def _epsilons(self, trainer: TrainerState, state: DualState, *, probing: bool) -> dict[str, float]:
        """ε of every group; of the drift so far while it is being probed."""
        settings = self._settings
        common = scheduled_epsilon(settings, trainer.global_step, trainer.max_steps)
        epsilons = {group: settings.group_epsilons.get(group, common) for group in self.groups}
        if settings.epsilon_probe_steps == 0:
            return epsilons
        for group, constraint in state.constraints.items():
            if constraint.drift <= 0 and not probing:
                raise ValueError(
                    f"the probe of {settings.epsilon_probe_steps} steps showed no drift of {group}: raise "
                    "epsilon_probe_steps beyond warmup_steps, or set epsilon itself"
                )
        return {group: epsilon * state.constraints[group].drift for group, epsilon in epsilons.items()}

    def _make_loss(self, model: AnchoredModel) -> RetentionLoss:
        settings, anchors, sharded = self._settings, self._anchors, splits_parameters(self._accelerator)
        loss = settings.recipe.loss
        assert loss is not None
        if Need.LABELS in getattr(loss, "needs", Need.NOTHING) and not anchors.has_labels:
            raise ValueError(
                f"method {settings.method} reads the anchors' own labels, and these anchors have none that "
                f"{type(model.network).__name__} computes a loss from: build them from samples with labels "
                "(demonstrations, recorded rollouts, texts), or use method craft or weighted_sum, which hold what the "
                "teacher makes of the inputs"
            )
        if sharded and not loss.supports_sharding:
            raise ValueError(f"method {settings.method} does not support FSDP or DeepSpeed ZeRO 3: use DDP")
        start = TrainingStart(model, anchors.specs, self._scales, len(anchors), self._batch, settings, sharded)
        return loss.begin(start)

    def _scales(self) -> Scales:
        scales: Scales = send_to_device(of_main_process(self._anchors.scales, self._accelerator), self._args.device)
        return scales


def _is_stuck(constraint: Constraint, passes_at_ceiling: int) -> bool:
    return constraint.passes_at_ceiling >= passes_at_ceiling or constraint.passes_violated >= PASSES_VIOLATED


def _coarsest(network: nn.Module, accelerator: Accelerator) -> float:
    """The machine epsilon of the least precise type that the model is computed in."""
    computed = AUTOCAST.get(accelerator.mixed_precision, torch.float32)
    types = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()} | {computed}
    return max(torch.finfo(dtype).eps for dtype in types)
