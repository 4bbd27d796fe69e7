"""The gradient core without a trainer: task backward, retention backward inside ``Merge``, clip, optimizer step.

The same function runs on a whole model in one process and on one that ``fully_shard`` has split over two.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import whole
from tiny_lm import TokenTask, collate, lm_anchors, tiny_llama
from torch import nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from toy import ToyModel, ToyTask, toy_anchors

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.losses.distillation import DistillationLoss
from craft_trainer.losses.terms import TERMS
from craft_trainer.models.families import as_anchored_model
from craft_trainer.optim.angle import UpdateAngle
from craft_trainer.optim.blocks import GRANULARITIES
from craft_trainer.optim.gradients import local
from craft_trainer.optim.merging import Merge, Merged
from craft_trainer.optim.surgery import Weights, one_sided

NUM_STEPS, BATCH_SIZE = 3, 8
CORE_CASES = {
    " ".join(case): case
    for case in (
        ("toy", "hidden output", "model"),
        ("toy", "hidden output", "layer"),
        ("toy", "hidden output", "tensor"),
        ("toy", "hidden", "model"),
        ("lm", "hidden token_kl", "model"),
        ("lm", "hidden token_kl", "tensor"),
        ("lm", "hidden", "model"),
    )
}  # model, retention terms, granularity


class UnevenModel(ToyModel):
    """Parameters of 5, 2 and 1 rows: on two processes some shards differ in size, and one is empty."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.full((1,), 0.7))

    def forward(self, x, y, return_loss=True):
        prediction = super().predict({"x": x}) * self.gain * self.unused_by_retention
        return {"loss": (prediction - y).square().mean()}

    def predict(self, batch):
        return super().predict(batch) * self.gain


def make_teacher(family: str) -> nn.Module:
    """The model before it moved."""
    return UnevenModel() if family == "toy" else tiny_llama(intermediate_size=33)


def build_core_anchors(folder: Path) -> None:
    """The caches of both teachers."""
    toy_anchors(folder / "core_toy", model=make_teacher("toy"))
    lm_anchors(folder / "core_lm", model=make_teacher("lm"))


def make_model(family: str) -> nn.Module:
    """A student that has moved away from its teacher."""
    model, generator = make_teacher(family), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def shard(model: nn.Module) -> None:
    """As accelerate does: every transformer layer by itself, and what is left."""
    for layer in model.model.layers if hasattr(model, "model") else ():
        fully_shard(layer)
    fully_shard(model)
    if hasattr(model, "predict"):
        register_fsdp_forward_method(model, "predict")


def task_batch(family: str, rows: list[int]) -> dict[str, Any]:
    """Samples of the task; every one of a language model has as many labels, so that means of halves are means."""
    if family == "toy":
        return torch.utils.data.default_collate([ToyTask()[row] for row in rows])
    batch = collate([TokenTask()[row] for row in rows])
    return {"input_ids": batch["input_ids"], "labels": batch["input_ids"]}


def make_loss(terms: str, anchors: AnchorCache, *, whole_pass: bool) -> DistillationLoss:
    """The retention loss of ``terms``."""
    held = {TERMS[name](): 1.0 for name in terms.split()}
    return DistillationLoss(anchors.specs, anchors.scales(), held, whole_pass=whole_pass)


def run_core(
    family: str, terms: str, granularity: str, caches: Path, *, rank: int = 0, num_processes: int = 1
) -> dict[str, Any]:
    """Some steps; what every one of them measured and left, in plain values and whole tensors."""
    model = make_model(family)
    if num_processes > 1:
        shard(model)
    names, parameters = zip(*model.named_parameters(), strict=True)
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    anchors = AnchorCache(caches / f"core_{family}")
    loss = make_loss(terms, anchors, whole_pass=num_processes > 1)
    rule = partial(one_sided, weights=Weights(1.0, 2.0), threshold=0.0)
    size = BATCH_SIZE // num_processes
    steps = []
    for step in range(NUM_STEPS):
        rows = list(range(step * BATCH_SIZE, (step + 1) * BATCH_SIZE))[rank * size :][:size]
        model(**task_batch(family, rows))["loss"].backward()
        angle = UpdateAngle(parameters)
        losses = loss(as_anchored_model(model), anchors.batch(rows))
        with Merge(parameters, GRANULARITIES[granularity](names), rule, on_retain=angle.keep) as merge:
            losses.mean().backward()
            merged = merge.finish()
        gradients = [None if p.grad is None else whole(p.grad) for p in parameters]
        norm = whole(nn.utils.clip_grad_norm_(parameters, 0.5))
        optimizer.step()
        optimizer.zero_grad()
        gram, *rest = merged
        measured = {
            **dict(zip(Merged._fields[1:], rest, strict=True)),
            **dict(zip(("tt", "tr", "rt", "rr"), gram.flatten().tolist(), strict=True)),
            "measured_norm": norm.item(),
            "update_cosine": angle.cosine(),
        }
        steps.append(
            {
                "measured": measured,
                "gradients": dict(zip(names, gradients, strict=True)),
                "weights": {name: whole(p) for name, p in zip(names, parameters, strict=True)},
            }
        )
    return {"steps": steps, "rows": {name: len(local(p)) for name, p in zip(names, parameters, strict=True)}}


def what_unregistered_predict_says() -> str:
    """The error of a method that FSDP2 does not know to be a forward pass."""
    model = UnevenModel()
    fully_shard(model)
    try:
        model.predict(task_batch("toy", [0]))
    except RuntimeError as error:
        return str(error)
    return ""


def reached_by_a_pass_that_ends_early(cache: Path) -> list[str]:
    """Parameters that have a gradient after a retention pass that stopped at its deepest layer."""
    model, anchors = make_model("toy"), AnchorCache(cache)
    shard(model)
    named = list(model.named_parameters())
    make_loss("hidden", anchors, whole_pass=False)(as_anchored_model(model), anchors.batch([0, 1])).sum().backward()
    return [name for name, parameter in named if parameter.grad is not None]
