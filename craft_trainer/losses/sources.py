"""What retention pulls towards: losses of which g_retain is the gradient, one class per source."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from craft_trainer.anchors.cache import AnchorBatch
from craft_trainer.anchors.features import TOKEN_SCALE, FeatureSpec, evaluating, extract
from craft_trainer.losses.terms import TERMS, retention_loss
from craft_trainer.models.base import AnchoredModel
from craft_trainer.optim.gradients import put, take

FISHER_ANCHORS = 128


class Source(Protocol):
    """A retention loss of the model on a batch of anchors.

    Attributes:
        per_anchor: whether there is one loss per anchor, rather than one of the whole batch.
    """

    per_anchor: bool

    def __call__(self, model: AnchoredModel, anchors: AnchorBatch) -> Float[Tensor, " batch"]:
        """The losses; differentiable."""
        ...


class FeatureSource:
    """Distance from the teacher's cached features, outputs or tokens: CRaFT's own."""

    per_anchor = True

    def __init__(
        self,
        specs: list[FeatureSpec],
        scales: Mapping[str, Tensor],
        *,
        weights: Mapping[str, float],
        hidden_distance: str,
        whole_pass: bool = False,
    ) -> None:
        """``whole_pass`` runs the model to its end, and the loss reaches it: FSDP2 reduces gradients from there on.

        Raises:
            ValueError: the anchors lack what a term compares.
        """
        _check_terms(specs, scales, weights)
        self._specs = specs if "hidden" in weights else []
        self._scales = scales
        self._weights = weights
        self._hidden_distance = hidden_distance
        self._whole_pass = whole_pass
        self._output = whole_pass or set(weights) != {"hidden"}

    def __call__(self, model: AnchoredModel, anchors: AnchorBatch) -> Float[Tensor, " batch"]:
        """Σ w · term for every anchor; see ``anchors.loss.retention_loss``."""
        student = extract(model, anchors.inputs, self._specs, output=self._output)
        losses = retention_loss(
            student, anchors.teacher, self._scales, weights=self._weights, hidden_distance=self._hidden_distance
        )
        if self._whole_pass and student.output is not None:
            losses = losses + 0 * student.output.flatten(1).sum(dim=1)
        return losses


class TaskSource:
    """The task loss on the anchors' own targets: experience replay."""

    per_anchor = False

    def __call__(self, model: AnchoredModel, anchors: AnchorBatch) -> Float[Tensor, " 1"]:
        """The model's loss on the anchors, in training mode like that of the task.

        Its mean over processes is the mean over all labels: a process with fewer of them counts for less.
        """
        labels = anchors.inputs.get("labels")
        if labels is None or not dist.is_initialized():
            return task_loss(model, anchors).view(1)
        count = (labels[..., 1:] != -100).sum().float()
        dist.all_reduce(count)
        inputs = anchors.inputs | {"num_items_in_batch": count / dist.get_world_size()}
        return task_loss(model, anchors._replace(inputs=inputs)).view(1)


class PullSource:
    """½·Σ F·(θ − θ_0)²: back to the weights the run started from; F = 1 (L2), or the Fisher information (EWC)."""

    per_anchor = False

    def __init__(self, network: nn.Module, fisher: Mapping[str, Tensor] | None = None) -> None:
        """Take a copy of the trainable parameters of ``network``, which is still the teacher."""
        self._start = {name: parameter.detach().clone() for name, parameter in _trainable(network)}
        self._fisher = fisher

    def __call__(self, model: AnchoredModel, anchors: AnchorBatch) -> Float[Tensor, " 1"]:
        """The penalty, whatever the anchors."""
        del anchors
        squares = [(name, (value - self._start[name]).square()) for name, value in _trainable(model.network)]
        terms = [(square if self._fisher is None else self._fisher[name] * square).sum() for name, square in squares]
        return torch.stack(terms).sum().view(1) / 2


def fisher_information(model: AnchoredModel, anchors: list[AnchorBatch]) -> dict[str, Tensor]:
    """Diagonal of the empirical Fisher information: mean over ``anchors`` (one each) of the squared task gradient."""
    names, parameters = zip(*_trainable(model.network), strict=True)
    before = take(parameters)
    fisher = [torch.zeros_like(parameter) for parameter in parameters]
    with evaluating(model.network):
        for anchor in anchors:
            torch.autograd.backward(task_loss(model, anchor))
            for total, gradient in zip(fisher, take(parameters), strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient, value=1 / len(anchors))
    put(parameters, before)
    return dict(zip(names, fisher, strict=True))


def task_loss(model: AnchoredModel, anchors: AnchorBatch) -> Float[Tensor, ""]:
    """The task loss on the anchors' inputs and targets."""
    inputs: dict[str, Any] = anchors.inputs
    loss: Tensor | None = model.network(**inputs).get("loss")
    if loss is None:
        raise ValueError(f"the anchors hold no targets, only {', '.join(inputs)}: build them from samples with labels")
    return loss


def _check_terms(specs: Sequence[FeatureSpec], scales: Mapping[str, Tensor], terms: Iterable[str]) -> None:
    held = {"hidden": bool(specs), "output": "output" in scales, "tokens": TOKEN_SCALE in scales}
    possible = [term for term in TERMS if held["tokens" if term.startswith("token") else term]]
    for term in terms:
        if term not in possible:
            has = ", ".join(name for name in held if held[name])
            raise ValueError(
                f"retention term {term!r} cannot be held: the anchors have {has} of their teacher. Set retention_terms "
                f"to some of {', '.join(possible)}, or rebuild the anchors"
            )


def _trainable(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)
