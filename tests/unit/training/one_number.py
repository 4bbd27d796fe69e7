"""A model of one number, its anchors, and a retention pass of them without a trainer: everything has a closed form."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainerState

from craft_trainer.anchors.features import AnchorBatch, Features
from craft_trainer.models.base import TokenLayout
from craft_trainer.training.callbacks import DualState
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.retention import Retention, RetentionPass

VARIANCE = 2.0
TASK_LOSS = torch.tensor(0.75)


class Scaled(nn.Module):
    """predict(x) = θ·x; the teacher has θ = 1, so an anchor's loss is x²(θ − 1)²/Var, its gradient 2x²(θ − 1)/Var."""

    output_kind = "numbers"

    def __init__(self, theta: float = 1.0) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta))

    @property
    def network(self) -> nn.Module:
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.theta * x).sum()}

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch

    def predict(self, batch: dict[str, Any]) -> Tensor:
        return self.theta * batch["x"]

    def token_layout(self, path: str, inputs: dict[str, Any], shape: torch.Size) -> TokenLayout:
        raise AssertionError("no hidden feature is held")


class Numbers:
    """Anchors x = 1, 2, 3, … of the teacher θ = 1."""

    specs: Sequence[Any] = ()

    def __init__(self, *groups: str) -> None:
        self.groups, self.has_labels = list(groups), True
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.groups)

    def batch(self, rows: Sequence[int], *, output: bool = True) -> AnchorBatch:
        assert output  # which is all that these anchors hold
        self.asked.append(list(rows))
        x = torch.tensor(rows).float().view(-1, 1, 1) + 1
        return AnchorBatch({"x": x}, Features({}, x), [self.groups[row] for row in rows])

    def scales(self) -> dict[str, Tensor]:
        return {"output": torch.tensor(VARIANCE)}


GROUPS = ["door"] * 6 + ["drawer"] * 3 + ["push"]
PER_GROUP = {"constraints": "per_group"}


class Run:
    """What a trainer holds, without the trainer."""

    def __init__(
        self, folder: Path, *groups: str, theta: float = 1.5, accelerator: Any = None, **settings: Any
    ) -> None:
        options = {"retention_terms": ["output"], "retention_batch_size": 10, "multiplier_lr": 0.5, "epsilon": 0.1}
        self.args = CraftConfig(output_dir=str(folder), use_cpu=True, report_to="none", **options | settings)
        self.model = Scaled(theta)
        self.anchors = Numbers(*(groups or GROUPS))
        anchors: Any = self.anchors
        self.retention = Retention(anchors, self.model, self.args, accelerator or Accelerator(cpu=True))
        self.state = DualState(self.args.recipe.multiplier_init, self.retention.groups)

    def forward(self, step: int = 0) -> RetentionPass:
        progress = TrainerState(global_step=step, max_steps=100)
        return self.retention.forward(self.model, progress, self.state, TASK_LOSS)

    def passes(self, steps: int) -> list[int]:
        """Make the passes that are due; the steps at which there was one."""
        due = [step for step in range(steps) if self.retention.is_due(step)]
        for step in due:
            self.advance(step)
        return due

    def advance(self, step: int, *, finite: bool = True) -> None:
        """One whole pass."""
        self.retention.step(self.state, self.forward(step), finite=finite)

    def set_theta(self, theta: float) -> None:
        with torch.no_grad():
            self.model.theta.fill_(theta)

    def set_multipliers(self, **multipliers: float) -> None:
        for group, multiplier in multipliers.items():
            self.state.constraints[group].multiplier = multiplier


def loss_of(row: int, theta: float = 1.5) -> float:
    return (row + 1) ** 2 * (theta - 1) ** 2 / VARIANCE


def mean_losses(rows: Sequence[int], groups: Sequence[str], theta: float = 1.5) -> dict[str, float]:
    counts = Counter(groups[row] for row in rows)
    return {g: sum(loss_of(row, theta) for row in rows if groups[row] == g) / n for g, n in counts.items()}
