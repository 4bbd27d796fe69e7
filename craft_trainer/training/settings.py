"""The settings of retention: units, ranges, defaults, checked in one place."""

import math
import sys
from dataclasses import dataclass
from typing import Any

from craft_trainer.losses.hidden import DISTANCES
from craft_trainer.losses.terms import TERMS
from craft_trainer.optim.blocks import GRANULARITIES
from craft_trainer.optim.dual import RULES as MULTIPLIERS
from craft_trainer.optim.dual import Controller
from craft_trainer.optim.epsilon import SCHEDULES
from craft_trainer.optim.surgery import MERGES
from craft_trainer.optim.surgery import RULES as SURGERIES
from craft_trainer.options import json_mapping, option
from craft_trainer.training.idle import refuse_idle_settings
from craft_trainer.training.methods import METHODS, Recipe

LARGE = float("inf")  # any finite number
BELOW_ONE = math.nextafter(1.0, 0.0)
ABOVE_ZERO = math.ulp(0.0)
CHOICES: dict[str, Any] = {
    "method": METHODS,
    "surgery": SURGERIES,
    "backward": ("separate", "joint"),
    "granularity": GRANULARITIES,
    "merge": MERGES,
    "multiplier": MULTIPLIERS,
    "constraints": ("single", "per_group"),
    "epsilon_schedule": SCHEDULES,
    "hidden_distance": DISTANCES,
    "teacher_mismatch": ("refuse", "allow"),
    "learned_inputs": ("refuse", "allow"),
}
CRAFT_ONLY = {  # the baselines set these themselves
    *("surgery", "merge", "granularity", "multiplier", "constraints", "epsilon_probe_steps", "conflict_threshold")
}
OF_TWO_GRADIENTS = ("granularity", "merge", "conflict_threshold", "update_angle_every")  # idle where they are one
RANGES: dict[str, tuple[float, float, str]] = {
    "retention_batch_size": (1, LARGE, "be at least 1"),
    "retention_every": (1, LARGE, "be at least 1"),
    "conflict_threshold": (-1, 0, "be a cosine in [-1, 0]"),
    "barrier_strength": (ABOVE_ZERO, LARGE, "be positive"),
    "multiplier_max": (ABOVE_ZERO, LARGE, "be positive"),
    "multiplier_init": (0, LARGE, "not be negative"),
    "multiplier_lr": (ABOVE_ZERO, LARGE, "be positive; multiplier fixed keeps λ as it is"),
    "dual_kp": (0, LARGE, "not be negative"),
    "dual_ema": (0, BELOW_ONE, "lie in [0, 1)"),
    "retention": (ABOVE_ZERO, BELOW_ONE, "lie in (0, 1)"),
    "epsilon": (ABOVE_ZERO, LARGE, "be positive"),
    "epsilon_probe_steps": (0, LARGE, "not be negative"),
    "task_kl_samples": (0, LARGE, "not be negative"),
    "update_angle_every": (1, LARGE, "be at least 1"),
}


@dataclass
class RetentionSettings:
    """The settings of constrained retention, without those of any trainer.

    The retention loss L_retain is Σ weight · term, each term in units of the teacher's variance. The constraint is
    L_retain ≤ ε, and λ is its multiplier.

    Raises:
        ValueError: a value outside its range, naming the field and the way out.
    """

    heading = "retention"  # of `craft-trainer train --help`
    method: str = option(
        "craft, or a baseline: plain, weighted_sum, replay (task loss on the anchors), agem, l2 (to the teacher), ewc",
        "craft",
    )
    retention: float | None = option(
        "how much of the teacher's behaviour is kept: 0.99 keeps 99 %. It sets epsilon to 1 − retention, with an "
        "epsilon_schedule epsilon_final; in (0, 1); by default epsilon is as it is given",
        None,
    )
    retention_terms: list[str] = option(
        "what is held: hidden (the teacher's features), output (its action chunk), token_ce (its likeliest tokens), "
        "token_kl (its token distribution), task (the task loss on the anchors' own labels), or several",
        ["hidden", "output"],
    )
    retention_weights: list[float] | None = option("weight of each retention term; by default 1 for each", None)
    hidden_distance: str = option(
        "distance of hidden features: mse (fraction of variance), l1 (in deviations) or cosine", "mse"
    )
    retention_batch_size: int | None = option(
        "anchors per device in a retention pass; ≥ 1; by default per_device_train_batch_size, at most 64", None
    )
    retention_every: int = option("optimizer steps from one retention pass to the next; ≥ 1", 1)
    surgery: str = option(
        "what becomes of conflicting gradients: none, one_sided or symmetric (projection), or barrier", "one_sided"
    )
    backward: str = option(
        "one backward pass for each loss (separate), or one of L_task + λ·L_retain, for engines that hide gradients "
        "(joint, with surgery none); joint by itself where separate is impossible",
        "separate",
    )
    granularity: str = option("what has one cosine: the whole model, each layer, or each tensor", "model")
    merge: str = option(
        "weights of the two gradients: weighted (1, λ), equal (½, ½) or task_priority (1, min(λ, 1))", "weighted"
    )
    conflict_threshold: float = option("cosine of the two gradients below which they conflict; in [-1, 0]", 0.0)
    barrier_strength: float = option("β of surgery barrier: how strongly it pushes back beyond ε; > 0", 1.0)
    multiplier: str = option("how λ follows the violation: fixed, ascent (integral) or pi", "ascent")
    multiplier_init: float = option("λ at the start; in [0, multiplier_max]", 1.0)
    multiplier_lr: float = option("step size η of λ, per retention pass; > 0", 0.1)
    dual_kp: float = option("κ of multiplier pi: its proportional part, in retention passes; ≥ 0", 10.0)
    dual_ema: float = option("ν of the moving average of the violation (pi); in [0, 1)", 0.9)
    multiplier_max: float = option("ceiling of λ; > 0", 100.0)
    constraints: str = option("one constraint over all anchors (single), or one per old task (per_group)", "single")
    epsilon: float = option("ε at the start, in units of the teacher's variance (0.01 = 1 %); > 0", 0.01)
    epsilon_final: float | None = option("ε at the end, if its schedule is not constant; > 0", None)
    epsilon_schedule: str = option("path of ε from start to end: constant, linear, cosine or exponential", "constant")
    epsilon_per_group: dict | str | None = option(  # type: ignore[type-arg]  # argparse wants it bare
        "ε of single old tasks with constraints per_group, as a mapping or JSON; the others have epsilon", None
    )
    epsilon_probe_steps: int = option(
        "train so many steps without constraint first; epsilon is then a fraction of the largest L_retain they cause", 0
    )
    task_kl_samples: int = option(
        "task samples on which KL(teacher‖student) is logged, at most those of one batch of a device, for models that "
        "predict tokens; ≥ 0, 0 is never",
        8,
    )
    update_angle_every: int = option(
        "optimizer steps from one measurement of the angle between the optimizer's step and g_retain to the next", 10
    )
    teacher_mismatch: str = option("when the starting weights are not the cache's teacher: refuse or allow", "refuse")
    learned_inputs: str = option(
        "when output or token terms hold the teacher's answers to the very inputs that are learned: refuse or allow",
        "refuse",
    )

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Refuse values out of range and settings that would have no effect."""
        for name, known in CHOICES.items():
            _one_of(name, getattr(self, name), known)
        for name, (low, high, range_text) in RANGES.items():
            value, field = getattr(self, name), RetentionSettings.__dataclass_fields__[name]
            may_be = "float" in str(field.type) or isinstance(value, int)
            _require(
                (value is None and field.default is None) or (may_be and _within(value, low, high)),
                f"{name} is {value!r}: it must {range_text}, and {'finite' if may_be else 'whole'}",
            )
        self._settle_epsilon()
        self._check_terms()
        self._check_method()
        self._check_backward()
        self._check_epsilon()
        refuse_idle_settings(self)
        _require(
            self.multiplier_init <= self.multiplier_max,
            f"multiplier_init is {self.multiplier_init}: it must lie in [0, multiplier_max = {self.multiplier_max}]",
        )

    def _settle_epsilon(self) -> None:
        """Set ε = 1 − ``retention`` where that is given, at the end of a schedule, and refuse another beside it."""
        if self.retention is None:
            return
        name = "epsilon" if self.epsilon_schedule == "constant" else "epsilon_final"
        implied, usual = round(1 - self.retention, 12), type(self).__dataclass_fields__[name].default
        _require(
            getattr(self, name) in (usual, implied, self.__dict__.get("_implied")),  # a search sets another retention
            f"retention {self.retention:g} sets {name} to {implied:g}, and {name} is {getattr(self, name)}: give one",
        )
        _require(
            self.epsilon_probe_steps == 0,
            "retention is in units of the teacher, and epsilon_probe_steps makes epsilon a fraction of what it "
            "measures: give epsilon instead of retention",
        )
        setattr(self, name, implied)
        self.__dict__["_implied"] = implied

    def _check_terms(self) -> None:
        terms, weights = self.retention_terms, self.retention_weights
        _require(isinstance(terms, list | tuple), f"retention_terms is {terms!r}: give a list")
        _require(bool(terms), f"retention_terms is empty: name one of {', '.join(TERMS)}")
        for term in terms:
            _one_of("retention_terms", term, TERMS)
        _require(len(terms) == len(set(terms)), f"retention_terms {terms} names a term twice")
        fits = isinstance(weights, list | tuple) and len(weights) == len(terms)
        _require(
            weights is None or (fits and all(_within(weight, 0, LARGE) for weight in weights) and max(weights) > 0),
            f"retention_weights is {weights}: give a list with a weight ≥ 0 for each of {terms}, and one above 0",
        )

    def _check_method(self) -> None:
        """Refuse what a method or a surgery rule would leave without effect."""
        own = CRAFT_ONLY if self.method != "craft" else ()
        fixed = METHODS[self.method].keys() & {"multiplier_init"}
        for name in (*own, *fixed):
            _require(
                getattr(self, name) == RetentionSettings.__dataclass_fields__[name].default,
                f"{name} {getattr(self, name)} has no effect with method {self.method}, which sets its own: drop it",
            )
        if self.surgery == "barrier":
            _require(self.merge == "weighted", f"merge {self.merge} has no effect with surgery barrier: drop one")
            _require(
                self.constraints == "single",
                "surgery barrier has no multiplier per group: use constraints single, or another surgery",
            )

    def _check_backward(self) -> None:
        """Refuse what compares two gradients where there is one."""
        if self.backward == "separate":
            return
        surgery = self.recipe.surgery
        _require(self.method != "plain", "backward joint has no effect with method plain: drop it")
        own = self.method == "craft"
        named = f"surgery {surgery}" if own else f"method {self.method}"
        _require(
            surgery == "none",
            f"backward joint adds the two losses, and {named} compares their gradients: "
            f"{'set surgery none' if own else 'choose another method'}, or backward separate",
        )
        for name in OF_TWO_GRADIENTS:
            _require(
                getattr(self, name) == RetentionSettings.__dataclass_fields__[name].default,
                f"{name} {getattr(self, name)} has no effect with backward joint, which has one gradient: drop it",
            )

    def _check_epsilon(self) -> None:
        _require(
            self.epsilon_probe_steps == 0 or self.epsilon_probe_steps > self.retention_every,
            f"epsilon_probe_steps is {self.epsilon_probe_steps}: with retention_every {self.retention_every} only the "
            "first step would be measured, where nothing has drifted yet",
        )
        _require(
            self.epsilon_schedule == "constant" or _within(self.epsilon_final, ABOVE_ZERO, LARGE),
            f"epsilon_schedule {self.epsilon_schedule} needs a positive epsilon_final",
        )
        _require(
            self.epsilon_schedule == "constant" or self.epsilon != self.epsilon_final,
            f"epsilon_schedule {self.epsilon_schedule} has no effect from epsilon {self.epsilon} to epsilon_final "
            f"{self.epsilon_final}: begin with a larger epsilon, e.g. twenty times that",
        )
        _require(
            self.epsilon_schedule != "constant" or self.epsilon_final is None,
            "epsilon_final has no effect with epsilon_schedule constant: set linear, cosine or exponential",
        )
        if isinstance(self.epsilon_per_group, str):
            self.epsilon_per_group = json_mapping("epsilon_per_group", self.epsilon_per_group)
        for group, epsilon in self.group_epsilons.items():
            _require(
                _within(epsilon, ABOVE_ZERO, LARGE),
                f"epsilon_per_group: ε of {group!r} is {epsilon!r}: it must be a positive number",
            )
        _require(
            self.constraints == "per_group" or not self.epsilon_per_group,
            "epsilon_per_group has no effect with constraints single: set constraints per_group",
        )
        _require(
            self.epsilon_schedule == "constant" or not self.epsilon_per_group,
            "epsilon_per_group and an epsilon_schedule both say where ε goes: use one",
        )

    @property
    def recipe(self) -> Recipe:
        """The method with everything it leaves to the configuration filled in."""
        given: dict[str, Any] = {name: getattr(self, name) for name in ("surgery", "multiplier", "multiplier_init")}
        return Recipe(**given | METHODS[self.method])

    @property
    def controller(self) -> Controller:
        """The rule by which the multipliers move."""
        return Controller(self.recipe.multiplier, self.multiplier_lr, self.dual_kp, self.dual_ema, self.multiplier_max)

    @property
    def group_epsilons(self) -> dict[str, float]:
        """ε of the groups that have one of their own."""
        given = self.epsilon_per_group
        return given if isinstance(given, dict) else {}

    @property
    def term_weights(self) -> dict[str, float]:
        """Weight of each retention term."""
        weights = self.retention_weights or [1.0] * len(self.retention_terms)
        return dict(zip(self.retention_terms, weights, strict=True))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _within(value: Any, low: float, high: float) -> bool:
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    return is_number and low <= value <= high and abs(value) <= sys.float_info.max


def _one_of(name: str, value: str, known: Any) -> None:
    _require(value in tuple(known), f"{name} is {value!r}: it must be one of {', '.join(known)}")
