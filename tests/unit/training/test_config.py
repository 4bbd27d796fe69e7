"""Every setting is checked when the configuration is made, and its error names it; methods are what they are called."""

import json
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from craft_trainer.losses.distillation import DistillationLoss
from craft_trainer.losses.ewc import EWCLoss
from craft_trainer.losses.l2sp import L2SPLoss
from craft_trainer.losses.replay import ReplayLoss
from craft_trainer.optim.dual import Controller
from craft_trainer.training.config import CraftConfig, retention_settings
from craft_trainer.training.methods import METHODS, Recipe
from craft_trainer.training.settings import CHOICES, RANGES
from craft_trainer.training.trainer import retaining_config

NAN = float("nan")
INF = float("inf")
GROUPED = {"constraints": "per_group"}
LINEAR = {"epsilon_schedule": "linear", "epsilon_final": 0.1}


def make(tmp_path: Path, **settings: Any) -> CraftConfig:
    return CraftConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)


CHOSEN = {
    "backward": "both",
    "method": "lwf",
    "surgery": "both_sided",
    "granularity": "block",
    "merge": "mean",
    "multiplier": "pid",
    "constraints": "two",
    "epsilon_schedule": "square",
    "hidden_distance": "l2",
    "teacher_mismatch": "warn",
    "learned_inputs": "warn",
}
OUTSIDE: dict[str, list[float]] = {
    "retention_batch_size": [0, -1, NAN],
    "retention_every": [0, NAN],
    "conflict_threshold": [0.1, -1.1, NAN],
    "barrier_strength": [0.0, -1.0, NAN],
    "multiplier_max": [0.0, NAN, INF],
    "multiplier_init": [-0.1, NAN],
    "multiplier_lr": [0.0, -0.1, NAN],
    "dual_kp": [-0.1, NAN],
    "dual_ema": [-0.1, 1.0, NAN],
    "retention": [0.0, 1.0, -0.5, 99, NAN],
    "epsilon": [0.0, -1.0, NAN, INF],
    "epsilon_probe_steps": [-1],
    "task_kl_samples": [-1],
    "update_angle_every": [0],
}


NEEDED = [name for name in OUTSIDE if CraftConfig.__dataclass_fields__[name].default is not None]


def test_every_choice_and_every_range_is_tested_here() -> None:
    assert CHOSEN.keys() == CHOICES.keys()
    assert OUTSIDE.keys() == RANGES.keys()


@pytest.mark.parametrize("name", CHOSEN)
def test_an_unknown_choice_is_refused_and_the_known_ones_named(tmp_path: Path, name: str) -> None:
    value = CHOSEN[name]
    with pytest.raises(ValueError, match=rf"^{name} is '{value}': it must be one of ") as error:
        make(tmp_path, **{name: value})
    assert all(choice in str(error.value) for choice in CHOICES[name])


@pytest.mark.parametrize("value", [{}, [], ["craft"]])
def test_a_choice_that_is_no_text_is_refused_as_well(tmp_path: Path, value: Any) -> None:
    """Seen to fail: `unhashable type: 'dict'`."""
    with pytest.raises(ValueError, match=r"^epsilon_schedule is .*: it must be one of constant, "):
        make(tmp_path, epsilon_schedule=value)
    with pytest.raises(ValueError, match=r"^retention_terms is .*: it must be one of hidden, "):
        make(tmp_path, retention_terms=[value])


@pytest.mark.parametrize("name", [*NEEDED, *CHOSEN, "retention_terms"])
def test_nothing_is_no_value(tmp_path: Path, name: str) -> None:
    """As ``null`` in a YAML file. Seen to fail: a TypeError, here or in the first step."""
    with pytest.raises(ValueError, match=rf"^{name} is (None|empty): "):
        make(tmp_path, **{name: None})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in OUTSIDE for value in OUTSIDE[name]])
def test_a_value_outside_its_range_is_refused(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is {value}: it must "):
        make(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("retention_terms", {"retention_terms": ["hidden", "weights"]}),
        ("retention_terms", {"retention_terms": []}),
        ("retention_terms is 'hidden': give a list", {"retention_terms": "hidden"}),
        ("retention_weights is 1.0: give a list", {"retention_weights": 1.0}),
        ("retention_weights", {"retention_weights": [INF, 1.0]}),
        ("retention_every is 2.5: it must be at least 1, and whole", {"retention_every": 2.5}),
        ("retention_batch_size is 4.5: it must be at least 1, and whole", {"retention_batch_size": 4.5}),
        ("retention_terms", {"retention_terms": ["hidden", "hidden"]}),
        ("retention_weights", {"retention_weights": [1.0]}),
        ("retention_weights", {"retention_weights": []}),
        ("retention_weights", {"retention_weights": [1.0, -0.1]}),
        ("retention_weights", {"retention_weights": [0.0, 0.0]}),
        ("multiplier_init", {"multiplier_init": 5.0, "multiplier_max": 4.0}),
        ("epsilon_final", {"epsilon_schedule": "linear"}),
        ("epsilon_final", {"epsilon_schedule": "exponential", "epsilon_final": 0.0}),
        ("epsilon_final", {"epsilon_schedule": "cosine", "epsilon_final": NAN}),
        ("epsilon_final", {"epsilon_schedule": "linear", "epsilon_final": INF}),
        ("epsilon_final", {"epsilon_final": 0.1}),
        ("epsilon", {"retention": 0.99, "epsilon": 0.02}),
        ("epsilon_final", {"retention": 0.99, **LINEAR}),
        ("epsilon_schedule linear has no effect", {"retention": 0.99, "epsilon_schedule": "linear"}),
        ("epsilon_schedule linear has no effect", {"epsilon": 0.1, **LINEAR}),
        ("epsilon_probe_steps", {"retention": 0.99, "epsilon_probe_steps": 5}),
        ("merge", {"surgery": "barrier", "merge": "equal"}),
        ("constraints", {"surgery": "barrier", **GROUPED}),
        ("epsilon_per_group", {"epsilon_per_group": {"a": INF}, **GROUPED}),
        ("epsilon_per_group", {"epsilon_per_group": {"a": 0.1}}),
        ("epsilon_per_group", {"epsilon_per_group": {"a": 0.1}, **GROUPED, **LINEAR}),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, field: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"\b{field}\b"):
        make(tmp_path, **settings)


@pytest.mark.parametrize(
    ("idle", "reason", "settings"),
    [
        ("multiplier", "surgery barrier", {"surgery": "barrier", "multiplier": "pi"}),
        ("multiplier_init", "surgery barrier", {"surgery": "barrier", "multiplier_init": 5.0}),
        ("multiplier_lr", "surgery barrier", {"surgery": "barrier", "multiplier_lr": 20.0}),
        ("barrier_strength", "surgery is one_sided", {"barrier_strength": 2.0}),
        ("multiplier_lr", "multiplier fixed", {"multiplier": "fixed", "multiplier_lr": 20.0}),
        ("dual_kp", "multiplier fixed", {"multiplier": "fixed", "dual_kp": 1.0}),
        ("dual_ema", "multiplier fixed", {"multiplier": "fixed", "dual_ema": 0.5}),
        ("dual_kp", "multiplier is ascent", {"dual_kp": 1.0}),
        ("dual_ema", "multiplier is ascent", {"dual_ema": 0.5}),
        ("hidden_distance", r"retention_terms \['output'\]", {"retention_terms": ["output"], "hidden_distance": "l1"}),
        ("retention", "multiplier fixed", {"multiplier": "fixed", "retention": 0.999}),
        ("epsilon_final", "multiplier fixed", {"multiplier": "fixed", **LINEAR}),
        ("epsilon_per_group", "multiplier fixed", {"multiplier": "fixed", "epsilon_per_group": {"a": 0.1}, **GROUPED}),
        ("multiplier", "merge equal", {"merge": "equal", "multiplier": "pi"}),
        ("multiplier_init", "merge equal", {"merge": "equal", "multiplier_init": 5.0}),
        ("multiplier_lr", "merge equal", {"merge": "equal", "multiplier_lr": 5.0}),
        ("multiplier_max", "merge equal", {"merge": "equal", "multiplier_max": 5.0}),
        ("retention", "merge equal", {"merge": "equal", "retention": 0.999}),
        ("epsilon_final", "merge equal", {"merge": "equal", **LINEAR}),
    ],
)
def test_what_another_setting_leaves_without_effect_is_refused(
    tmp_path: Path, idle: str, reason: str, settings: dict[str, Any]
) -> None:
    """By the names of both. Seen to fail: each was accepted, and the run was as without it."""
    with pytest.raises(ValueError, match=rf"^{idle} has no effect here: .*{reason}.*\. Leave it out"):
        make(tmp_path, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"surgery": "barrier", "multiplier_max": 5.0, "conflict_threshold": -0.5},  # its ceiling, and what is logged
        {"surgery": "none", "multiplier_init": 0.0, "conflict_threshold": -0.5},
        {"surgery": "barrier", "multiplier": "ascent", "multiplier_init": 1.0, "multiplier_lr": 0.1},  # the defaults
        {"multiplier": "fixed", "multiplier_init": 1e4, "multiplier_max": 1e4},
        {"method": "ewc", "multiplier_init": 1e4, "multiplier_max": 1e4},
        {"retention_terms": ["hidden"], "hidden_distance": "l1"},
        {"multiplier": "fixed", "epsilon": 0.05},  # what the run is judged by
        {"merge": "equal", "multiplier_lr": 5.0, "constraints": "per_group"},  # λ weighs the groups
        {"surgery": "barrier", "retention": 0.999},
    ],
)
def test_what_has_an_effect_is_accepted(tmp_path: Path, settings: dict[str, Any]) -> None:
    make(tmp_path, **settings)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_baseline_takes_the_file_of_a_run_with_retention(tmp_path: Path, method: str) -> None:
    """As `--config … --method replay` in the guide."""
    of_files = {"retention": 0.99, "multiplier_lr": 20.0, "hidden_distance": "l1", "multiplier_max": 50.0}
    make(tmp_path, method=method, **of_files)


@pytest.mark.parametrize(
    "value",
    [{"a": 0.0}, {"a": -0.1}, {"a": NAN}, {"a": "0.1"}, {"a": None}, {"a": True}, "[0.1]", "0.1", '"a"', '{"a": '],
)
def test_epsilons_of_groups_that_are_no_positive_numbers_are_refused(tmp_path: Path, value: Any) -> None:
    """Seen to fail when JSON that is no mapping was taken for no mapping at all."""
    with pytest.raises(ValueError, match=r"\bepsilon_per_group\b"):
        make(tmp_path, epsilon_per_group=value, **GROUPED)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"conflict_threshold": -1.0},
        {"conflict_threshold": 0.0},
        {"multiplier_init": 0.0},
        {"multiplier_init": 4.0, "multiplier_max": 4.0},
        {"multiplier": "pi", "multiplier_lr": 1e-300, "dual_kp": 0.0, "dual_ema": 0.0},
        {"multiplier": "pi", "dual_ema": 0.999},
        {"retention_weights": [0.0, 1.0]},
        {"retention_every": 1, "retention_batch_size": 1},
        {"epsilon_schedule": "exponential", "epsilon_final": 1e-6},
        {"surgery": "none", "hidden_distance": "cosine", "teacher_mismatch": "allow", "learned_inputs": "allow"},
        {"surgery": "barrier", "barrier_strength": 1e-6},
        {"granularity": "tensor", "merge": "equal"},
        {"epsilon_probe_steps": 0, "task_kl_samples": 0},
        {"retention_terms": ["token_kl", "token_ce", "hidden"]},
    ],
)
def test_the_ends_of_every_range_are_allowed(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = make(tmp_path, **settings)
    assert {name: getattr(config, name) for name in settings} == settings


@pytest.mark.parametrize("epsilons", [{"push the puck": 0.05, "door": 1}, {}])
def test_epsilons_of_groups_come_as_a_mapping_or_as_json(tmp_path: Path, epsilons: dict[str, float]) -> None:
    for given in (epsilons, json.dumps(epsilons)):
        config = make(tmp_path, epsilon_per_group=given, **GROUPED)
        assert config.group_epsilons == epsilons
        assert config.epsilon_per_group == epsilons
    assert make(tmp_path, **GROUPED).group_epsilons == {}
    assert make(tmp_path, epsilon_per_group={}).group_epsilons == {}  # none at all is no contradiction


@pytest.mark.parametrize(("kept", "epsilon"), [(0.99, 0.01), (0.95, 0.05), (0.5, 0.5)])
def test_retention_is_the_same_dial_as_epsilon(tmp_path: Path, kept: float, epsilon: float) -> None:
    """Also where another trainer's arguments have an epsilon, and when the configuration is copied."""
    config = make(tmp_path, retention=kept)
    assert config.epsilon == epsilon
    assert replace(config, max_steps=5).epsilon == epsilon
    other = retaining_config(WithEpsilon)(output_dir=str(tmp_path), use_cpu=True, report_to="none", retention=kept)
    assert retention_settings(other).epsilon == epsilon
    assert other.epsilon == 0.2
    path = make(tmp_path, retention=kept, epsilon=0.6, epsilon_schedule="exponential")
    assert (path.epsilon, path.epsilon_final) == (0.6, epsilon)  # what is kept in the end
    assert replace(path, max_steps=5).epsilon_final == epsilon


@dataclass
class WithEpsilon(TrainingArguments):  # type: ignore[misc]  # transformers is not typed
    epsilon: float = 0.2


def test_weights_belong_to_terms_in_their_order(tmp_path: Path) -> None:
    config = make(tmp_path, retention_terms=["output", "hidden"], retention_weights=[0.25, 4.0])
    assert config.term_weights == {"output": 0.25, "hidden": 4.0}
    assert make(tmp_path, retention_terms=["output"]).term_weights == {"output": 1.0}


def test_defaults_are_not_shared_between_configurations(tmp_path: Path) -> None:
    make(tmp_path).retention_terms.append("x")
    assert make(tmp_path).retention_terms == ["hidden", "output"]


def own_fields() -> list[Any]:
    inherited = {field.name for field in fields(TrainingArguments)}
    return [field for field in fields(CraftConfig) if field.name not in inherited]


def test_every_setting_of_craft_has_a_help_text_and_a_default() -> None:
    assert len(own_fields()) >= 25
    for field in own_fields():
        assert len(field.metadata["help"]) > 10, field.name
        assert field.default is not MISSING or field.default_factory is not MISSING, field.name
    assert {field.name for field in own_fields()} >= CHOICES.keys() | RANGES.keys()


def test_what_differs_from_huggingface_is_on_purpose(tmp_path: Path) -> None:
    plain = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    config = make(tmp_path)
    names = [field.name for field in fields(TrainingArguments) if field.init and field.name != "logging_dir"]
    changed = {name for name in names if getattr(plain, name) != getattr(config, name)}
    assert changed == {"remove_unused_columns"}


# the methods

RECIPES: dict[str, Any] = {  # loss, surgery, multiplier rule, λ at the start with multiplier_init 3
    "craft": (DistillationLoss, "one_sided", "ascent", 3.0),
    "plain": (None, "one_sided", "ascent", 3.0),
    "weighted_sum": (DistillationLoss, "none", "fixed", 3.0),
    "replay": (ReplayLoss, "none", "fixed", 3.0),
    "agem": (ReplayLoss, "one_sided", "fixed", 0.0),
    "l2": (L2SPLoss, "none", "fixed", 3.0),
    "ewc": (EWCLoss, "none", "fixed", 3.0),
}


def test_every_method_has_a_recipe_here() -> None:
    assert RECIPES.keys() == METHODS.keys()


@pytest.mark.parametrize("method", RECIPES)
def test_a_method_is_its_recipe(tmp_path: Path, method: str) -> None:
    loss, surgery, multiplier, first = RECIPES[method]
    config = make(tmp_path, method=method, multiplier_init=first or 1.0)
    assert config.recipe == Recipe(loss, surgery, multiplier, first)
    assert config.controller == Controller(multiplier, 0.1, 10.0, 0.9, 100.0)


def test_craft_takes_everything_from_the_configuration(tmp_path: Path) -> None:
    config = make(tmp_path, surgery="symmetric", multiplier="pi", multiplier_init=0.5, multiplier_lr=0.3)
    assert config.recipe == Recipe(DistillationLoss, "symmetric", "pi", 0.5)
    assert config.controller == Controller("pi", 0.3, 10.0, 0.9, 100.0)


BELONGS_TO_CRAFT = {
    "surgery": "none",
    "merge": "equal",
    "granularity": "layer",
    "multiplier": "pi",
    "constraints": "per_group",
    "epsilon_probe_steps": 5,
}


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"craft"}))
@pytest.mark.parametrize("name", BELONGS_TO_CRAFT)
def test_a_baseline_refuses_what_it_sets_itself(tmp_path: Path, method: str, name: str) -> None:
    """Rather than ignore it."""
    value = BELONGS_TO_CRAFT[name]
    with pytest.raises(ValueError, match=rf"^{name} {value} has no effect with method {method}, which sets its own"):
        make(tmp_path, method=method, **{name: value})
    make(tmp_path, **{name: value})


def test_retention_may_be_set_again(tmp_path):
    """As a search does between two trials. Seen to fail: the epsilon of the trial before was taken for a given one."""
    config = make(tmp_path, retention=0.9)
    for kept, epsilon in ((0.95, 0.05), (0.99, 0.01)):
        config.retention = kept
        config.check()
        assert config.epsilon == epsilon
    config.epsilon = 0.3
    with pytest.raises(ValueError, match=r"retention 0.99 sets epsilon to 0.01, and epsilon is 0.3"):
        config.check()
