"""Every setting is checked when the configuration is made, and its error names it."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from craft_trainer.config import CraftConfig

NAN = float("nan")


def make(tmp_path: Path, **settings: Any) -> CraftConfig:
    return CraftConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("surgery", {"surgery": "both_sided"}),
        ("epsilon_schedule", {"epsilon_schedule": "square", "epsilon_final": 0.1}),
        ("hidden_distance", {"hidden_distance": "l2"}),
        ("teacher_mismatch", {"teacher_mismatch": "warn"}),
        ("retention_terms", {"retention_terms": ["hidden", "weights"]}),
        ("retention_terms", {"retention_terms": []}),
        ("retention_terms", {"retention_terms": ["hidden", "hidden"]}),
        ("retention_weights", {"retention_weights": [1.0]}),
        ("retention_weights", {"retention_weights": []}),
        ("retention_weights", {"retention_weights": [1.0, -0.1]}),
        ("retention_batch_size", {"retention_batch_size": 0}),
        ("retention_every", {"retention_every": 0}),
        ("conflict_threshold", {"conflict_threshold": 0.1}),
        ("conflict_threshold", {"conflict_threshold": -1.1}),
        ("conflict_threshold", {"conflict_threshold": NAN}),
        ("multiplier_max", {"multiplier_max": 0.0}),
        ("multiplier_init", {"multiplier_init": -0.1}),
        ("multiplier_init", {"multiplier_init": 5.0, "multiplier_max": 4.0}),
        ("multiplier_init", {"multiplier_init": NAN}),
        ("multiplier_lr", {"multiplier_lr": -0.1}),
        ("multiplier_lr", {"multiplier_lr": NAN}),
        ("epsilon", {"epsilon": 0.0}),
        ("epsilon", {"epsilon": -1.0}),
        ("epsilon", {"epsilon": NAN}),
        ("epsilon_final", {"epsilon_schedule": "linear"}),
        ("epsilon_final", {"epsilon_schedule": "exponential", "epsilon_final": 0.0}),
        ("epsilon_final", {"epsilon_schedule": "cosine", "epsilon_final": -0.1}),
        ("epsilon_final", {"epsilon_final": 0.1}),
        ("restore_callback_states_from_checkpoint", {"restore_callback_states_from_checkpoint": False}),
    ],
)
def test_a_bad_value_is_an_error_that_names_its_field(tmp_path: Path, field: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"\b{field}\b"):
        make(tmp_path, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"conflict_threshold": -1.0},
        {"conflict_threshold": 0.0},
        {"multiplier_init": 0.0},
        {"multiplier_init": 4.0, "multiplier_max": 4.0},
        {"multiplier_lr": 0.0},
        {"retention_weights": [0.0, 1.0]},
        {"retention_every": 1, "retention_batch_size": 1},
        {"epsilon_schedule": "exponential", "epsilon_final": 1e-6},
        {"surgery": "none", "hidden_distance": "cosine", "teacher_mismatch": "allow"},
    ],
)
def test_the_ends_of_every_range_are_allowed(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = make(tmp_path, **settings)
    assert {name: getattr(config, name) for name in settings} == settings


def test_weights_belong_to_terms_in_their_order(tmp_path: Path) -> None:
    config = make(tmp_path, retention_terms=["output", "hidden"], retention_weights=[0.25, 4.0])
    assert config.term_weights == {"output": 0.25, "hidden": 4.0}
    assert make(tmp_path, retention_terms=["output"]).term_weights == {"output": 1.0}


def test_defaults_are_not_shared_between_configurations(tmp_path: Path) -> None:
    make(tmp_path).retention_terms.append("x")
    assert make(tmp_path).retention_terms == ["hidden", "output"]


def test_every_setting_of_craft_has_a_help_text() -> None:
    inherited = {field.name for field in fields(TrainingArguments)}
    own = [field for field in fields(CraftConfig) if field.name not in inherited]
    assert len(own) >= 14
    assert all(len(field.metadata["help"]) > 10 for field in own)


def test_what_differs_from_huggingface_is_on_purpose(tmp_path: Path) -> None:
    plain = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    config = make(tmp_path)
    names = [field.name for field in fields(TrainingArguments) if field.init and field.name != "logging_dir"]
    changed = {name for name in names if getattr(plain, name) != getattr(config, name)}
    assert changed == {"remove_unused_columns", "restore_callback_states_from_checkpoint"}
