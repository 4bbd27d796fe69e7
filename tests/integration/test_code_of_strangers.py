"""No file of a checkpoint, a dataset or a cache runs code: each of those that can name or carry some tries to here."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from jinja2.exceptions import SecurityError
from lm_folders import save_tiny_lm
from peft import LoraConfig, get_peft_model
from runs import run
from transformers import AutoModelForCausalLM

from craft_trainer.cli.arguments import read_yaml
from craft_trainer.evaluation.question_data import load_any
from craft_trainer.language.checkpoints import load_checkpoint
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.pretrained import load_processor
from craft_trainer.models.remote_code import TRUST_VARIABLE, trusted_code_only


class Code:
    """Pickled, it makes the folder ``marker`` when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path):
    """A folder that is there only if code ran."""
    marker = tmp_path / "ran"
    yield marker
    assert not marker.exists()


def module(marker, *lines):
    return "\n".join([f"import os; os.makedirs({str(marker)!r})", *lines])


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("name", ["policy_preprocessor.json", "policy_postprocessor.json"])
def test_a_step_that_is_not_registered_is_not_called(tiny_policy, name, tmp_path, marker):
    tiny_policy().save_pretrained(tmp_path / "policy")
    file = tmp_path / "policy" / name
    step = {"class": "os.mkdir", "config": {"path": str(marker)}}
    edit(file, steps=[*json.loads(file.read_text())["steps"], step])
    with pytest.raises(ValueError, match=rf"{name}: steps\[\d\] names the class 'os.mkdir'.*registry_name only"):
        PolicyModel.from_pretrained(tmp_path / "policy")


def test_a_policys_type_is_one_of_lerobots(tiny_policy, tmp_path):
    tiny_policy().save_pretrained(tmp_path)
    edit(tmp_path / "config.json", type="os.mkdir")
    with pytest.raises(ValueError, match=r"'os.mkdir' \(from config.json of .*\) is not registered"):
        PolicyModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("where", ["config.json", "policy_preprocessor.json"])
def test_an_action_tokenizer_runs_only_if_it_is_trusted_by_name(pi0_fast, where, tmp_path, marker, monkeypatch):
    """LeRobot trusts what either file names. Seen to run before."""
    shutil.copytree(pi0_fast, tmp_path / "policy")
    file = tmp_path / "policy" / where
    document = json.loads(file.read_text())
    of_steps = [step["config"] for step in document.get("steps", []) if step["registry_name"].startswith("action_tok")]
    (settings,) = of_steps or [document]
    trusted, other = settings["action_tokenizer_name"], tmp_path / "other"
    shutil.copytree(trusted, other)
    code = (other / "fast_actions.py").read_text()
    (other / "fast_actions.py").write_text(module(marker, code))
    settings["action_tokenizer_name"] = str(other)
    file.write_text(json.dumps(document))
    with pytest.raises(PermissionError, match=rf"{other} brings Python code .*export {TRUST_VARIABLE}={other}"):
        PolicyModel.from_pretrained(tmp_path / "policy")
    (other / "fast_actions.py").write_text(code)
    monkeypatch.setenv(TRUST_VARIABLE, f"{trusted},{other}")
    PolicyModel.from_pretrained(tmp_path / "policy")
    monkeypatch.delenv(TRUST_VARIABLE)
    with pytest.raises(PermissionError, match="brings Python code"):
        PolicyModel.from_pretrained(pi0_fast)


@pytest.fixture(scope="module")
def pi0_fast(tmp_path_factory):
    from policies import tiny_policy_maker

    with tiny_policy_maker(tmp_path_factory.mktemp("tiny")) as make:
        make("pi0_fast").save_pretrained(tmp_path_factory.mktemp("saved") / "pi0_fast")
        yield tmp_path_factory.getbasetemp() / "saved0" / "pi0_fast"


def test_generation_of_its_own_is_left_out(tmp_path, marker):
    """A policy that loads its backbone with remote code trusted takes no ``generate`` from it either."""
    model = save_tiny_lm(tmp_path / "lm")
    (model / "custom_generate").mkdir()
    (model / "custom_generate/generate.py").write_text(module(marker, "def generate(model, **_): ..."))
    with trusted_code_only():
        AutoModelForCausalLM.from_pretrained(model, trust_remote_code=True)
    assert not marker.exists()
    AutoModelForCausalLM.from_pretrained(model, trust_remote_code=True)
    marker.rmdir()  # so it can be seen


@pytest.mark.parametrize("known", [True, False], ids=["known type", "unknown type"])
def test_a_language_model_brings_no_code(known, tmp_path, marker, monkeypatch):
    """A terminal is not asked either."""
    monkeypatch.setattr("builtins.input", lambda _: "y")
    model = save_tiny_lm(tmp_path / "lm")
    classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.T", "own.T"]}
    edit(model / "config.json", auto_map=classes, **({} if known else {"model_type": "own"}))
    edit(model / "tokenizer_config.json", auto_map=classes, **({} if known else {"tokenizer_class": "OwnTokenizer"}))
    (model / "own.py").write_text(module(marker))
    if known:
        assert type(load_checkpoint(str(model), dtype=None).model).__name__ == "LlamaForCausalLM"
        return
    with pytest.raises(ValueError, match="contains custom code which must be executed"):
        load_checkpoint(str(model), dtype=None)
    plain = load_checkpoint(str(save_tiny_lm(tmp_path / "plain")), dtype=None).model
    with pytest.raises(FileNotFoundError, match="contains custom code"):
        load_processor(plain, model)


def test_weights_in_a_pickle_are_no_code(tmp_path, marker):
    """Seen to end in a traceback of torch's UnpicklingError."""
    model = save_tiny_lm(tmp_path / "lm")
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig()).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    torch.save(Code(marker), tmp_path / "adapter/adapter_model.bin")
    edit(tmp_path / "adapter/adapter_config.json", base_model_name_or_path=str(model))
    with pytest.raises(ValueError, match=r"the weights in .*: a pickle .* is not executed"):
        load_checkpoint(str(tmp_path / "adapter"), dtype=None)
    (model / "model.safetensors").unlink()
    torch.save(Code(marker), model / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"the weights in .*: a pickle .* is not executed"):
        load_checkpoint(str(model), dtype=None)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_what_a_run_resumes_from_is_no_code(name, tmp_path, marker):
    """The arguments of an earlier run are not read at all."""
    run(tmp_path / "run", None, max_steps=2, save_strategy="steps", save_steps=2)
    checkpoint = tmp_path / "run/checkpoint-2"
    assert (checkpoint / name).is_file()
    torch.save(Code(marker), checkpoint / name)
    (checkpoint / "manifest.json").unlink()  # a stranger's need not have one
    if name == "training_args.bin":
        run(tmp_path / "run", None, max_steps=3, resume=checkpoint)
        return
    with pytest.raises(ValueError, match=r"^the .* state in .*checkpoint-2: a pickle .* is not executed"):
        run(tmp_path / "run", None, max_steps=3, resume=checkpoint)


def test_a_dataset_is_no_script_and_no_pickle(tmp_path, marker, monkeypatch):
    """A folder called like one of datasets' builders, which one of pickles is, was that builder for what lay beside."""
    monkeypatch.chdir(tmp_path)
    data = Path("pandas")
    data.mkdir()
    Path("beside.pkl").write_bytes(pickle.dumps(Code(marker)))
    (data / "rows.pkl").write_bytes(pickle.dumps(Code(marker)))
    (data / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: rows.pkl\n---\n")
    with pytest.raises(FileNotFoundError, match=r"rows.pkl' with any supported extension"):
        load_any(data, str(data), revision=None, config=None)
    (data / "pandas.py").write_text(module(marker))
    with pytest.raises(RuntimeError, match="Dataset scripts are no longer supported"):
        load_any(data, str(data), revision=None, config=None)


def test_a_column_of_arrow_is_no_pickle(tmp_path, marker):
    """Of old, pyarrow unpickled the types that its own Python classes had written."""
    data = tmp_path / "data"
    Dataset.from_dict({"text": ["one"]}).save_to_disk(data)
    (file,) = data.glob("*.arrow")
    kind = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Code(marker))}
    schema = pa.schema([pa.field("text", pa.string(), metadata=kind)])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.table([["one"]], schema=schema))
    assert load_any(data, "data", revision=None, config=None)["text"] == ["one"]


def test_a_configuration_file_is_no_code(tmp_path, marker):
    file = tmp_path / "config.yaml"
    file.write_text(f"learning_rate: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(ValueError, match="is not YAML"):
        read_yaml(file, "train", ["learning_rate"])


def test_a_chat_template_is_no_code(tmp_path):
    """It is rendered in Jinja's sandbox."""
    model = save_tiny_lm(tmp_path, chat="{{ messages.__class__.__mro__[1].__subclasses__() }}")
    tokenizer = load_checkpoint(str(model), dtype=None).processor
    with pytest.raises(SecurityError, match="attribute '__class__' of 'list' object is unsafe"):
        tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
