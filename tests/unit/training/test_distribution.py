"""Processes that were started together train together, or not at all."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import ParallelismConfig
from accelerate.utils import DistributedType
from torch import nn
from toy import ToyModel, ToyTask, toy_anchors

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.training.distribution import (
    as_weights_are,
    hidden_by,
    require_joined_processes,
    require_supported_mode,
    require_whole,
)
from craft_trainer.training.finite import require_finite_run
from craft_trainer.training.guards import GradientGuard
from craft_trainer.training.joint import require_possible
from craft_trainer.training.settings import RetentionSettings


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    """Seen to fail when the two numbers are not compared."""
    args = SimpleNamespace(world_size=1, output_dir="outputs/craft")
    require_joined_processes(args)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"2 processes were started but 1 would .* in outputs/craft"):
        require_joined_processes(args)


def accelerator(mode=DistributedType.NO, fsdp_version=None, parallelism=None):
    plugin = None if fsdp_version is None else SimpleNamespace(fsdp_version=fsdp_version)
    return SimpleNamespace(
        distributed_type=mode, state=SimpleNamespace(fsdp_plugin=plugin), parallelism_config=parallelism
    )


@pytest.mark.parametrize(
    ("seen", "gpus", "fault"),
    [
        ({"mode": DistributedType.MEGATRON_LM}, 1, "cannot see gradients under MEGATRON_LM"),
        ({"mode": DistributedType.XLA}, 1, "cannot see gradients under XLA"),
        ({}, 2, "sees 2 GPUs in one process"),
        ({"parallelism": ParallelismConfig(tp_size=2)}, 1, "tensor, context or sequence parallelism"),
        ({"parallelism": ParallelismConfig(cp_size=2)}, 1, "tensor, context or sequence parallelism"),
        ({"parallelism": ParallelismConfig(sp_size=2)}, 1, "tensor, context or sequence parallelism"),
    ],
)
def test_a_mode_that_neither_backward_can_train_in_is_refused(seen, gpus, fault):
    with pytest.raises(ValueError, match=fault):
        require_supported_mode(accelerator(**seen), SimpleNamespace(n_gpu=gpus))


@pytest.mark.parametrize("seen", [{}, {"mode": DistributedType.FSDP, "fsdp_version": 2}])
def test_what_shows_gradients_is_not(seen):
    require_supported_mode(accelerator(**seen), SimpleNamespace(n_gpu=1))


@pytest.mark.parametrize(
    ("seen", "engine"),
    [
        ({}, None),
        ({"mode": DistributedType.MULTI_GPU}, None),
        ({"mode": DistributedType.DEEPSPEED}, "DeepSpeed"),
        ({"mode": DistributedType.FSDP, "fsdp_version": 1}, "FSDP version 1"),
        ({"mode": DistributedType.FSDP, "fsdp_version": 2}, None),
    ],
)
def test_engines_that_hide_gradients_are_known(seen, engine):
    assert hidden_by(accelerator(**seen)) == engine


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, r"DeepSpeed is asked for .* pip install deepspeed"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, r"DeepSpeed is asked for .* pip install deepspeed"),
        ({"fsdp": "full_shard"}, r"FSDP version 1 is asked for .* needs an accelerator"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, r"FSDP version 1 is asked for .* needs an accelerator"),
    ],
)
def test_what_this_machine_lacks_is_named_before_an_engine_starts(tmp_path, monkeypatch, given, fault):
    """Seen to fail without the checks: "No package metadata was found", "no available devices" when training began."""
    monkeypatch.setattr("craft_trainer.training.distribution.find_spec", lambda name: None)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    for name in [name for name in given if name.isupper()]:
        monkeypatch.setenv(name, given.pop(name))
    with pytest.raises((ImportError, ValueError), match=fault):
        CraftConfig(str(tmp_path), use_cpu=True, **given)


def test_surgery_under_deepspeed_is_refused_before_it_starts(tmp_path, monkeypatch):
    """Whatever the base class would say of the engine. Seen to fail when it is looked for after the base's start."""
    config, joint = (CraftConfig(str(tmp_path), use_cpu=True, surgery=surgery) for surgery in ("one_sided", "none"))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=r"cannot see gradients under DeepSpeed, .* set surgery none .*or use DDP"):
        CraftTrainer(nn.Linear(1, 1), config, anchors=tmp_path)
    config.method = "agem"
    with pytest.raises(ValueError, match="choose another method"):
        require_possible(config)
    require_possible(joint)


def test_surgery_under_fsdp_version_1_is_refused_before_it_starts(tmp_path, monkeypatch):
    """As above."""
    config, joint = (CraftConfig(str(tmp_path), use_cpu=True, surgery=surgery) for surgery in ("one_sided", "none"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(ValueError, match=r"under FSDP version 1, .* surgery none .*or FSDP version 2"):
        CraftTrainer(nn.Linear(1, 1), config, anchors=tmp_path)
    require_possible(joint)
    monkeypatch.setenv("FSDP_VERSION", "2")
    require_possible(config)


def test_a_model_that_was_split_when_it_was_loaded_is_refused():
    """DeepSpeed marks its parameters so."""
    network = nn.Linear(1, 1)
    require_whole(network, "it cannot learn", "wait")
    network.weight.ds_id = 0
    with pytest.raises(ValueError, match=r"ZeRO 3 has split the model .*, so it cannot learn: load it .*, or wait"):
        require_whole(network, "it cannot learn", "wait")


@pytest.mark.parametrize(
    ("anchors", "fault"),
    [
        ("auto", "so anchors: auto cannot ask it for anchors: load it before .*, or build a cache of it"),
        ("cache", "so its weights cannot be compared .*: load it before .*, or set teacher_mismatch: allow"),
    ],
)
def test_anchors_of_a_model_that_was_split_are_refused_by_the_trainer(tmp_path, anchors, fault):
    """Seen to fail without the two checks: auto asks the model, of which there are parts."""
    given = toy_anchors(tmp_path / "cache") if anchors == "cache" else anchors
    network = ToyModel()
    network.encoder.weight.ds_id = 0
    with pytest.raises(ValueError, match=f"ZeRO 3 has split the model .*{fault}"):
        CraftTrainer(network, CraftConfig(str(tmp_path), use_cpu=True), anchors=given, train_dataset=ToyTask())
    assert not (tmp_path / "_anchors").exists()


@pytest.mark.parametrize("method", ["l2", "ewc"])
def test_what_needs_whole_parameters_is_refused_where_they_are_split(tmp_path, monkeypatch, method):
    """The penalty of this process's part would be taken for that of all."""
    monkeypatch.setattr("craft_trainer.training.retention.splits_parameters", lambda accelerator: True)
    config = CraftConfig(str(tmp_path), use_cpu=True, method=method)
    with pytest.raises(ValueError, match=f"method {method} does not support FSDP or DeepSpeed ZeRO 3: use DDP"):
        CraftTrainer(ToyModel(), config, anchors=toy_anchors(tmp_path / "cache"), train_dataset=ToyTask())


def test_several_optimizers_are_refused():
    """Retention merges the gradients of one; joint adds to the loss, whatever steps."""
    prepared = SimpleNamespace(_optimizers=[object(), object()], state=accelerator().state, distributed_type="NO")
    GradientGuard(prepared, RetentionSettings(surgery="none", backward="joint")).on_train_begin(model=nn.Linear(1, 1))
    with pytest.raises(ValueError, match="2 optimizers were prepared: retention merges the gradients of one"):
        GradientGuard(prepared, RetentionSettings()).on_train_begin(model=nn.Linear(1, 1))


def test_a_part_of_a_weight_that_is_not_finite_is_seen():
    """DeepSpeed ZeRO 3 leaves the parameter empty and its part beside it. Seen to fail when the parameter is asked."""
    network = nn.Linear(1, 1)
    network.weight.data, network.weight.ds_tensor = torch.empty(0), torch.tensor([1.0])
    network.weight.ds_numel, network.weight.ds_zero_partition_rank = 1, 0
    run = SimpleNamespace(output_dir="none"), SimpleNamespace(global_step=1)
    require_finite_run(*run, model=network)
    network.weight.ds_tensor[0] = torch.nan
    with pytest.raises(FloatingPointError, match="weight is not finite any more"):
        require_finite_run(*run, model=network)


@pytest.mark.parametrize(("rank", "num_own"), [(0, 2), (1, 1), (2, 0)])
def test_what_pads_a_part_of_a_weight_is_not_asked(rank, num_own):
    """Three numbers in parts of two: DeepSpeed leaves the rest as the memory was. Seen to fail in a run of ZeRO 3."""
    network = nn.Linear(3, 1, bias=False)
    part = torch.tensor([1.0] * num_own + [torch.nan] * (2 - num_own))
    network.weight.data, network.weight.ds_tensor = torch.empty(0), part
    network.weight.ds_numel, network.weight.ds_zero_partition_rank = 3, rank
    run = SimpleNamespace(output_dir="none"), SimpleNamespace(global_step=1)
    require_finite_run(*run, model=network)
    part[:num_own] = torch.nan
    if num_own:
        with pytest.raises(FloatingPointError, match="weight is not finite any more"):
            require_finite_run(*run, model=network)


@pytest.mark.parametrize(("mode", "expected"), [("DEEPSPEED", torch.bfloat16), ("MULTI_CPU", torch.float32)])
def test_floats_of_anchors_are_of_the_type_of_the_weights_under_deepspeed_alone(mode, expected):
    """Everywhere else autocast does it. Seen to fail without the cast; whole numbers and words stay."""
    inputs = {"x": torch.ones(2), "nested": [torch.ones(1)], "ids": torch.arange(2), "text": ["a", "b"]}
    found = as_weights_are(inputs, nn.Linear(1, 1).bfloat16(), accelerator(DistributedType[mode]))
    assert (found["x"].dtype, found["nested"][0].dtype) == (expected, expected)
    assert found["ids"].dtype == torch.int64
    assert found["text"] == ["a", "b"]
