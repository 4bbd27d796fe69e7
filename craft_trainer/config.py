"""Every knob of CRaFT beside HuggingFace's own: units, ranges, defaults, checked once."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from craft_trainer.anchors.loss import DISTANCES, TERMS
from craft_trainer.optim.dual import SCHEDULES
from craft_trainer.optim.surgery import RULES


def _knob(default: Any, text: str) -> Any:
    """A dataclass field with the help text the command line shows."""
    metadata = {"help": text.replace("%", "%%")}  # argparse formats help texts
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class CraftConfig(TrainingArguments):  # type: ignore[misc]  # transformers is not typed
    """``TrainingArguments`` with the settings of constrained retention.

    The retention loss L_retain is Σ weight · term, each term in units of the teacher's variance; the constraint is
    L_retain ≤ ε, and λ its multiplier. Without anchors none of these settings has an effect.

    Raises:
        ValueError: a value outside its range, naming the field and the way out.
    """

    retention_terms: list[str] = _knob(
        ["hidden", "output"], "what is held: hidden (the teacher's features), output (its action chunk), or both"
    )
    retention_weights: list[float] | None = _knob(None, "weight of each retention term; by default 1 for each")
    hidden_distance: str = _knob("mse", "distance of hidden features: mse (fraction of variance) or cosine")
    retention_batch_size: int = _knob(64, "anchors per device in a retention pass; ≥ 1")
    retention_every: int = _knob(1, "optimizer steps from one retention pass to the next; ≥ 1")
    surgery: str = _knob("one_sided", "what happens to conflicting gradients: none or one_sided (projection)")
    conflict_threshold: float = _knob(0.0, "cosine of the two gradients below which they conflict; in [-1, 0]")
    multiplier_init: float = _knob(1.0, "λ at the start; in [0, multiplier_max]")
    multiplier_lr: float = _knob(0.1, "step size η of dual ascent on λ, per retention pass; ≥ 0 (0 keeps λ fixed)")
    multiplier_max: float = _knob(100.0, "ceiling of λ; > 0")
    epsilon: float = _knob(0.01, "ε at the start, in units of the teacher's variance (0.01 = 1 %); > 0")
    epsilon_final: float | None = _knob(None, "ε at the end, if its schedule is not constant; > 0")
    epsilon_schedule: str = _knob("constant", "path of ε from start to end: constant, linear, cosine or exponential")
    teacher_mismatch: str = _knob("refuse", "when the starting weights are not the cache's teacher: refuse or allow")

    remove_unused_columns: bool | None = _knob(False, "policies read columns by name, so none is removed")
    restore_callback_states_from_checkpoint: bool = _knob(True, "λ is restored with a checkpoint")

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("surgery", self.surgery, RULES)
        _one_of("epsilon_schedule", self.epsilon_schedule, SCHEDULES)
        _one_of("hidden_distance", self.hidden_distance, DISTANCES)
        _one_of("teacher_mismatch", self.teacher_mismatch, ("refuse", "allow"))
        for term in self.retention_terms:
            _one_of("retention_terms", term, TERMS)
        _require(len(self.retention_terms) > 0, "retention_terms is empty: name hidden, output or both")
        _require(
            len(self.retention_terms) == len(set(self.retention_terms)),
            f"retention_terms {self.retention_terms} names a term twice",
        )
        weights = self.retention_weights
        _require(
            weights is None or (len(weights) == len(self.retention_terms) and min(weights) >= 0 and max(weights) > 0),
            f"retention_weights is {weights}: one weight ≥ 0 for each of {self.retention_terms}, and one above 0",
        )
        _require(self.retention_batch_size >= 1, f"retention_batch_size is {self.retention_batch_size}: at least 1")
        _require(self.retention_every >= 1, f"retention_every is {self.retention_every}: at least 1")
        _require(
            -1 <= self.conflict_threshold <= 0,
            f"conflict_threshold is {self.conflict_threshold}: it is a cosine in [-1, 0]",
        )
        _require(self.multiplier_max > 0, f"multiplier_max is {self.multiplier_max}: it must be positive")
        _require(
            0 <= self.multiplier_init <= self.multiplier_max,
            f"multiplier_init is {self.multiplier_init}: it must lie in [0, multiplier_max = {self.multiplier_max}]",
        )
        _require(self.multiplier_lr >= 0, f"multiplier_lr is {self.multiplier_lr}: it must not be negative")
        _require(self.epsilon > 0, f"epsilon is {self.epsilon}: it must be positive")
        _require(
            self.epsilon_schedule == "constant" or (self.epsilon_final or 0) > 0,
            f"epsilon_schedule {self.epsilon_schedule} needs a positive epsilon_final",
        )
        _require(
            self.epsilon_schedule != "constant" or self.epsilon_final is None,
            "epsilon_final has no effect with epsilon_schedule constant: set linear, cosine or exponential",
        )
        _require(
            self.restore_callback_states_from_checkpoint,
            "restore_callback_states_from_checkpoint must stay true: λ would start again at every resume",
        )

    @property
    def term_weights(self) -> dict[str, float]:
        """Weight of each retention term."""
        weights = self.retention_weights or [1.0] * len(self.retention_terms)
        return dict(zip(self.retention_terms, weights, strict=True))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _one_of(name: str, value: str, known: Any) -> None:
    _require(value in known, f"{name} is {value!r}: it must be one of {', '.join(known)}")
