"""Adapters of policies: LeRobot's settings and targets; what LeRobot loads again; what has no effect is refused."""

import json
import re
import sys

import pytest
import torch
from lerobot.configs.default import PeftConfig as LeRobotPeft
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from policies import batch_of
from safetensors.torch import load_file, save_file

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.features import extract, feature_specs, teacher_features
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.noise import NOISE
from craft_trainer.models.saved import require_loadable

WITH_TARGETS = ["smolvla", "pi0", "pi05"]  # of LeRobot's own
LINEAR = {"r": 2, "target_modules": ["linear1", "linear2"]}  # of an ACT
SETTINGS = {
    "lora": {"r": 2},
    "alpha": {"r": 2, "lora_alpha": 64},
    "miss": {"r": 2, "method_type": "MISS"},
    "whole modules": {"r": 2, "full_training_modules": ["action_out_proj"], "target_modules": ["q_proj"]},
}


@pytest.fixture
def base(make_twin, tmp_path):
    """``base(kind)``: the folder of a policy."""

    def save(kind):
        make_twin(kind).save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return save


@pytest.fixture
def act(tiny_policy, tmp_path):
    """The folder of an ACT policy."""
    tiny_policy().save_pretrained(tmp_path / "act")
    return tmp_path / "act"


def adapted(folder, settings=None, *, moved=False):
    """The policy in ``folder`` with a fresh adapter, or one that training has moved."""
    model = PolicyModel.from_pretrained(folder)
    model.add_adapter(settings or {"r": 2})
    if moved:
        move(model)
    return model


def move(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


def output(model, batch):
    return extract(model, batch, [], output=True).output


@pytest.mark.parametrize("kind", WITH_TARGETS)
def test_the_adapter_is_lerobots_own(base, kind):
    """The same parameters are trained as by `lerobot-train --peft.r 2`: its targets, and nothing else."""
    folder = base(kind)
    policy = PolicyModel.from_pretrained(folder).policy
    policy.config.pretrained_path = folder
    theirs = policy.wrap_with_peft(peft_cli_overrides=vars(LeRobotPeft(r=2)))
    model = adapted(folder)
    trained = {f"base_model.model.{name}": p.shape for name, p in model.policy.named_parameters() if p.requires_grad}
    assert trained == {name: p.shape for name, p in theirs.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trained)
    assert model.policy_config.use_peft


@pytest.mark.parametrize("kind", WITH_TARGETS)
def test_a_fresh_adapter_is_its_base(base, kind):
    """So a cache of the base holds, and L_retain begins at 0."""
    folder = base(kind)
    plain, fresh = PolicyModel.from_pretrained(folder), adapted(folder)
    assert fresh.fingerprint() == plain.fingerprint()
    assert [fresh.module_path(layer) for layer in (0, -1)] == [plain.module_path(layer) for layer in (0, -1)]
    batch = batch_of(plain)
    assert torch.equal(output(fresh, batch), output(plain, batch))
    move(fresh)
    assert fresh.fingerprint()["weights"] != plain.fingerprint()["weights"]
    assert not torch.equal(output(fresh, batch), output(plain, batch))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_fresh_adapter_of_any_kind_does_not_change_the_fingerprint(base, settings):
    """Seen to fail for MISS, whose one part is all zeros."""
    folder = base("smolvla")
    model = adapted(folder, settings)
    assert model.fingerprint() == PolicyModel.from_pretrained(folder).fingerprint()
    move(model)
    assert model.fingerprint()["weights"] != PolicyModel.from_pretrained(folder).fingerprint()["weights"]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_adapter_survives_save_and_load(base, settings, tmp_path):
    """Bit for bit, the alpha of the adapter included, and by LeRobot's loader as well."""
    model = adapted(base("smolvla"), settings, moved=True)
    model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved/model.safetensors").exists()
    require_loadable(tmp_path / "saved", model)
    loaded = PolicyModel.from_pretrained(tmp_path / "saved")
    batch = batch_of(model)
    assert torch.equal(output(loaded, batch), output(model, batch))
    assert loaded.fingerprint() == model.fingerprint()
    trained = [[name for name, p in each.named_parameters() if p.requires_grad] for each in (model, loaded)]
    assert trained[0] == trained[1]
    theirs = as_lerobot_loads(tmp_path / "saved").get_base_model()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, model.policy.state_dict()[name]), name


def as_lerobot_loads(folder):
    """What `make_policy`, the way of `lerobot-eval` and `lerobot-train`, does for ``--policy.path``."""
    config = PreTrainedConfig.from_pretrained(folder)
    assert config.use_peft
    settings = json.loads((folder / "adapter_config.json").read_text())
    policy = get_policy_class(config.type).from_pretrained(settings["base_model_name_or_path"], config=config)
    return PeftModel.from_pretrained(policy, str(folder), is_trainable=True)


@pytest.mark.parametrize("kind", WITH_TARGETS)
def test_a_given_state_dict_is_written(base, kind, tmp_path):
    model = adapted(base(kind), moved=True)
    model.save_pretrained(tmp_path / "a", {name: tensor.clone() for name, tensor in model.state_dict().items()})
    model.save_pretrained(tmp_path / "b")
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", WITH_TARGETS)
def test_the_live_teacher_is_the_base(base, kind):
    """Bit for bit what a cache of the base holds, the noise of each row included, whatever the adapter."""
    folder = base(kind)
    model, plain = adapted(folder, moved=True), PolicyModel.from_pretrained(folder)
    specs = feature_specs([model.module_path(-1)], ["none"])
    raw = {key: value for key, value in batch_of(plain).items() if not key.startswith(NOISE)}
    live = AdapterAnchors(model, lambda rows: raw, ["old"] * 3, specs)
    expected = teacher_features(plain, raw | plain.noise([2, 0, 1]), specs, num_tokens=2)
    found = live.batch([2, 0, 1]).teacher
    assert torch.equal(found.output, expected.output)
    assert all(map(torch.equal, found.hidden.values(), expected.hidden.values()))
    live.check_teacher(model)


def test_an_adapter_is_loaded_in_place(base, tmp_path):
    """Into the same parameters, which an optimizer may have; one of another rank is refused."""
    folder = base("smolvla")
    saved, model = adapted(folder, moved=True), adapted(folder)
    saved.save_pretrained(tmp_path / "saved")
    before = [parameter.data_ptr() for parameter in model.parameters()]
    model.load_checkpoint(tmp_path / "saved")
    assert [parameter.data_ptr() for parameter in model.parameters()] == before
    assert model.fingerprint() == saved.fingerprint()
    with pytest.raises(ValueError, match=r"r is 3, and the adapter in .*saved was trained with 2: give 2"):
        adapted(folder, {"r": 3}).load_checkpoint(tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match=r"smolvla holds no adapter_model.safetensors"):
        model.load_checkpoint(folder)
    with pytest.raises(FileNotFoundError, match=r"saved holds no model.safetensors"):
        PolicyModel.from_pretrained(folder).load_checkpoint(tmp_path / "saved")


def test_a_policy_that_peft_has_wrapped_in_a_script(act):
    """By `get_peft_model` or `wrap_with_peft`: it acts, is trained and is saved as one that `add_adapter` made."""
    plain = PolicyModel.from_pretrained(act)
    peft_policy = get_peft_model(plain.policy, LoraConfig(r=2, target_modules=["linear1", "linear2"]))
    with pytest.raises(ValueError, match=r"does not say what it is on.*base_model_name_or_path"):
        PolicyModel(peft_policy, plain.preprocessor, plain.postprocessor)
    peft_policy.peft_config["default"].base_model_name_or_path = str(act)
    model = PolicyModel(peft_policy, plain.preprocessor, plain.postprocessor)
    assert as_anchored_model(model) is model
    assert model.peft_model is peft_policy
    assert model.fingerprint() == PolicyModel.from_pretrained(act).fingerprint()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert trained == {name for name, p in adapted(act, LINEAR).named_parameters() if p.requires_grad}


def test_an_adapter_around_the_module_of_policy_and_processors_is_refused(act, tmp_path):
    """PEFT alone would save it. It was an AttributeError, or without anchors a pickle that nothing loads."""
    model = get_peft_model(PolicyModel.from_pretrained(act), LoraConfig(target_modules=["linear1"]))
    with pytest.raises(TypeError, match=r"around a PolicyModel.*PolicyModel\(get_peft_model\(policy"):
        as_anchored_model(model)
    config = CraftConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(TypeError, match=r"around a PolicyModel.*put it inside"):
        CraftTrainer(model, config)


def test_adapters_that_lerobot_does_not_load_again_are_refused(act):
    plain = PolicyModel.from_pretrained(act)
    two = get_peft_model(plain.policy, LoraConfig(target_modules=["linear1"]))
    two.add_adapter("other", LoraConfig(target_modules=["linear2"]))
    with pytest.raises(ValueError, match=r"adapters \['default', 'other'\]: LeRobot loads one"):
        PolicyModel(two, plain.preprocessor, plain.postprocessor)


def test_an_adapter_outside_of_the_layers_is_refused(act):
    plain = PolicyModel.from_pretrained(act)
    prompt = get_peft_model(plain.policy, IA3Config(target_modules=["linear1"], feedforward_modules=["linear1"]))
    prompt.peft_config["default"] = PrefixTuningConfig(num_virtual_tokens=2)
    with pytest.raises(TypeError, match=r"PREFIX_TUNING trains a prompt, which a policy does not read: use LORA"):
        PolicyModel(prompt, plain.preprocessor, plain.postprocessor)


def test_an_adapter_that_changes_the_forward_pass_is_refused(act):
    """AdaLoRA adds to the loss there. Without the check it would be trained without that part."""
    plain = PolicyModel.from_pretrained(act)
    adaptive = get_peft_model(plain.policy, AdaLoraConfig(target_modules=["linear1"], total_step=10))
    with pytest.raises(TypeError, match=r"ADALORA adds to the forward pass outside of the layers.*: use LORA"):
        PolicyModel(adaptive, plain.preprocessor, plain.postprocessor)


def test_peft_that_is_not_installed_is_named(act, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"an adapter needs PEFT: pip install 'craft-trainer\[peft\]'"):
        PolicyModel.from_pretrained(act).add_adapter({"r": 2} | LINEAR)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 2} | LINEAR, r"peft: .*`rank`.*LeRobot's settings are target_modules, full_training_modules, method"),
        ({"r": "wide"}, r"peft: `r`: Couldn't parse 'wide' into an int"),
        ({"method_type": "lorax"} | LINEAR, r"method_type is 'lorax': choose PROMPT_TUNING, .*LORA"),
        ({"method_type": "IA3"} | LINEAR, r"peft: IA3 .*unexpected keyword argument 'r'"),
        ({"method_type": "MISS", "lora_alpha": 4} | LINEAR, r"peft: MISS .*unexpected keyword argument 'lora_alpha'"),
        ({"r": 2}, r"'act' does not define default target_modules. Please pass --peft.target_modules explicitly"),
        ({"r": 2, "target_modules": ["q_proj"]}, r"[Tt]arget modules .*q_proj.* not found"),
        ({"r": 0} | {"target_modules": ["linear1"]}, r"`r` should be a positive integer"),
        ({"target_modules": "all-linear"}, r"self_attn.out_proj is never called.*linear1 and linear2 of a act"),
    ],
)
def test_settings_that_would_fail_or_do_nothing(act, settings, said):
    with pytest.raises(ValueError, match=said):
        adapted(act, settings)


def test_an_adapter_is_put_on_a_checkpoint_that_has_none(act, tiny_policy, tmp_path):
    with pytest.raises(ValueError, match=r"names the checkpoint that it is on: save the policy, and load it"):
        tiny_policy().add_adapter(LINEAR)
    adapted(act, LINEAR).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"adapter is an adapter, which goes on being trained as it is"):
        PolicyModel.from_pretrained(tmp_path / "adapter").add_adapter(LINEAR)


def test_what_is_missing_of_an_adapter_is_named(act, tmp_path):
    """LeRobot loads what it finds, and trains or rolls out the rest as it was initialised."""
    folder = tmp_path / "adapter"
    adapted(act, LINEAR, moved=True).save_pretrained(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    lost = next(name for name in weights if "lora_B" in name)
    save_file({n: t for n, t in weights.items() if n != lost}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=rf"missing .*{re.escape(lost.removesuffix('.weight'))}"):
        PolicyModel.from_pretrained(folder)
    save_file(weights, folder / "adapter_model.safetensors")

    edit(folder / "config.json", use_peft=False)
    with pytest.raises(ValueError, match=r"config.json: use_peft is false.*set use_peft to true"):
        PolicyModel.from_pretrained(folder)
    edit(folder / "config.json", use_peft=True)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"adapter_config.json is on .*gone, which is not there"):
        PolicyModel.from_pretrained(folder)
    edit(folder / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"base_model_name_or_path is missing"):
        PolicyModel.from_pretrained(folder)
    (folder / "adapter_config.json").rename(folder / "away.json")
    with pytest.raises(ValueError, match=r"config.json: use_peft is true, and there is no adapter_config.json"):
        PolicyModel.from_pretrained(folder)
    (folder / "away.json").rename(folder / "adapter_config.json")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config.json.*that of an adapter's policy lies beside"):
        PolicyModel.from_pretrained(folder)


def test_a_merged_adapter_is_a_whole_policy(act, tmp_path):
    """PEFT leaves use_peft true in the configuration, with which LeRobot would look for an adapter."""
    model = adapted(act, LINEAR, moved=True)
    merged = PolicyModel(model.peft_model.merge_and_unload(), model.preprocessor, model.postprocessor)
    merged.save_pretrained(tmp_path / "merged")
    loaded = PolicyModel.from_pretrained(tmp_path / "merged")
    assert loaded.peft_model is None
    assert not loaded.policy_config.use_peft


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
