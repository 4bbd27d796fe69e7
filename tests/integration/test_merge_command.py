"""``craft-trainer merge``: from a ruined checkpoint back to its teacher, for policies, language models, adapters."""

import json
import shutil

import pytest
import torch
from command_words import flags
from lm_folders import save_lines, save_tiny_lm
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from craft_trainer.cli.main import main
from craft_trainer.language.checkpoints import load_checkpoint
from craft_trainer.training.interpolation import WeightLine

TRAIN = {"max_steps": 6, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}


def merge(place, folder, **options):
    settings = {"teacher": place / "teacher", "anchors": place / "anchors", "output_dir": folder, "device": "cpu"}
    return main(["merge", *flags(**settings | options)])


def weights(folder):
    return load_file(next(folder.glob("*model.safetensors")))


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def moved(tensors, scale=0.05):
    generator = torch.Generator().manual_seed(3)
    return {
        name: tensor + scale * torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


@pytest.fixture(scope="module")
def policies(tmp_path_factory, tiny_policy, tiny_dataset):
    """A teacher, its anchors, and what was made of it."""
    folder = tmp_path_factory.mktemp("policies")
    tiny_policy().save_pretrained(folder / "teacher")
    shutil.copytree(folder / "teacher", folder / "tuned")
    save_file(moved(weights(folder / "teacher")), folder / "tuned/model.safetensors")
    built = {"teacher": folder / "teacher", "dataset": tiny_dataset, "output_dir": folder / "anchors", "anchors": 20}
    assert main(["cache", "build", *flags(**built)]) == 0
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """The same of a language model, trained whole and by an adapter."""
    folder = tmp_path_factory.mktemp("texts")
    save_tiny_lm(folder / "teacher")
    save_lines(folder / "old.jsonl", [{"text": "hello world " + "the answer is yes " * (n % 5)} for n in range(20)])
    save_lines(folder / "new.jsonl", [{"prompt": f"Where is the puck {n}?", "completion": " left"} for n in range(12)])
    built = {"teacher": folder / "teacher", "dataset": folder / "old.jsonl", "output_dir": folder / "anchors"}
    assert main(["cache", "build", *flags(**built, anchors=16, num_tokens=8)]) == 0
    run = TRAIN | {"model": folder / "teacher", "dataset": folder / "new.jsonl", "learning_rate": 0.02}
    assert main(["train", *flags(**run, output_dir=folder / "tuned")]) == 0
    assert main(["train", *flags(**run, output_dir=folder / "adapter", lora_rank=2)]) == 0
    return folder


def test_a_policy_is_merged_up_to_epsilon(policies, tiny_dataset, tmp_path, capsys):
    """Its folder is LeRobot's own; the curve is printed, written and drawn."""
    from lerobot.policies.act.modeling_act import ACTPolicy

    out = tmp_path / "merged"
    assert merge(policies, out, tuned=policies / "tuned", dataset=tiny_dataset, points=5) == 0
    said = capsys.readouterr().out
    document = json.loads((out / "merge.json").read_text())
    chosen, curve = document["chosen"], document["curve"]
    assert curve[0]["alpha"] == 0
    assert curve[0]["retention_loss"] < 1e-6
    assert {0, 0.25, 0.5, 0.75, 1} < {point["alpha"] for point in curve}
    assert 0 < chosen["alpha"] < 1
    assert chosen["retention_loss"] <= 0.01
    above = [point for point in curve if chosen["alpha"] < point["alpha"] <= chosen["alpha"] + 2**-9]
    assert above
    assert min(point["retention_loss"] for point in above) > 0.01
    assert said.count("\n0.") + said.count("\n1.") == len(curve)
    assert "task loss" in said
    assert all(point["task_loss"] > 0 for point in curve)
    assert (out / "merge.svg").read_text().count("<svg") == 1
    teacher, tuned, merged = (weights(folder) for folder in (policies / "teacher", policies / "tuned", out))
    expected = {name: a + chosen["alpha"] * (tuned[name] - a) for name, a in teacher.items()}
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-6)
    loaded = ACTPolicy.from_pretrained(out)
    assert_same({name: tensor for name, tensor in loaded.state_dict().items() if name in merged}, merged)
    files = {"merge.json", "merge.svg"}
    assert {path.name for path in out.iterdir()} - files == {path.name for path in (policies / "teacher").iterdir()}


@pytest.mark.parametrize("family", ["policies", "texts"])
def test_both_ends_are_the_checkpoints_bit_for_bit(request, family, tmp_path, capsys):
    """Seen to fail with θ_A + 1·(θ_B − θ_A) for α = 1, and with the weights left at the last α that was measured."""
    place = request.getfixturevalue(family)
    assert merge(place, tmp_path / "all", tuned=place / "tuned", epsilon=1e9, points=2) == 0
    assert_same(weights(tmp_path / "all"), weights(place / "tuned"))
    far = shutil.copytree(place / "tuned", tmp_path / "far")
    save_file(moved(weights(place / "teacher"), 10.0), far / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    assert merge(place, tmp_path / "none", tuned=far, epsilon=1e-6, points=2) == 0
    assert "these are the teacher's own weights" in capsys.readouterr().out
    assert_same(weights(tmp_path / "none"), weights(place / "teacher"))


def test_a_language_model_is_merged_into_one_that_transformers_loads(texts, tmp_path):
    """With the task loss of the new texts; by YAML."""
    out, file = tmp_path / "out", tmp_path / "merge.yaml"
    file.write_text(f"epsilon: 0.01\ndataset: {texts / 'new.jsonl'}\npoints: 3\nretention_terms: [token_kl]\n")
    assert merge(texts, out, tuned=texts / "tuned", config=file) == 0
    document = json.loads((out / "merge.json").read_text())
    assert 0 < document["chosen"]["alpha"] < 1
    assert document["curve"][-1]["task_loss"] < document["curve"][0]["task_loss"]
    model = AutoModelForCausalLM.from_pretrained(out)
    saved = weights(out)
    assert_same(saved, {name: tensor for name, tensor in model.state_dict().items() if name in saved})
    assert len(AutoTokenizer.from_pretrained(out)) == model.config.vocab_size


def test_an_adapter_grows_by_its_product(texts, tmp_path):
    """B is scaled and A stays, so the update is α times that of the adapter. Seen to fail with both scaled."""
    from peft import PeftModel

    out = tmp_path / "out"
    assert merge(texts, out, tuned=texts / "adapter", epsilon=0.005, points=3) == 0
    alpha = json.loads((out / "merge.json").read_text())["chosen"]["alpha"]
    assert 0 < alpha < 1
    whole = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(texts / "teacher"), folder).merge_and_unload()
        for folder in (texts / "adapter", out)
    ]
    base = AutoModelForCausalLM.from_pretrained(texts / "teacher").state_dict()
    tuned, merged = (model.state_dict() for model in whole)
    expected = {name: tensor + alpha * (tuned[name] - tensor) for name, tensor in base.items()}
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    assert merge(texts, tmp_path / "all", tuned=texts / "adapter", epsilon=1e9, points=2) == 0
    assert_same(weights(tmp_path / "all"), weights(texts / "adapter"))
    teacher, adapter = (load_checkpoint(str(texts / name), dtype=None).model for name in ("teacher", "adapter"))
    WeightLine(teacher, adapter).move(0.0)
    assert_same(adapter.merge_and_unload().state_dict(), base)


def test_the_adapter_of_a_policy_grows_by_its_product(policies, tmp_path, capsys):
    """What is written is an adapter on the same base; one that is the teacher has no line to another."""
    from craft_trainer.models.lerobot import PolicyModel

    model = PolicyModel.from_pretrained(policies / "teacher")
    model.add_adapter({"r": 2, "target_modules": ["linear1", "linear2"]})
    trained = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, value in moved(trained, 0.3).items():
        trained[name].copy_(value)
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    model.save_pretrained(adapter)
    assert merge(policies, out, tuned=adapter, epsilon=0.005, points=3) == 0
    alpha = json.loads((out / "merge.json").read_text())["chosen"]["alpha"]
    assert 0 < alpha < 1
    base = PolicyModel.from_pretrained(policies / "teacher").policy.state_dict()
    tuned, merged = (
        PolicyModel.from_pretrained(folder).peft_model.merge_and_unload().state_dict() for folder in (adapter, out)
    )
    expected = {name: tensor + alpha * (tuned[name] - tensor) for name, tensor in base.items()}
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    capsys.readouterr()
    assert merge(policies, tmp_path / "again", teacher=adapter, tuned=adapter) == 1
    assert refused(capsys, "was made by a teacher with weights") is True


def refused(capsys, *words):
    error = capsys.readouterr().err
    return all(word in error for word in words) or error


def test_policies_that_have_no_line_between_them_are_refused(policies, tiny_policy, tmp_path, capsys):
    """Other statistics, another size; a folder that is there, anchors of another teacher, an idle option."""
    floor = tiny_policy(min_std=5.0)
    floor.save_pretrained(tmp_path / "floor")
    assert merge(policies, tmp_path / "out", tuned=tmp_path / "floor") == 1
    assert refused(capsys, "processors of", "normalisation statistics", "--statistics keep") is True
    tiny_policy(dim_model=32).save_pretrained(tmp_path / "wide")
    assert merge(policies, tmp_path / "out", tuned=tmp_path / "wide") == 1
    assert refused(capsys, "configurations of", str(tmp_path / "wide")) is True
    assert merge(policies, tmp_path / "out", teacher=policies / "tuned", tuned=policies / "tuned") == 1
    assert refused(capsys, "was made by a teacher with weights") is True
    assert merge(policies, tmp_path / "out", tuned=policies / "tuned", max_length=8) == 1
    assert refused(capsys, "max_length has no effect here: it is an option of language models") is True
    assert merge(policies, tmp_path / "out", tuned=policies / "tuned", task_samples=8) == 1
    assert refused(capsys, "task_samples has no effect here: it is of the task loss") is True
    assert merge(policies, tmp_path / "out", tuned=policies / "tuned", retention_terms="token_kl") == 1
    assert refused(capsys, "'token_kl' cannot be held") is True
    assert not (tmp_path / "out").exists()
    assert merge(policies, tmp_path / "wide", tuned=policies / "tuned") == 1
    assert refused(capsys, "delete it, or choose another folder") is True


def test_language_models_that_have_no_line_between_them_are_refused(texts, tmp_path, capsys):
    """Another size, another chat template, a finer type of number, an idle option."""
    save_tiny_lm(tmp_path / "wide", intermediate_size=64)
    assert merge(texts, tmp_path / "out", tuned=tmp_path / "wide") == 1
    assert refused(capsys, "differ in intermediate_size") is True
    save_tiny_lm(tmp_path / "chat", chat="{{ messages[0]['content'] }}")
    assert merge(texts, tmp_path / "out", tuned=tmp_path / "chat") == 1
    assert refused(capsys, "the tokenizers or processors of", "put the teacher's tokenizer files") is True
    finer = {name: tensor.double() for name, tensor in weights(texts / "tuned").items()}
    folder = shutil.copytree(texts / "tuned", tmp_path / "finer")
    save_file(finer, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"dtype": "float64"}))
    assert merge(texts, tmp_path / "out", tuned=tmp_path / "finer") == 1
    assert refused(capsys, "is torch.float32 in the teacher and torch.float64", "--teacher_dtype") is True
    assert merge(texts, tmp_path / "out", tuned=texts / "adapter", rename='{"a": "b"}') == 1
    assert refused(capsys, "rename has no effect here: it is an option of policies") is True
    assert merge(texts, tmp_path / "out", tuned=texts / "adapter", retention=0.9, epsilon=0.01) == 1
    assert refused(capsys, "retention 0.9 and epsilon 0.01 are one dial") is True  # seen to fail: 0.01 was ignored
    assert merge(texts, tmp_path / "out", tuned=texts / "adapter", max_length=8) == 1
    assert refused(capsys, "max_length has no effect here: it is an option of the texts of a dataset") is True


def test_an_adapter_of_another_base_is_refused(texts, tmp_path, capsys):
    """Seen to fail with the tensors of the base not compared."""
    other = save_tiny_lm(tmp_path / "other", seed=1)
    folder = shutil.copytree(texts / "adapter", tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(other)}))
    assert merge(texts, tmp_path / "out", tuned=folder) == 1
    assert refused(capsys, "is not the teacher's: the adapter is one on another base") is True
    assert not (tmp_path / "out").exists()
