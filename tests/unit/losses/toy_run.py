"""The toy as a loss finds it when a run begins, and moved from there."""

import torch
from torch import Tensor, nn
from toy import INPUTS, OUTPUTS, TOKENS, ToyModel

from craft_trainer.anchors.features import AnchorBatch, Features, FeatureSpec, extract

GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(6, TOKENS, INPUTS, generator=GENERATOR)
Y = torch.randn(6, TOKENS, OUTPUTS, generator=GENERATOR)
SPECS = [FeatureSpec("encoder", "none")]
COLUMN = SPECS[0].column
SCALES = {COLUMN: torch.tensor(0.5), "output": torch.tensor(2.0)}


class Dropped(ToyModel):
    """The toy with dropout, which only training mode has."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, y: Tensor, return_loss: bool = True) -> dict[str, Tensor]:
        return super().forward(self.dropout(x), y)


def anchors(*rows: int, teacher: Features | None = None) -> AnchorBatch:
    chosen = list(rows) or list(range(6))
    return AnchorBatch({"x": X[chosen], "y": Y[chosen]}, teacher or Features({}, None), ["old"] * len(chosen))


def moved(model: ToyModel, by: float = 0.1) -> ToyModel:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=by)
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def teacher_of_the_toy() -> Features:
    """What the toy computes before it is moved."""
    with torch.no_grad():
        return extract(ToyModel(), {"x": X}, SPECS, output=True)


def oracle_fisher(model: ToyModel) -> dict[str, Tensor]:
    """One backward pass per anchor, in float64, through a functional call that never sees ``.grad``."""
    values = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    total = {name: torch.zeros_like(value) for name, value in values.items()}
    for x, y in zip(X.double(), Y.double(), strict=True):
        loss = torch.func.functional_call(model, values, (x[None], y[None]))["loss"]
        for name, grad in zip(values, torch.autograd.grad(loss, list(values.values())), strict=True):
            total[name] += grad.square() / 6
    return total
