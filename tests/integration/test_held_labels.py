"""Replay inside CRaFT: the task loss on the anchors' own labels as a retention term, and anchors without labels."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from runs import BASE, history
from tiny_lm import TokenTask, collate, lm_anchors, old_rows, tiny_llama

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.anchors.joining import join_caches
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.anchors.relabelling import relabel_cache
from craft_trainer.anchors.verification import deviations
from craft_trainer.cli.main import main
from craft_trainer.losses.smoothing import SmoothedLoss
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.lerobot_dataset import PolicyDataset
from craft_trainer.models.lerobot_dataset import collate as collate_frames

LM = BASE | {"retention_terms": ["task"], "learning_rate": 0.01, "max_steps": 12, "retention_batch_size": 24}


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    return lm_anchors(tmp_path_factory.mktemp("lm") / "cache")


def train(folder, anchors, *, model=None, **changes):
    trainer = CraftTrainer(
        model or tiny_llama(),
        CraftConfig(output_dir=str(folder), **LM | changes),
        anchors=anchors,
        train_dataset=TokenTask(),
        data_collator=collate,
    )
    trainer.train()
    return trainer


def loss_on_anchors(model, rows=range(24)):
    """HuggingFace's own loss of every anchor alone, in evaluation mode: their mean."""
    with torch.no_grad():
        each = [model.eval()(**{k: v for k, v in old_rows([row]).items() if k != "row"})["loss"] for row in rows]
    return torch.stack(each).mean().item()


def test_it_is_the_rise_of_the_loss_on_the_anchors_own_labels(tmp_path, anchors):
    """In the teacher's mean entropy; 0 before the first step. Oracle: the model's own loss of every anchor alone."""
    model = tiny_llama()
    train(tmp_path / "free", anchors, model=model, method="weighted_sum", multiplier_init=0.0)
    train(tmp_path / "then", anchors, model=model, teacher_mismatch="allow", max_steps=1)
    moved = tiny_llama()
    train(tmp_path / "again", anchors, model=moved, method="weighted_sum", multiplier_init=0.0)
    risen = (loss_on_anchors(moved) - loss_on_anchors(tiny_llama())) / anchors.scales()["task"].item()
    assert abs(risen) > 1e-3
    assert history(tmp_path / "free")[0]["retention_loss"] == pytest.approx(0, abs=1e-5)
    assert history(tmp_path / "then")[0]["retention_loss"] == pytest.approx(risen, rel=1e-3)


def test_a_run_that_holds_it_keeps_the_loss_on_the_anchors_down(tmp_path, anchors):
    """Seen to fail with the teacher's own loss alone in the term, which has no gradient."""
    free, held = (
        train(tmp_path / f"{weight}", anchors, method="weighted_sum", multiplier_init=weight) for weight in (0.0, 3.0)
    )
    assert loss_on_anchors(held.model) < loss_on_anchors(free.model) - 0.1


def test_it_is_held_beside_others_for_every_group(tmp_path):
    """One value per anchor, so a constraint for each old task, under one ε with hidden features and tokens."""
    teacher = as_anchored_model(tiny_llama())
    cache = build_anchor_cache(
        teacher,
        old_rows,
        tmp_path / "cache",
        rows=range(24),
        groups=["a", "b"] * 12,
        specs=[],
        batch_size=8,
        source={"dataset": "tokens", "frames": 24},
        teacher_path="tiny",
    )
    trainer = train(tmp_path / "run", cache, retention_terms=["token_kl", "task"], constraints="per_group")
    assert set(trainer.dual.constraints) == {"a", "b"}
    assert max(row["retention_loss"] for row in history(tmp_path / "run")) > 0


def test_a_base_without_its_adapter_has_a_task_loss_too(tmp_path, anchors):
    """The same from a cache and from disable_adapter. Seen to fail with the loss taken with the adapter on."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(get_peft_model(tiny_llama(), config))
    live = AdapterAnchors(as_anchored_model(models[0]), old_rows, ["old"] * 24, num_tokens=8)
    for name, source, model in (("live", live, models[0]), ("cached", anchors, models[1])):
        train(tmp_path / name, source, model=model)
    rows = [[row["retention_loss"] for row in history(tmp_path / name)] for name in ("live", "cached")]
    assert max(map(abs, rows[0])) > 1e-4
    assert rows[0] == pytest.approx(rows[1], rel=1e-2, abs=1e-5)


def test_another_loss_on_the_task_is_refused(tmp_path, anchors):
    with pytest.raises(ValueError, match=r"retention term task takes the model's own loss on the anchors, which"):
        CraftTrainer(
            tiny_llama(),
            CraftConfig(output_dir=str(tmp_path), **LM),
            anchors=anchors,
            train_dataset=TokenTask(),
            data_collator=collate,
            compute_loss_func=SmoothedLoss(0.1),
        )


# anchors of a policy, with actions and without


def build(policy, dataset, folder, *, labels=True, name="data"):
    frames = PolicyDataset(str(dataset), policy.policy_config)

    def load(rows):
        batch = frames.batch(rows)
        return batch if labels else {key: value for key, value in batch.items() if not key.startswith("action")}

    rows = list(range(0, len(frames), 5))
    tasks = frames.task_of_frame
    return build_anchor_cache(
        policy,
        load,
        folder,
        rows=rows,
        groups=[tasks[row] for row in rows],
        specs=[],
        batch_size=7,
        source={"dataset": name, "frames": len(frames), "fingerprint": name},
        teacher_path="tiny",
    )


def policy_trainer(policy, anchors, dataset, folder, **settings):
    options = {"max_steps": 3, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    options |= {"learned_inputs": "allow"}  # the tiny dataset is both what is known and what is learned
    return CraftTrainer(
        policy,
        CraftConfig(output_dir=str(folder), **options | settings),
        anchors=anchors,
        train_dataset=PolicyDataset.of(policy, str(dataset)),
        data_collator=collate_frames,
    )


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory, tiny_policy, tiny_dataset):
    return build(tiny_policy(), tiny_dataset, tmp_path_factory.mktemp("policy") / "cache", labels=False)


def test_a_cache_says_whether_it_has_labels(unlabelled, tiny_anchors, capsys):
    assert (tiny_anchors.has_labels, unlabelled.has_labels) == (True, False)
    assert not {"input/action", "input/action_is_pad", "task"} & set(unlabelled.dataset.column_names)
    for cache, said in (
        (tiny_anchors, "labels       action\n"),
        (unlabelled, "labels       none: retention term task"),
    ):
        assert main(["cache", "info", "--cache", str(cache.folder)]) == 0
        assert said in capsys.readouterr().out
        card = (cache.folder / "README.md").read_text()
        assert f"| labels | {'action' if cache.has_labels else 'none'} |" in card


def test_anchors_without_actions_hold_the_output_of_a_policy_that_reads_none(
    unlabelled, tiny_policy, tiny_dataset, tmp_path
):
    """A policy that acts from its state alone needs no demonstration of its anchors: build, verify and train."""
    assert max(deviations(unlabelled, tiny_policy(), num_rows=8, batch_size=4).values()) < 1e-4
    trainer = policy_trainer(tiny_policy(), unlabelled, tiny_dataset, tmp_path, retention_terms=["output"])
    trainer.train()
    first, *_, last = history(tmp_path)
    assert first["retention_loss"] == pytest.approx(0, abs=1e-6)
    assert last["retention_loss"] > 0


def test_the_task_loss_of_a_policy_is_held(tiny_anchors, tiny_policy, tiny_dataset, tmp_path):
    trainer = policy_trainer(
        tiny_policy(), tiny_anchors, tiny_dataset, tmp_path, retention_terms=["hidden", "task"], constraints="per_group"
    )
    trainer.train()
    first, *_, last = history(tmp_path)
    assert first["retention_loss"] == pytest.approx(0, abs=1e-6)
    assert abs(last["retention_loss"]) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retention_terms": ["task"]}, r"'task' cannot be held: .* build the cache from samples with labels"),
        *(
            (
                {"method": method},
                rf"method {method} reads the anchors' own labels, and these anchors have none that PolicyModel",
            )
            for method in ("replay", "agem", "ewc")
        ),
    ],
)
def test_what_needs_labels_is_refused_before_training(
    unlabelled, tiny_policy, tiny_dataset, tmp_path, settings, message
):
    with pytest.raises(ValueError, match=message):
        policy_trainer(tiny_policy(), unlabelled, tiny_dataset, tmp_path / "run", **settings)


def test_a_cache_without_output_has_labels_and_no_task_loss(tiny_policy, tiny_dataset, tmp_path):
    """The pass ends at the hidden layer: replay may have it, the term may not."""
    policy = tiny_policy()
    frames = PolicyDataset(str(tiny_dataset), policy.policy_config)
    cache = build_anchor_cache(
        policy,
        frames.batch,
        tmp_path / "cache",
        rows=[0, 9, 20],
        groups=["a", "a", "b"],
        specs=[FeatureSpec(policy.module_path(-1), "mean_masked")],
        batch_size=2,
        source={"dataset": "data", "frames": len(frames)},
        teacher_path="tiny",
        output=False,
    )
    assert cache.has_labels
    with pytest.raises(ValueError, match=r"'task' cannot be held: the anchors have hidden of .* and with its output"):
        policy_trainer(policy, cache, tiny_dataset, tmp_path / "run", retention_terms=["task"])


def test_joined_and_relabelled_anchors_keep_their_task_loss(tiny_policy, tiny_dataset, tmp_path):
    """Each its own teacher's in a joined cache; the new teacher's in a relabelled one."""
    first, second = tiny_policy(), tiny_policy(seed=1)
    caches = [build(policy, tiny_dataset, tmp_path / name, name=name) for policy, name in ((first, "a"), (second, "b"))]
    joined = join_caches(caches, tmp_path / "joined", num_anchors=10**6, seed=0)
    expected = torch.cat([cache.batch(range(len(cache))).teacher.task for cache in caches])
    assert torch.equal(joined.batch(range(len(joined))).teacher.task, expected)
    assert joined.scales()["task"] == joined.scales()["output"].sqrt()
    again = relabel_cache(caches[0], second, tmp_path / "again", teacher_path="second")
    torch.testing.assert_close(
        again.batch(range(len(again))).teacher.task, expected[len(again) :], rtol=1e-5, atol=1e-6
    )


def test_a_cache_without_labels_does_not_join_one_with_them(unlabelled, tiny_policy, tiny_dataset, tmp_path):
    labelled = build(tiny_policy(seed=1), tiny_dataset, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"cannot be joined: labels is \[\] in one and \['action'\] in the other"):
        join_caches([AnchorCache(unlabelled.folder), labelled], tmp_path / "joined", num_anchors=10, seed=0)
