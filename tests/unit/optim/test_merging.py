"""The merge of two backward passes on a small network against a per-block loop in float64 numpy."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from craft_trainer.optim.blocks import GRANULARITIES, Blocks
from craft_trainer.optim.merging import Merge, Merged
from craft_trainer.optim.surgery import Surgery, Weights, one_sided

WEIGHTS = Weights(0.5, 0.7)
GRANULAR = ["layer", "tensor"]
SPLIT = pytest.mark.parametrize("granularity", GRANULAR)
WHEN = pytest.mark.parametrize("as_ready", [False, True], ids=["at the end", "as ready"])


class Layer(nn.Module):
    """A layer with one parameter that retention does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.task_only = nn.Parameter(torch.ones(6))

    def forward(self, hidden: Tensor, *, task: bool) -> Tensor:
        hidden = torch.tanh(self.linear(hidden))
        return hidden * self.task_only if task else hidden


class Network(nn.Module):
    """Shared layers, a head of either loss, a frozen parameter and one that is never reached."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Linear(4, 6)
        self.layers = nn.ModuleList([nn.Linear(6, 6), Layer(), nn.Linear(6, 6)])
        self.head, self.probe = nn.Linear(6, 2), nn.Linear(6, 3)
        self.frozen = nn.Parameter(torch.full((6,), 1.5), requires_grad=False)
        self.never = nn.Parameter(torch.ones(3))
        self.inputs, self.anchors = torch.randn(8, 4), torch.randn(8, 4)
        self.blow_up = 1.0

    def hidden(self, inputs: Tensor, *, task: bool) -> Tensor:
        hidden = torch.tanh(self.layers[0](self.embed(inputs) * self.frozen))
        return torch.tanh(self.layers[2](self.layers[1](hidden, task=task)))

    def task_loss(self) -> Tensor:
        return (self.head(self.hidden(self.inputs, task=True)) - 1).pow(2).mean()

    def retention_loss(self) -> Tensor:
        return self.blow_up * (self.probe(self.hidden(self.anchors, task=False)) + 1).pow(2).mean()

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def blocks(self, granularity: str) -> Blocks:
        return GRANULARITIES[granularity](list(self.trained()))


class Expected(NamedTuple):
    """What a merge by hand gives: a gradient per parameter (None: neither loss reaches it) and its numbers."""

    gradients: list[np.ndarray | None]
    conflict: float
    projected_energy: float
    retain_weight: float


def rule(gram: Tensor) -> Surgery:
    return one_sided(gram, WEIGHTS, 0.0)


def gradients_of(loss: Tensor, network: Network) -> list[np.ndarray | None]:
    found = torch.autograd.grad(loss, list(network.trained().values()), allow_unused=True)
    return [None if gradient is None else gradient.double().numpy() for gradient in found]


def by_hand(network: Network, blocks: Blocks) -> Expected:
    """One-sided surgery block by block on flat float64 vectors."""
    task, retain = gradients_of(network.task_loss(), network), gradients_of(network.retention_loss(), network)
    shapes = [tuple(parameter.shape) for parameter in network.trained().values()]
    merged: list[np.ndarray | None] = [None] * len(task)
    conflicts, removed, total, pushes = [], 0.0, 0.0, []
    for block in blocks:
        t, r = (
            np.concatenate([(np.zeros(shapes[i]) if g[i] is None else g[i]).ravel() for i in block])
            for g in (task, retain)
        )
        part, push = t, WEIGHTS.retain
        if t.any() and r.any():
            conflicts.append(t @ r < 0)
            if conflicts[-1]:
                part = t - (t @ r) / (r @ r) * r
                push = WEIGHTS.retain - WEIGHTS.task * (t @ r) / (r @ r)
        removed, total = removed + np.sum((part - t) ** 2), total + t @ t
        pushes.append((push, r @ r))
        ends = np.cumsum([np.prod(shapes[i], dtype=int) for i in block])[:-1]
        for i, piece in zip(block, np.split(WEIGHTS.task * part + WEIGHTS.retain * r, ends), strict=True):
            merged[i] = None if task[i] is None and retain[i] is None else piece.reshape(shapes[i])
    retain_weight = sum(push * share for push, share in pushes) / sum(share for _, share in pushes)
    return Expected(merged, float(np.mean(conflicts)), float(removed / total), float(retain_weight))


def run(
    network: Network,
    blocks: Blocks,
    *,
    as_ready: bool,
    rule: Callable[[Tensor], Surgery] = rule,
    on_retain: Callable[[int, Tensor], None] | None = None,
) -> Merged:
    """Both backward passes as the trainer makes them; the merged gradient is in ``.grad``."""
    network.zero_grad()
    network.task_loss().backward()
    parameters = list(network.trained().values())
    with Merge(parameters, blocks, rule, as_ready=as_ready, on_retain=on_retain) as merge:
        network.retention_loss().backward()
        return merge.finish()


@WHEN
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("seed", range(3))
def test_the_merged_gradient_is_that_of_a_loop_over_the_blocks(seed: int, granularity: str, as_ready: bool) -> None:
    """A head of one loss only, a frozen parameter and one never reached among them.

    Fails when blocks share a Gramian, when what is left at the end keeps its task gradient, and when ready blocks are
    merged a second time.
    """
    network = Network(seed)
    blocks = network.blocks(granularity)
    expected = by_hand(network, blocks)
    run(network, blocks, as_ready=as_ready)
    for (name, parameter), gradient in zip(network.trained().items(), expected.gradients, strict=True):
        if gradient is None:
            assert (name, parameter.grad) == ("never", None)
        else:
            np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-5, atol=1e-8, err_msg=name)
    assert network.frozen.grad is None


@SPLIT
@pytest.mark.parametrize("seed", range(3))
def test_merging_as_ready_equals_merging_at_the_end(seed: int, granularity: str) -> None:
    one, other = Network(seed), Network(seed)
    early = run(one, one.blocks(granularity), as_ready=True)
    late = run(other, other.blocks(granularity), as_ready=False)
    for left, right in zip(one.trained().values(), other.trained().values(), strict=True):
        assert (left.grad is None) == (right.grad is None)
        if left.grad is not None:
            torch.testing.assert_close(left.grad, right.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(early.gram, late.gram, rtol=1e-6, atol=0)
    assert early[1:] == pytest.approx(late[1:], rel=1e-6)


@WHEN
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("seed", range(3))
def test_the_summary_is_that_of_the_loop(seed: int, granularity: str, as_ready: bool) -> None:
    """Fails when a block of one loss counts for the conflict, when w_retain is a plain mean over the blocks, when the
    projected energy is divided by that of g_retain, and when the cosine is a mean of the blocks' cosines.
    """
    network = Network(seed)
    blocks = network.blocks(granularity)
    expected = by_hand(network, blocks)
    task, retain = (
        np.concatenate([np.zeros(p.numel()) if g is None else g.ravel() for g, p in zip(found, of, strict=True)])
        for loss in (network.task_loss(), network.retention_loss())
        for found, of in [(gradients_of(loss, network), network.trained().values())]
    )
    merged = run(network, blocks, as_ready=as_ready)
    np.testing.assert_allclose(merged.gram, [[task @ task, task @ retain], [retain @ task, retain @ retain]], rtol=1e-5)
    assert merged.cosine == pytest.approx(task @ retain / np.linalg.norm(task) / np.linalg.norm(retain), abs=1e-6)
    assert merged.conflict == expected.conflict
    assert merged.projected_energy == pytest.approx(expected.projected_energy, rel=1e-4)
    assert merged.retain_weight == pytest.approx(expected.retain_weight, rel=1e-5)
    assert merged.finite


def test_the_network_has_blocks_of_every_kind() -> None:
    """The tests above would prove little if all blocks conflicted, or none."""
    conflicts = [by_hand(network, network.blocks("tensor")).conflict for network in map(Network, range(3))]
    assert all(0 < conflict < 1 for conflict in conflicts)


@WHEN
def test_parameters_of_one_loss_keep_their_gradient(as_ready: bool) -> None:
    """Times its weight; ``granularity`` tensor, so that they are blocks of their own."""
    network = Network()
    task, retain = gradients_of(network.task_loss(), network), gradients_of(network.retention_loss(), network)
    run(network, network.blocks("tensor"), as_ready=as_ready)
    alone = 0
    for t, r, parameter in zip(task, retain, network.trained().values(), strict=True):
        if (t is None) != (r is None):
            expected = WEIGHTS.task * t if r is None else WEIGHTS.retain * r
            np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-6)
            alone += 1
    assert alone == 5  # head, probe, task_only


@WHEN
def test_a_retention_pass_without_gradients_leaves_the_task_gradient_bit_for_bit(as_ready: bool) -> None:
    network = Network()
    network.task_loss().backward()
    before = {name: p.grad.clone() for name, p in network.trained().items() if p.grad is not None}
    parameters, blocks = list(network.trained().values()), network.blocks("layer")
    with Merge(parameters, blocks, lambda gram: one_sided(gram, Weights(1.0, 0.7), 0.0), as_ready=as_ready) as merge:
        merged = merge.finish()
    assert merged[1:] == (0.0, 0.0, 0.0, 0.0, True)
    after = {name: p.grad for name, p in network.trained().items() if p.grad is not None}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@WHEN
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("blow_up", [float("nan"), float("inf"), 1e25])
def test_one_inner_product_that_is_not_finite_makes_every_gradient_nan(
    blow_up: float, granularity: str, as_ready: bool
) -> None:
    """Also those of parameters that the bad loss does not reach, so that an fp16 scaler finds them; 10²⁵ is finite, but
    its square in float32 is not. The rule never sees such a Gramian. Fails when only the bad blocks become NaN.
    """
    network = Network()
    network.blow_up = blow_up

    def finite_rule(gram: Tensor) -> Surgery:
        assert gram.isfinite().all()
        return rule(gram)

    merged = run(network, network.blocks(granularity), as_ready=as_ready, rule=finite_rule)
    assert not merged.finite
    assert np.isnan(merged.cosine)
    assert network.never.grad is None
    assert all(p.grad.isnan().all() for name, p in network.trained().items() if name != "never")
