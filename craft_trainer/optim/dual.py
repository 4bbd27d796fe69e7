"""The multiplier λ of a constraint L_retain ≤ ε: how it follows the violation e = L_retain − ε."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Controller(NamedTuple):
    """The rule by which multipliers move: the same for all constraints of a run.

    Attributes:
        rule: a key of :data:`RULES`.
        learning_rate: η, per retention pass.
        gain: κ of the proportional part, in retention passes: the P part of a step equals κ steps of the I part.
        smoothing: ν in [0, 1) of the moving average ξ of the violation.
        maximum: λ_max.
    """

    rule: str
    learning_rate: float
    gain: float
    smoothing: float
    maximum: float


@dataclass
class Constraint:
    """One inequality L_retain ≤ ε: its multiplier and what the controller remembers.

    Attributes:
        multiplier: λ in [0, λ_max].
        smoothed: ξ, the moving average of the violation; None before the first.
        passes_at_ceiling: how many passes in a row ended with λ = λ_max and the constraint violated.
        passes_violated: how many passes in a row the constraint was violated, wherever λ was.
        drift: the largest L_retain of the probe, if ε is measured by one.
    """

    multiplier: float
    smoothed: float | None = None
    passes_at_ceiling: int = 0
    passes_violated: int = 0
    drift: float = 0.0

    def step(self, violation: float, controller: Controller) -> None:
        """One step of the multiplier: λ ← clip(rule, 0, λ_max).

        The sum is clipped, not its parts, so λ leaves its ceiling as soon as the rule asks for less (no wind-up). A
        violation that is not finite changes nothing.
        """
        if not math.isfinite(violation):
            return
        previous = violation if self.smoothed is None else self.smoothed
        self.smoothed = controller.smoothing * previous + (1 - controller.smoothing) * violation
        step = RULES[controller.rule](violation, self.smoothed - previous, controller)
        self.multiplier = min(max(self.multiplier + step, 0.0), controller.maximum)
        stuck = self.multiplier == controller.maximum and violation > 0
        self.passes_violated = self.passes_violated + 1 if violation > 0 else 0
        self.passes_at_ceiling = self.passes_at_ceiling + 1 if stuck else 0


def fixed(_violation: float, _change: float, _controller: Controller) -> float:
    """λ stays."""
    return 0.0


def ascent(violation: float, _change: float, controller: Controller) -> float:
    """Projected dual ascent: η·e. Integral control, which overshoots."""
    return controller.learning_rate * violation


def pi(violation: float, change: float, controller: Controller) -> float:
    """Proportional-integral control: η·(e_t + κ·(ξ_t − ξ_{t−1})), ξ_t = ν·ξ_{t−1} + (1 − ν)·e_t, ξ_{−1} = e_0.

    Its first step is that of ascent (the paper also starts from ξ_{−1} = 0); κ = 0 is ascent. A large ν delays the
    proportional part, which at a large η can overshoot more than ascent does. Source: νPI, Sohrabi et al. 2024, arXiv
    2406.04558, Algorithm 1 in its recursive form, with κ_i = η and κ_p = η·κ.
    """
    return controller.learning_rate * (violation + controller.gain * change)


DualRule = Callable[[float, float, Controller], float]
RULES: dict[str, DualRule] = {"fixed": fixed, "ascent": ascent, "pi": pi}
