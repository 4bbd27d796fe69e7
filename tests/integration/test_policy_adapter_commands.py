"""Adapters of policies by the commands: LeRobot's own settings, the base as teacher, what is refused before work."""

import json
import shutil

import pytest
import yaml
from command_words import flags
from runs import assert_same_weights, history

from craft_trainer.cli.main import main
from craft_trainer.models.lerobot import PolicyModel

RUN = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 0.02, "retention_batch_size": 8}
QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
LORA = ["--peft.method_type=LORA", "--peft.r=2", '--peft.target_modules=["linear1", "linear2"]']


def train(folder, *words, **options):
    return main(["train", *words, *flags(**RUN | QUIET | {"output_dir": folder, "save_strategy": "no"} | options)])


def weights(folder):
    return PolicyModel.from_pretrained(folder).state_dict()


@pytest.fixture(scope="module")
def held(teacher, tiny_dataset):
    """Options of a run whose old and new data are one."""
    data = {"model": teacher, "dataset": tiny_dataset, "anchors": "adapter", "anchors_dataset": tiny_dataset}
    return data | {"learned_inputs": "allow"}


@pytest.fixture(scope="module")
def adapter(held, tmp_path_factory):
    """An adapter with its checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "adapter"
    assert train(folder, *LORA, **held, save_strategy="steps", save_steps=2) == 0
    return folder


def test_the_folder_is_lerobots_adapter_on_its_base(adapter, teacher):
    """L_retain begins at 0: the teacher is the base."""
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(teacher.resolve())
    assert (settings["r"], sorted(settings["target_modules"])) == (2, ["linear1", "linear2"])
    assert json.loads((adapter / "config.json").read_text())["use_peft"] is True
    assert (adapter / "adapter_model.safetensors").is_file()
    assert not (adapter / "model.safetensors").exists()
    losses = [row["retention_loss"] for row in history(adapter)]
    assert losses[0] == 0 < losses[-1]


def test_a_run_resumes_bit_for_bit(adapter, held, tmp_path):
    """By the same command, from the checkpoint of an interrupted run. Seen to fail from a fresh adapter."""
    folder = tmp_path / "again"
    folder.mkdir()
    shutil.copytree(adapter / "checkpoint-2", folder / "checkpoint-2")
    assert train(folder, *LORA, **held, resume_from_checkpoint="last") == 0
    assert_same_weights(weights(adapter), weights(folder))


def test_a_file_says_the_same(adapter, held, tmp_path):
    """With the settings nested. The seed decides how the adapter begins."""
    settings = {"method_type": "LORA", "r": 2, "target_modules": ["linear1", "linear2"]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"peft": settings}))
    assert train(tmp_path / "run", "--config", str(tmp_path / "run.yaml"), **held) == 0
    assert_same_weights(weights(adapter), weights(tmp_path / "run"))


def test_an_adapter_teaches_and_goes_on(adapter, tiny_dataset, tmp_path, capsys):
    """A cache of it holds it, and is no cache of its base; it cannot get another adapter."""
    built = {"teacher": adapter, "dataset": tiny_dataset, "output_dir": tmp_path / "anchors", "anchors": 16}
    assert main(["cache", "build", *flags(**built)]) == 0
    run = {"model": adapter, "dataset": tiny_dataset, "anchors": tmp_path / "anchors", "learned_inputs": "allow"}
    assert train(tmp_path / "on", **run) == 0
    assert history(tmp_path / "on")[0]["retention_loss"] < 1e-6
    on, before = weights(tmp_path / "on"), weights(adapter)
    moved = {name for name in before if (on[name] != before[name]).any()}
    assert moved
    assert all(".lora_" in name for name in moved)
    capsys.readouterr()
    assert train(tmp_path / "second", *LORA, **run) == 1
    assert "is an adapter, which goes on being trained as it is: leave peft out" in capsys.readouterr().err


def test_a_cache_of_the_base_and_auto_hold_an_adapter(teacher, tiny_dataset, tmp_path):
    built = {"teacher": teacher, "dataset": tiny_dataset, "output_dir": tmp_path / "anchors", "anchors": 16}
    assert main(["cache", "build", *flags(**built)]) == 0
    for anchors in (tmp_path / "anchors", "auto"):
        run = {"model": teacher, "dataset": tiny_dataset, "anchors": anchors, "learned_inputs": "allow"}
        folder = tmp_path / f"run of {anchors.name if anchors != 'auto' else anchors}"
        assert train(folder, *LORA, **run) == 0
        assert history(folder)[0]["retention_loss"] < 1e-6
        assert (folder / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        (LORA, {"model": None, "policy_type": "act"}, "an adapter is put on a checkpoint, and policy_type makes a new"),
        ([], {}, "anchors: adapter needs an adapter: give --peft.r, --peft.…, or start from one"),
        (LORA, {"anchors_dataset": None}, "anchors: adapter needs demonstrations of what is to be kept"),
        (["--lora_rank=2"], {}, "lora_rank has no effect here:"),
        (["--peft.rank=2"], {}, "peft: The fields `rank` are not valid for PeftConfig; LeRobot's settings are"),
        (["--peft.r=2"], {}, "does not define default target_modules. Please pass --peft.target_modules explicitly"),
        (LORA, {"anchors": None, "anchors_dataset": None, "layers": -1}, "layers has no effect here: it is an option"),
        (LORA, {"learned_inputs": "refuse"}, "anchors have the inputs that are to be learned"),
    ],
)
def test_what_is_refused(held, tmp_path, capsys, words, options, said):
    given = {name: value for name, value in (held | options).items() if value is not None}
    assert train(tmp_path / "run", *words, **given) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_adapter_of_a_language_model_has_its_own_options(tmp_path, capsys):
    from lm_folders import save_lines, save_tiny_lm

    save_tiny_lm(tmp_path / "lm")
    save_lines(tmp_path / "new.jsonl", [{"text": "hello world"}])
    assert train(tmp_path / "run", "--peft.r=2", model=tmp_path / "lm", dataset=tmp_path / "new.jsonl") == 1
    assert "peft has no effect here:" in (error := capsys.readouterr().err)
    assert "is a language model, whose adapter is --lora_rank" in error
