"""Every setting of CraftConfig changes the course of a run."""

import pytest
from runs import ONLY_CRAFT, history, run
from toy import toy_anchors

# every setting: what is changed, on top of what
CHANGES = {
    "method": ({"method": "replay"}, {}),
    "retention_terms": ({"retention_terms": ["output"]}, {}),
    "retention_weights": ({"retention_weights": [1.0, 0.1]}, {}),
    "hidden_distance": ({"hidden_distance": "cosine"}, {}),
    "retention_batch_size": ({"retention_batch_size": 4}, {}),
    "retention_every": ({"retention_every": 2}, {}),
    "surgery": ({"surgery": "none"}, {}),
    "backward": ({"backward": "joint"}, {"surgery": "none", "update_angle_every": 10}),
    "granularity": ({"granularity": "tensor"}, {}),
    "merge": ({"merge": "task_priority"}, {}),
    "conflict_threshold": ({"conflict_threshold": -0.9}, {}),
    "barrier_strength": ({"barrier_strength": 0.1}, {"surgery": "barrier", "multiplier_lr": 0.1}),
    "multiplier": ({"multiplier": "pi"}, {}),
    "multiplier_init": ({"multiplier_init": 3.0}, {}),
    "multiplier_lr": ({"multiplier_lr": 1.0}, {}),
    "dual_kp": ({"dual_kp": 1.0}, {"multiplier": "pi"}),
    "dual_ema": ({"dual_ema": 0.5}, {"multiplier": "pi"}),
    "multiplier_max": ({"multiplier_max": 1.0}, {}),
    "constraints": ({"constraints": "per_group"}, {}),
    "retention": ({"retention": 0.5, "epsilon": 0.01}, {}),  # with epsilon as it is by default
    "epsilon": ({"epsilon": 0.1}, {}),
    "epsilon_final": ({"epsilon_final": 0.2}, {"epsilon_schedule": "linear", "epsilon_final": 0.1}),
    "epsilon_schedule": ({"epsilon_schedule": "cosine"}, {"epsilon_schedule": "linear", "epsilon_final": 0.2}),
    "epsilon_per_group": ({"epsilon_per_group": {"drawer": 0.5}}, {"constraints": "per_group"}),
    "epsilon_probe_steps": ({"epsilon_probe_steps": 4}, {}),
    "update_angle_every": ({"update_angle_every": 4}, {}),
}
TRIED_ELSEWHERE = {"teacher_mismatch", "task_kl_samples", "learned_inputs"}  # above, and beside this file


@pytest.fixture(scope="module")
def grouped_anchors(tmp_path_factory):
    return toy_anchors(tmp_path_factory.mktemp("grouped") / "cache", groups=["door"] * 16 + ["drawer"] * 8)


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_setting_changes_something(tmp_path, grouped_anchors, name):
    change, base = CHANGES[name]
    run(tmp_path / "reference", grouped_anchors, **{"max_steps": 12} | base)
    run(tmp_path / "changed", grouped_anchors, **{"max_steps": 12} | base | change)
    assert history(tmp_path / "changed") != history(tmp_path / "reference")


def test_every_setting_is_tried_above():
    assert set(CHANGES) | TRIED_ELSEWHERE == ONLY_CRAFT
