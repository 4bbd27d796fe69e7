"""One retention pass of a model of one number: its loss, its gradient and what the multipliers learn, by hand."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from one_number import GROUPS, PER_GROUP, Run, loss_of, mean_losses
from torch import Tensor

from craft_trainer.optim.constraints import EVERYTHING, ConstraintState, GroupConstraintState
from craft_trainer.training.callbacks import DualState


def test_a_single_constraint_holds_the_mean_over_all_anchors(tmp_path: Path) -> None:
    run = Run(tmp_path)
    retention_pass = run.forward()
    retention_pass.loss.backward()
    expected = sum(map(loss_of, range(10))) / 10
    assert run.retention.groups == [EVERYTHING]
    assert retention_pass.loss.item() == pytest.approx(expected)
    assert run.model.theta.grad.item() == pytest.approx(expected * 2 / 0.5)
    assert retention_pass.constraint == pytest.approx(ConstraintState(expected, 1.0, 0.1, expected - 0.1))
    assert retention_pass.task_loss == 0.75
    assert not retention_pass.probing


def test_the_loss_is_weighted_by_the_multipliers_of_the_groups(tmp_path: Path) -> None:
    """Σ λ_k L_k / Σ λ_k, in value and gradient. Seen to fail with the weights of anchors, not of their means."""
    run = Run(tmp_path, **PER_GROUP, epsilon_per_group={"drawer": 2.0})
    run.set_multipliers(door=0.5, drawer=2.0, push=1.5)
    retention_pass = run.forward()
    retention_pass.loss.backward()
    losses = mean_losses(range(10), GROUPS)
    expected = (0.5 * losses["door"] + 2.0 * losses["drawer"] + 1.5 * losses["push"]) / 4.0
    assert retention_pass.loss.item() == pytest.approx(expected)
    assert run.model.theta.grad.item() == pytest.approx(expected * 2 / 0.5)
    epsilon = (0.5 * 0.1 + 2.0 * 2.0 + 1.5 * 0.1) / 4.0
    assert retention_pass.constraint == pytest.approx(ConstraintState(expected, 4.0, epsilon, losses["push"] - 0.1))
    expected_readings = [
        GroupConstraintState("door", 6, losses["door"], 0.5, 0.1, losses["door"] - 0.1),
        GroupConstraintState("drawer", 3, losses["drawer"], 2.0, 2.0, losses["drawer"] - 2.0),
        GroupConstraintState("push", 1, losses["push"], 1.5, 0.1, losses["push"] - 0.1),
    ]
    for constraint, wanted in zip(retention_pass.group_states, expected_readings, strict=True):
        assert constraint[:2] == wanted[:2]
        assert constraint[2:] == pytest.approx(wanted[2:])


def test_groups_outside_the_batch_do_not_enter(tmp_path: Path) -> None:
    """Their λ neither, and they learn nothing."""
    run = Run(tmp_path, **PER_GROUP, retention_batch_size=4)
    run.set_multipliers(door=0.5, drawer=2.0, push=100.0)
    for step in range(20):
        retention_pass = run.forward(step)
        losses = mean_losses(run.anchors.asked[-1], GROUPS)
        multipliers = {group: run.state.constraints[group].multiplier for group in losses}
        expected = sum(multipliers[group] * losses[group] for group in losses) / sum(multipliers.values())
        assert retention_pass.loss.item() == pytest.approx(expected)
        assert {constraint.group for constraint in retention_pass.group_states} == set(losses)
        before = {group: vars(constraint).copy() for group, constraint in run.state.constraints.items()}
        run.retention.step(run.state, retention_pass, finite=True)
        moved = {group for group in before if before[group] != vars(run.state.constraints[group])}
        assert moved == set(losses)
    assert any(len({GROUPS[row] for row in rows}) < 3 for rows in run.anchors.asked)


def test_without_multipliers_groups_count_the_same(tmp_path: Path) -> None:
    """So that L_retain is still measured, though it weighs nothing."""
    run = Run(tmp_path, **PER_GROUP, multiplier_init=0.0)
    retention_pass = run.forward()
    assert retention_pass.loss.item() == pytest.approx(sum(mean_losses(range(10), GROUPS).values()) / 3)
    assert retention_pass.constraint.multiplier == 0


@pytest.mark.parametrize("name", ["task", "all anchors", "", "push, the puck"])
def test_groups_may_have_any_name(tmp_path: Path, name: str) -> None:
    """Seen to fail when the task loss was summed under a name of its own among them."""
    groups = [name] * 4 + ["zz"] * 6
    retention_pass = Run(tmp_path, *groups, **PER_GROUP).forward()
    losses = mean_losses(range(10), groups)
    assert {constraint.group: constraint.retention_loss for constraint in retention_pass.group_states} == pytest.approx(
        losses
    )
    assert retention_pass.task_loss == 0.75


def fake_accelerator(rank: int) -> Any:
    """One of two processes."""
    return SimpleNamespace(
        process_index=rank,
        num_processes=2,
        is_main_process=rank == 0,
        distributed_type=DistributedType.MULTI_CPU,
        state=SimpleNamespace(),
        mixed_precision="no",
        autocast=nullcontext,
    )


@pytest.mark.parametrize("settings", [{}, PER_GROUP])
def test_two_processes_are_one_with_twice_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """The mean of their losses (and so of their gradients) is its loss, and all read what it reads.

    Seen to fail when every process divided by its own counts. The processes are played one after the other: the sums
    that they would reduce are collected first.
    """

    def prepare(run: Run) -> Run:
        if settings:
            run.set_multipliers(door=0.5, drawer=2.0, push=1.5)
        return run

    alone = prepare(Run(tmp_path, retention_batch_size=8, **settings))
    whole = alone.forward()
    ranks = [
        prepare(Run(tmp_path, retention_batch_size=4, accelerator=fake_accelerator(r), **settings)) for r in (0, 1)
    ]
    parts: list[dict[Any, float]] = []

    def collect(values: dict[Any, Tensor], num_processes: int) -> dict[Any, float]:
        assert num_processes == 2
        parts.append({name: value.item() for name, value in values.items()})
        return parts[-1]

    monkeypatch.setattr("craft_trainer.training.retention.sums_over_processes", collect)
    losses = [run.forward().loss.item() for run in ranks]
    assert sum(losses) / 2 == pytest.approx(whole.loss.item())
    assert parts[0].keys() == parts[1].keys()
    assert ranks[0].anchors.asked[0] + ranks[1].anchors.asked[0] == alone.anchors.asked[0]
    totals = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    monkeypatch.setattr("craft_trainer.training.retention.sums_over_processes", lambda _values, _num: totals)
    for run in ranks:
        retention_pass = run.forward()
        assert retention_pass.task_loss == 0.75
        assert retention_pass.constraint == pytest.approx(whole.constraint)
        assert [r[:2] for r in retention_pass.group_states] == [r[:2] for r in whole.group_states]
        assert [r[2:] for r in retention_pass.group_states] == [pytest.approx(r[2:]) for r in whole.group_states]
        assert run.retention.averages_gradients


def test_an_epsilon_of_a_group_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"epsilon_per_group names 'window'; the anchors have the groups \['door', "):
        Run(tmp_path, **PER_GROUP, epsilon_per_group={"window": 0.1})


def test_draws_are_permutations(tmp_path: Path) -> None:
    uniform = Run(tmp_path, **PER_GROUP, retention_batch_size=5)
    for step in range(4):
        uniform.forward(step)
    assert sorted(uniform.anchors.asked[0] + uniform.anchors.asked[1]) == list(range(10))


def test_draws_are_counted_in_passes_and_follow_the_data_seed(tmp_path: Path) -> None:
    """With a pass every third step an epoch of anchors is still seen whole."""
    run = Run(tmp_path, retention_every=3, retention_batch_size=5)
    assert run.passes(6) == [0, 3]
    assert sorted(run.anchors.asked[0] + run.anchors.asked[1]) == list(range(10))
    other = Run(tmp_path, retention_every=3, retention_batch_size=5, data_seed=run.args.seed + 1)
    other.forward()
    same = Run(tmp_path, retention_every=3, retention_batch_size=5, data_seed=run.args.seed, seed=7)
    same.forward()
    assert other.anchors.asked[0] != run.anchors.asked[0] == same.anchors.asked[0]


def test_epsilon_follows_its_schedule(tmp_path: Path) -> None:
    run = Run(tmp_path, epsilon_schedule="linear", epsilon=1.0, epsilon_final=0.01)
    assert [run.forward(step).constraint.epsilon for step in (0, 50, 99)] == pytest.approx([1.0, 0.5, 0.01])


def test_the_multipliers_follow_their_own_violations(tmp_path: Path) -> None:
    """λ_k ← [λ_k + η (L_k − ε)]₊"""
    run = Run(tmp_path, **PER_GROUP, theta=1.1)
    losses = mean_losses(range(10), GROUPS, theta=1.1)
    run.retention.step(run.state, run.forward(), finite=True)
    for group, constraint in run.state.constraints.items():
        assert constraint.multiplier == pytest.approx(max(0.0, 1.0 + 0.5 * (losses[group] - 0.1)), rel=1e-5)


@pytest.mark.parametrize("finite", [True, False])
def test_a_pass_that_is_not_finite_teaches_nothing(tmp_path: Path, finite: bool) -> None:
    run = Run(tmp_path)
    retention_pass = run.forward(4)
    run.retention.step(run.state, retention_pass, finite=finite)
    learnt = run.state.constraints != DualState(1.0).constraints
    assert learnt is finite


def test_task_methods_have_one_loss_for_all_anchors(tmp_path: Path) -> None:
    """Replay: what counts is the model's own loss, whatever the groups."""
    run = Run(tmp_path, method="replay")
    retention_pass = run.forward()
    assert retention_pass.loss.item() == pytest.approx(1.5 * sum(range(1, 11)))
    assert retention_pass.constraint == pytest.approx(ConstraintState(1.5 * 55, 1.0, 0.1, 1.5 * 55 - 0.1))
    assert [constraint.group for constraint in retention_pass.group_states] == [EVERYTHING]


@pytest.mark.parametrize("method", ["l2", "ewc"])
def test_pulls_start_at_the_model_they_are_made_with(tmp_path: Path, method: str) -> None:
    """F = mean over anchors of (∂loss/∂θ)² = mean of x²."""
    run = Run(tmp_path, method=method, theta=1.0)
    with torch.no_grad():
        run.model.theta.add_(0.5)
    fisher = {"l2": 1.0, "ewc": sum(x * x for x in range(1, 11)) / 10}[method]
    assert run.forward().loss.item() == pytest.approx(fisher * 0.5**2 / 2)
