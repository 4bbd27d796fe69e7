"""A command line of `lerobot-train` or `lerobot-eval` means the same here, or the error says what to do."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from craft_trainer.cli.arguments import parse_all
from craft_trainer.cli.cache_build import BuildArguments
from craft_trainer.cli.lerobot_names import ENTRIES, NAMES, WITHOUT, translated
from craft_trainer.cli.record import RecordArguments
from craft_trainer.cli.rollout import RolloutArguments
from craft_trainer.cli.train import TrainArguments
from craft_trainer.cli.train_config import TrainConfig

BOTH = {"policy", "dataset", "env", "dataloader_multiprocessing_context"}  # LeRobot has them too; ours win
KINDS = {
    "train": [TrainArguments, TrainConfig],
    "rollout": [RolloutArguments],
    "record": [RecordArguments],
    "cache build": [BuildArguments],
}


def parsed(command: str, line: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for filled in parse_all(command, "", KINDS[command], shlex.split(line)):
        values |= vars(filled)
    return values


def test_a_line_of_lerobot_train_is_understood() -> None:
    """Both spellings, `--name=value` and `--name value`. Seen to fail with steps and batch_size exchanged."""
    values = parsed(
        "train",
        "--policy.path=my/teacher --dataset.repo_id my/task --output_dir out --steps=7 --batch_size 3 --num_workers=2 "
        "--log_freq=5 --save_freq=6 --seed=11 --policy.device=cpu --policy.dtype=bfloat16 --wandb.enable=true "
        '--optimizer.lr=3e-4 --job_name=first --rename_map=\'{"a": "b"}\' --save_checkpoint=false --resume=true',
    )
    assert (values["model"], values["dataset"], values["output_dir"]) == ("my/teacher", "my/task", "out")
    assert (values["max_steps"], values["per_device_train_batch_size"], values["dataloader_num_workers"]) == (7, 3, 2)
    assert (values["logging_steps"], values["save_steps"], values["seed"]) == (5, 6, 11)
    assert values["use_cpu"] is True
    assert values["policy_options"] == {"dtype": "bfloat16"}
    assert values["report_to"] == ["wandb"]
    assert (values["learning_rate"], values["run_name"], values["rename"]) == (3e-4, "first", {"a": "b"})
    assert (values["save_strategy"], values["resume_from_checkpoint"]) == ("no", "last")


def test_several_loggers_are_a_list() -> None:
    """Seen to fail with HuggingFace's parser as it is: no option wandb."""
    line = "--model p --dataset d --output_dir out --use_cpu --report_to tensorboard wandb"
    assert parsed("train", line)["report_to"] == ["tensorboard", "wandb"]
    assert parsed("train", "--model p --dataset d --output_dir out --use_cpu --report_to none")["report_to"] == []


def test_a_new_policy_of_lerobots_names() -> None:
    line = "--policy.type=act --policy.chunk_size=8 --policy.use_vae=false --dataset.repo_id=x --output_dir out"
    values = parsed("train", line + " --policy.push_to_hub=false --wandb.enable=false --save_checkpoint=true --use_cpu")
    assert (values["policy_type"], values["policy_options"]) == ("act", {"chunk_size": 8, "use_vae": False})
    assert (values["push_to_hub"], values["report_to"], values["save_strategy"]) == (False, [], "steps")


@pytest.mark.parametrize(
    "line", ["--dataset.root=data/x --dataset.repo_id=my/x", "--dataset.repo_id=my/x --dataset.root data/x"]
)
def test_the_folder_of_a_dataset_wins_over_its_name(line: str) -> None:
    """Seen to fail with ROOT among the others, in one of the two orders."""
    assert parsed("train", f"--model p --output_dir out --use_cpu {line}")["dataset"] == "data/x"
    assert parsed("cache build", f"--policy.path=p --output_dir out {line}")["dataset"] == "data/x"


def test_a_line_of_lerobot_eval_is_understood() -> None:
    values = parsed(
        "rollout",
        "--policy.path=p --env.type=pusht --env.task=PushT-v0 --env.episode_length=9 --eval.n_episodes=5 "
        "--eval.batch_size=2 --policy.device=cpu --seed 3",
    )
    assert (values["policy"], values["env"], values["tasks"]) == ("p", "pusht", ["PushT-v0"])
    assert (values["episodes"], values["num_envs"], values["device"], values["seed"]) == (5, 2, "cpu", 3)
    assert values["env_options"] == {"episode_length": 9}


@pytest.mark.parametrize(
    ("command", "line", "way_out"),
    [
        ("train", "--env.type=pusht", "craft-trainer rollout --env"),
        ("train", "--eval.n_episodes=3", "craft-trainer rollout --env"),
        ("train", "--env_eval_freq=3", "craft-trainer rollout --env"),
        ("train", "--config_path=train_config.json", "--config"),
        ("train", "--scheduler.type=cosine", "--lr_scheduler_type"),
        ("train", "--optimizer.type=adamw", "--optim"),
        ("train", "--policy.optimizer_lr=1e-5", "--learning_rate"),
        ("train", "--policy.scheduler_warmup_steps=9", "--lr_scheduler_type"),
        ("train", "--wandb.project=x", "WANDB_PROJECT"),
        ("train", "--dataset.episodes=[0,1]", "lerobot-edit-dataset"),
        ("train", "--dataset.revision=v1", "org/name@revision"),
        ("train", "--dataset.use_imagenet_stats=true", "the dataset's own statistics"),
        ("train", "--dataset.image_transforms.enable=true", "as they were recorded"),
        ("train", "--policy.tags=[robot]", "card"),
        ("train", "--policy=my/teacher", "--model takes a checkpoint"),
        ("train", "--policy_options={} --policy.dtype=float32", "use one of the two"),
        ("rollout", "--eval.use_async_envs=true", "lerobot-eval"),
        ("cache build", "--policy.dtype=float32", "--policy_options"),
    ],
)
def test_what_has_no_counterpart_names_the_way_out(command: str, line: str, way_out: str) -> None:
    """Seen to fail with WITHOUT emptied: the parser then says only that there is no such option."""
    with pytest.raises(ValueError, match=way_out):
        parsed(command, line)


@pytest.mark.parametrize("command", NAMES)
def test_every_name_leads_to_an_option_that_exists(command: str) -> None:
    known = {name for kind in KINDS[command] for name in kind.__dataclass_fields__}
    targets = [rule for rule in NAMES[command].values() if isinstance(rule, str)]
    words = [words for rule in NAMES[command].values() if isinstance(rule, dict) for words in rule.values()]
    targets += [made.split()[0].removeprefix("--") for made in words]
    assert set(targets) | set(ENTRIES[command].values()) <= known
    assert not known & (NAMES[command].keys() | WITHOUT[command].keys()) - BOTH


def test_every_option_of_lerobot_train_is_spoken_of() -> None:
    """From LeRobot's own configuration. Seen to fail with `tolerance_s` taken out of WITHOUT."""
    from lerobot.configs.train import TrainPipelineConfig

    ours = {name for kind in KINDS["train"] for name in kind.__dataclass_fields__}
    spoken = {name.partition(".")[0] for name in (*NAMES["train"], *WITHOUT["train"])} | ours
    fields = {field.name for field in TrainPipelineConfig.__dataclass_fields__.values() if field.init}
    assert fields - spoken == {"reward_model"}


PEFT = {"method_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"], "full_training_modules": []}


def test_the_adapter_of_lerobot_train_is_understood() -> None:
    """Numbers, lists and regular expressions, as LeRobot reads them. It was refused."""
    line = "--policy.path=p --dataset.root=d --output_dir out --use_cpu"
    words = """--peft.method_type=LORA --peft.r 8 --peft.target_modules '["q_proj", "v_proj"]'"""
    assert parsed("train", f"{line} {words} --peft.full_training_modules=[]")["peft"] == PEFT
    for pattern in (r"(model\.expert\..*\.(q|v)_proj|model\.state_proj)", r"*: ["):
        assert parsed("train", f"{line} --peft.target_modules='{pattern}'")["peft"] == {"target_modules": pattern}
    assert parsed("train", line)["peft"] is None
    assert parsed("train", line + " --peft='{}'")["peft"] == {"method_type": "LORA"}


def test_the_adapter_in_a_file(tmp_path: Path) -> None:
    """Nested or with dots; the command line changes single settings. Seen to fail with the file's others dropped."""
    file, line = (
        tmp_path / "run.yaml",
        f"--config {tmp_path / 'run.yaml'} --model p --dataset d --output_dir o --use_cpu",
    )
    nested = "peft:\n  method_type: LORA\n  r: 8\n  target_modules: [q_proj, v_proj]\n  full_training_modules: []\n"
    dotted = (
        "peft.method_type: LORA\npeft.r: 8\npeft.target_modules: [q_proj, v_proj]\npeft.full_training_modules: []\n"
    )
    for text in (nested, dotted):
        file.write_text(text)
        assert parsed("train", line)["peft"] == PEFT
        assert parsed("train", line + " --peft.r=4 --peft.lora_alpha=8")["peft"] == PEFT | {"r": 4, "lora_alpha": 8}
    file.write_text("peft.r: 8\npeft: {r: 4}\n")
    with pytest.raises(ValueError, match=r"peft.r beside peft: give all of its entries in one of the two ways"):
        parsed("train", line)
    file.write_text("peft.: 8\n")
    with pytest.raises(ValueError, match=r"run.yaml: unknown key 'peft.'"):
        parsed("train", line)


def test_other_commands_and_words_are_left_alone() -> None:
    assert translated("mcq", ["--steps", "3"], ours=[]) == ["--steps", "3"]
    assert translated("train", ["word", "--stepz=3", "-1"], ours=[]) == ["word", "--stepz=3", "-1"]
    assert translated("cache build", ["--num_workers", "2"], ours=["num_workers"]) == ["--num_workers", "2"]


def test_a_false_of_lerobots_wins_over_the_file(tmp_path: Path) -> None:
    """Seen to fail when only true is handed on."""
    (tmp_path / "run.yaml").write_text("push_to_hub: true\nbf16: true\n")
    line = f"--config {tmp_path / 'run.yaml'} --policy.path=p --dataset.root=d --output_dir out --use_cpu"
    values = parsed("train", f"{line} --policy.push_to_hub=false --policy.use_amp=false")
    assert (values["push_to_hub"], values["bf16"]) == (False, False)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("optimizer_lr_backbone", "--learning_rate"),
        ("scheduler_warmup_steps", "--warmup_steps"),
        ("use_amp", "--bf16"),
        ("device", "--use_cpu"),
        ("push_to_hub", "--push_to_hub"),
        ("private", "--hub_private_repo"),
        ("license", "card"),
        ("pretrained_path", "--model"),
        ("pretrained_revision", "org/name@revision"),
        ("use_peft", "--peft.r"),
    ],
)
def test_an_option_that_only_lerobots_training_reads_is_refused(name: str, way_out: str) -> None:
    """They were taken into the configuration of a new policy, and nothing came of them."""
    line = f"--policy_type act --dataset d --output_dir out --use_cpu --policy_options='{json.dumps({name: 1})}'"
    with pytest.raises(ValueError, match=way_out):
        parsed("train", line)
