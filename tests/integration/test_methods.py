"""Every method, rule and constraint in the trainer against the same step written out by hand with flat vectors.

Each oracle is plain SGD on the toy. They were seen to fail with: λ applied to the projected part as well, the
weights of the groups not normalised, the penalty without its Fisher information, the barrier's excess left unclipped.
"""

from collections import Counter

import pytest
import torch
from runs import BASE, history
from toy import ToyModel, ToyTask, toy_anchors

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.sampling import anchor_rows

STEPS, LR, EPSILON, ETA, BATCH = 10, 0.03, 1e-3, 0.2, 8
GROUPS = ["door"] * 16 + ["drawer"] * 8


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    return toy_anchors(tmp_path_factory.mktemp("anchors") / "cache", groups=GROUPS)


def train(folder, anchors, **changes):
    options = {
        "max_steps": STEPS,
        "optim": "sgd",
        "learning_rate": LR,
        "multiplier_lr": ETA,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "retention_batch_size": BATCH,
        "epsilon": EPSILON,
    }
    trainer = CraftTrainer(
        ToyModel(),
        CraftConfig(output_dir=str(folder), **BASE | options | changes),
        anchors=anchors,
        train_dataset=ToyTask(size=8),
    )
    trainer.train()
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]), trainer


def flat_gradient(loss, model):
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for p, g in zip(model.parameters(), gradients, strict=True)
        ]
    )


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def feature_losses(model, anchors, batch):
    """L_retain of every anchor: the distance of hidden features and outputs in units of their variance."""
    scales, column = anchors.scales(), anchors.specs[0].column
    hidden = (model.encoder(batch.inputs["x"]) - batch.teacher.hidden[column]).square().mean(dim=(1, 2))
    output = (model.predict(batch.inputs) - batch.teacher.output).square().mean(dim=(1, 2))
    return hidden / scales[column] + output / scales["output"]


def oracle(anchors, merge):
    """SGD on what ``merge(model, g_task, batch, step)`` makes of the task gradient."""
    model, task = ToyModel(), ToyTask(size=8)
    for step in range(STEPS):
        g_task = flat_gradient(model(task.x, task.y)["loss"], model)
        rows = anchor_rows(len(anchors), BATCH, seed=42, draw=step)
        merged = merge(model, g_task, anchors.batch(rows), rows)
        with torch.no_grad():
            sizes = [parameter.numel() for parameter in model.parameters()]
            for parameter, part in zip(model.parameters(), merged.split(sizes), strict=True):
                parameter.sub_(LR * part.view_as(parameter))
    return flat(model)


def replayed(model, batch):
    return flat_gradient(model(batch.inputs["x"], batch.inputs["y"])["loss"], model)


def test_replay_adds_the_task_gradient_on_the_anchors(tmp_path, anchors):
    expected = oracle(anchors, lambda model, g, batch, rows: g + 0.7 * replayed(model, batch))
    ours, _ = train(tmp_path, anchors, method="replay", multiplier_init=0.7)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shift", [3.0, -3.0])
def test_agem_projects_the_task_gradient_off_the_memorys(tmp_path, shift):
    """On one side of the task's targets the memory pulls against it, on the other with it."""
    anchors = toy_anchors(tmp_path / "cache", shift=shift)

    def merge(model, g, batch, rows):
        memory = replayed(model, batch)
        return g - (g @ memory) / (memory @ memory) * memory if g @ memory < 0 else g

    ours, _ = train(tmp_path, anchors, method="agem")
    assert any(row["conflict"] for row in history(tmp_path)) is (shift < 0)
    torch.testing.assert_close(ours, oracle(anchors, merge), atol=1e-6, rtol=1e-5)


def test_l2_pulls_back_to_the_teacher(tmp_path, anchors):
    start = flat(ToyModel())
    expected = oracle(anchors, lambda model, g, batch, rows: g + 2.0 * (flat(model) - start))
    ours, _ = train(tmp_path, anchors, method="l2", multiplier_init=2.0)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_ewc_pulls_back_where_the_teacher_is_sure(tmp_path, anchors):
    model = ToyModel()
    per_sample = [
        flat_gradient(model(b.inputs["x"], b.inputs["y"])["loss"], model).square()
        for b in (anchors.batch([row]) for row in range(len(anchors)))
    ]
    start, fisher = flat(model), torch.stack(per_sample).mean(dim=0)
    expected = oracle(anchors, lambda model, g, batch, rows: g + 30.0 * fisher * (flat(model) - start))
    ours, _ = train(tmp_path, anchors, method="ewc", multiplier_init=30.0)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_plain_ignores_the_anchors(tmp_path, anchors):
    ours, trainer = train(tmp_path, anchors, method="plain")
    torch.testing.assert_close(ours, oracle(anchors, lambda model, g, batch, rows: g), atol=1e-6, rtol=1e-5)
    assert trainer.retention is None


def test_a_weighted_sum_is_the_gradient_of_the_sum(tmp_path, anchors):
    def merge(model, g, batch, rows):
        return g + 1.5 * flat_gradient(feature_losses(model, anchors, batch).mean(), model)

    ours, _ = train(tmp_path, anchors, method="weighted_sum", multiplier_init=1.5)
    torch.testing.assert_close(ours, oracle(anchors, merge), atol=1e-6, rtol=1e-5)


def test_the_barrier_changes_the_task_gradient_as_little_as_it_must(tmp_path, anchors):
    def merge(model, g, batch, rows):
        losses = feature_losses(model, anchors, batch).mean()
        retain = flat_gradient(losses, model)
        if retain.norm() < 1e-6 * g.norm():
            return g
        excess = min(max((losses.item() - EPSILON) / EPSILON, -1.0), 1.0)
        return g + max(0.0, 0.5 * excess - (g @ retain) / (retain @ retain)) * retain

    ours, _ = train(tmp_path, anchors, surgery="barrier", barrier_strength=0.5, multiplier_lr=0.1)
    torch.testing.assert_close(ours, oracle(anchors, merge), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("merge_mode", "cap"), [("weighted", 100.0), ("task_priority", 1.0)])
def test_symmetric_projection_with_a_moving_multiplier(tmp_path, anchors, merge_mode, cap):
    multiplier = 1.0

    def merge(model, g, batch, rows):
        nonlocal multiplier
        loss = feature_losses(model, anchors, batch).mean()
        r = flat_gradient(loss, model)
        weight = min(multiplier, cap)
        multiplier = max(0.0, multiplier + ETA * (loss.item() - EPSILON))
        if r.norm() < 1e-6 * g.norm() or g @ r >= 0:
            return g + weight * r
        return (g - (g @ r) / (r @ r) * r) + weight * (r - (g @ r) / (g @ g) * g)

    ours, trainer = train(tmp_path, anchors, surgery="symmetric", merge=merge_mode)
    torch.testing.assert_close(ours, oracle(anchors, merge), atol=1e-5, rtol=1e-4)
    assert trainer.dual.multiplier == pytest.approx(multiplier, rel=1e-4)


@pytest.mark.parametrize("surgery", ["none", "one_sided"])
def test_every_group_has_its_constraint_and_one_backward_serves_all(tmp_path, anchors, surgery):
    """The Lagrangian's gradient Σ λ_k g_k, with λ_k of the groups in the batch only."""
    multipliers, own = {"door": 1.0, "drawer": 1.0}, {"door": EPSILON, "drawer": 0.05}
    measured = []

    def merge(model, g, batch, rows):
        losses, groups = feature_losses(model, anchors, batch), [GROUPS[row] for row in rows]
        means = {k: losses[[group == k for group in groups]].mean() for k in Counter(groups)}
        retain = flat_gradient(sum(multipliers[k] * means[k] for k in means), model)
        conflict = g @ retain < 0 and retain.norm() > 1e-6 * g.norm() and surgery == "one_sided"
        merged = (g - (g @ retain) / (retain @ retain) * retain if conflict else g) + retain
        for k, mean in means.items():
            measured.append((k, groups.count(k), mean.item(), multipliers[k]))
            multipliers[k] = max(0.0, multipliers[k] + ETA * (mean.item() - own[k]))
        return merged

    expected = oracle(anchors, merge)
    ours, trainer = train(
        tmp_path, anchors, surgery=surgery, constraints="per_group", epsilon_per_group={"drawer": 0.05}
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    for group, constraint in trainer.dual.constraints.items():
        assert constraint.multiplier == pytest.approx(multipliers[group], rel=1e-4)
    lines = (tmp_path / "lambda_history_groups.csv").read_text().splitlines()
    assert lines[0] == "step,group,num_anchors,retention_loss,multiplier,epsilon,violation"
    written = [line.split(",") for line in lines[1:]]
    assert len(written) == len(measured)
    for row, (group, count, loss, multiplier) in zip(written, sorted_by_step(measured), strict=True):
        assert row[1:3] == [group, str(count)]
        assert float(row[3]) == pytest.approx(loss, rel=1e-3, abs=1e-9)
        assert float(row[4]) == pytest.approx(multiplier, rel=1e-4)


def sorted_by_step(measured):
    """Within a step the file is in alphabetical order of the groups."""
    rows = list(measured)
    steps, seen = [[]], set()
    for row in rows:
        if row[0] in seen:
            steps.append([])
            seen = set()
        seen.add(row[0])
        steps[-1].append(row)
    return [row for step in steps for row in sorted(step)]


def test_the_probe_makes_epsilon_out_of_the_drift(tmp_path, anchors):
    """Four unconstrained steps; ε is half of the largest L_retain they caused, and λ starts after them."""
    train(tmp_path / "plain", anchors, method="weighted_sum", multiplier_init=0.0, max_steps=4)
    drift = max(row["retention_loss"] for row in history(tmp_path / "plain"))
    train(tmp_path / "probed", anchors, epsilon_probe_steps=4, epsilon=0.5)
    rows = history(tmp_path / "probed")
    assert [row["epsilon"] for row in rows[4:]] == pytest.approx([0.5 * drift] * 6, rel=1e-5)
    assert [row["retention_loss"] for row in rows[:4]] == pytest.approx(
        [row["retention_loss"] for row in history(tmp_path / "plain")], rel=1e-4, abs=1e-9
    )
    assert [row["multiplier"] for row in rows[:5]] == [0.0, 0.0, 0.0, 0.0, 1.0]  # what L_retain was multiplied by
    assert rows[5]["multiplier"] != 1.0


@pytest.mark.parametrize("method", ["weighted_sum", "replay", "agem", "l2", "ewc"])
def test_a_baseline_without_anchors_is_refused(tmp_path, method):
    """It would be plain training under another name."""
    with pytest.raises(ValueError, match=f"method {method} has no effect without anchors"):
        CraftTrainer(ToyModel(), CraftConfig(output_dir=str(tmp_path), method=method))
