"""The norm of a merged gradient from its Gramian, and clipping with it, against torch's own on the gradient itself."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from craft_trainer.optim.blocks import GRANULARITIES
from craft_trainer.optim.clipping import KnownNorm
from craft_trainer.optim.merging import Merge, Merged, merged_norm
from craft_trainer.optim.surgery import Surgery, Weights, one_sided, symmetric


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2), nn.Linear(6, 3))


def merge(model: nn.Module, granularity: str, rule: object, sign: float) -> Merged:
    """Both passes of two losses, one head each."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    inputs = torch.randn(8, 4)
    hidden = model[:4](inputs)
    (10 * model[4](hidden)).square().mean().backward()
    with Merge(parameters, GRANULARITIES[granularity](names), rule) as merging:
        (sign * model[5](model[:4](inputs))).sum(dim=1).mean().backward()
        return merging.finish()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("rule", [one_sided, symmetric])
@pytest.mark.parametrize("granularity", list(GRANULARITIES))
def test_the_norm_is_that_of_the_merged_gradient(granularity, rule, sign):
    """Breaks when a cross term, a weight or a block is left out."""
    model = network()
    merged = merge(model, granularity, lambda gram: rule(gram, Weights(0.7, 1.3), 0.0), sign)
    gradients = [parameter.grad.double() for parameter in model.parameters()]
    assert merged.norm == pytest.approx(get_total_norm(gradients).item(), rel=1e-6)


def norm_of(length):
    """The known norm of t + r, for |t| = 1 and r almost its opposite: of this length."""
    t, r = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, length])
    gram = torch.tensor([[t @ t, t @ r], [t @ r, r @ r]]).double()
    return merged_norm([(gram, Surgery(1.0, 1.0, 0.0, conflict=False))])


def test_a_norm_that_cancels_is_not_known():
    """A tenth of what was merged, cancelled to 1 in 400 of the squares, is; half of it is below the bound."""
    assert norm_of(0.5) == pytest.approx(0.5, rel=1e-6)
    assert norm_of(0.21) == pytest.approx(0.21, rel=1e-6)
    assert norm_of(0.19) is None


def test_where_retention_changes_nothing_trainer_measures():
    gram = torch.tensor([[4.0, 1.0], [1.0, 9.0]]).double()
    assert merged_norm([(gram, Surgery(1.0, 0.0, 0.0, conflict=False))]) is None
    unreached = torch.tensor([[4.0, 0.0], [0.0, 0.0]]).double()
    assert merged_norm([(unreached, Surgery(1.0, 2.0, 0.0, conflict=False))]) is None


@pytest.mark.parametrize("maximum", [0.1, 1e3, math.inf])
def test_clips_as_torch_does(maximum):
    """Breaks when the factor is applied twice, not at all, or above 1."""
    model, reference = network(), network()
    for parameter, other in zip(model.parameters(), reference.parameters(), strict=True):
        parameter.grad = torch.randn_like(parameter)
        other.grad = parameter.grad.clone()
    next(model.parameters()).grad = next(reference.parameters()).grad = None
    norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
    known = KnownNorm(list(model.parameters()), norm)
    before = [p.grad._version for p in model.parameters() if p.grad is not None]
    assert known.clip(maximum) == pytest.approx(clip_grad_norm_(reference.parameters(), maximum).item())
    for parameter, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad)
    untouched = [p.grad._version for p in model.parameters() if p.grad is not None] == before
    assert untouched == (maximum > norm)  # a factor of 1 costs nothing


@pytest.mark.parametrize(
    "change",
    [
        lambda parameter: parameter.grad.add_(1),
        lambda parameter: setattr(parameter, "grad", parameter.grad.clone()),
        lambda parameter: setattr(parameter, "grad", None),
    ],
    ids=["written to", "replaced", "removed"],
)
def test_a_gradient_changed_since_is_not_clipped_by_the_old_norm(change):
    parameters = list(network().parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    known = KnownNorm(parameters, 5.0)
    kept = parameters[0].grad  # so that its id is not given to another
    change(parameters[0])
    assert known.clip(1.0) is None
    assert torch.equal(parameters[1].grad, torch.ones_like(parameters[1]))
    del kept


@pytest.mark.parametrize("why", ["the merge does not know", "a gradient besides", "float16"])
def test_where_the_norm_is_not_taken(why):
    """Seen to fail with each of the three conditions left out."""
    model = network().to(torch.float16) if why == "float16" else network()
    first, *others = model.parameters()
    for parameter in others:
        parameter.grad = torch.ones_like(parameter)
    norm = None if why == "the merge does not know" else 1.0
    if why == "a gradient besides":
        first.grad = torch.ones_like(first)
    merged = Merged(torch.eye(2), 0.0, 0.0, 0.0, 0.0, norm, finite=True)
    assert KnownNorm.after(merged, others, [first]) is None
    ordinary = Merged(torch.eye(2), 0.0, 0.0, 0.0, 0.0, 1.0, finite=True)
    assert KnownNorm.after(ordinary, list(network().parameters()), []) is not None
