"""LeRobot's own argument names, understood by our commands: a table for each, and the way out where there is none."""

import json
from collections.abc import Callable, Mapping, Sequence

import yaml

type Words = list[str]
type Rule = str | Callable[[str], Words]  # our name for the same, or what becomes of a value of theirs


def _if_true(*words: str) -> Callable[[str], Words]:
    return lambda value: list(words) if yaml.safe_load(value) is True else []


def _if_false(*words: str) -> Callable[[str], Words]:
    return lambda value: list(words) if yaml.safe_load(value) is False else []


def _processor(value: str) -> Words:
    """Choose LeRobot's device: cpu is a choice, any other is the first accelerator, which Trainer takes anyway."""
    return ["--use_cpu", "true"] if value == "cpu" else []


CHECKPOINT: dict[str, Rule] = {"policy.path": "policy", "policy.pretrained_path": "policy"}
ROOT = "dataset.root"  # the folder of what `dataset.repo_id` names: it wins, in whichever order they come
DATASET: dict[str, Rule] = {"dataset.repo_id": "dataset", ROOT: "dataset", "rename_map": "rename"}
NAMES: dict[str, dict[str, Rule]] = {
    "train": {
        **CHECKPOINT,
        **DATASET,
        "policy.type": "policy_type",
        "policy.device": _processor,
        "policy.use_amp": "bf16",
        "policy.push_to_hub": "push_to_hub",
        "policy.repo_id": "hub_model_id",
        "policy.private": "hub_private_repo",
        "steps": "max_steps",
        "batch_size": "per_device_train_batch_size",
        "num_workers": "dataloader_num_workers",
        "prefetch_factor": "dataloader_prefetch_factor",
        "persistent_workers": "dataloader_persistent_workers",
        "log_freq": "logging_steps",
        "save_freq": "save_steps",
        "save_checkpoint": _if_false("--save_strategy", "no"),
        "resume": _if_true("--resume_from_checkpoint", "last"),
        "job_name": "run_name",
        "optimizer.lr": "learning_rate",
        "optimizer.weight_decay": "weight_decay",
        "optimizer.grad_clip_norm": "max_grad_norm",
        "scheduler.num_warmup_steps": "warmup_steps",
        "wandb.enable": _if_true("--report_to", "wandb"),
    },
    "rollout": {
        **CHECKPOINT,
        "policy.device": "device",
        "env.type": "env",
        "env.task": "tasks",
        "eval.n_episodes": "episodes",
        "eval.batch_size": "num_envs",
        "rename_map": "rename",
    },
    "cache build": {
        "policy.path": "teacher",
        "policy.pretrained_path": "teacher",
        "policy.device": "device",
        **DATASET,
    },
}
ENTRIES: dict[str, dict[str, str]] = {  # all other names that begin so are entries of a mapping of ours
    "train": {"policy.": "policy_options"},
    "rollout": {"env.": "env_options"},
}
AFTERWARDS = "no environment runs while training: `craft-trainer rollout --env`, or `lerobot-eval`, afterwards"
OPTIMIZER = "--optim, --learning_rate, --weight_decay, --adam_beta1, … are Trainer's names"
SCHEDULER = "--lr_scheduler_type (cosine, linear, constant, …) and --warmup_steps are Trainer's names"
WITHOUT: dict[str, dict[str, str]] = {  # a name of LeRobot's, or how several begin → what there is instead
    "train": {
        "env": AFTERWARDS,
        "env_eval_freq": AFTERWARDS,
        "eval": AFTERWARDS,
        "config_path": "give a YAML file of this command's keys by --config; LeRobot's train_config.json is nested",
        "optimizer": OPTIMIZER,
        "policy.optimizer": OPTIMIZER,
        "scheduler": SCHEDULER,
        "policy.scheduler": SCHEDULER,
        "policy.tags": "`craft-trainer push` writes the card and its tags",
        "policy.license": "`craft-trainer push` writes the card: add the license to README.md",
        "policy.pretrained_revision": "--policy takes org/name@revision",
        "policy.use_peft": "adapters of policies are not trained by this command",
        "use_policy_training_preset": "there are no presets: give --learning_rate, --optim and --lr_scheduler_type",
        "wandb": "set WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE in the environment; --run_name names the run",
        "dataset": "--dataset takes a folder or a Hub repository; `lerobot-edit-dataset` makes one of some episodes",
        "dataset.revision": "--dataset takes org/name@revision",
        "dataset.image_transforms": "images are learned as they were recorded",
        "dataset.use_imagenet_stats": "cameras are normalised by the dataset's own statistics",
        "dataset.eval_split": "no part of the dataset is held out by this command",
        "dataset.streaming": "a dataset is downloaded whole",
        "max_eval_samples": "no part of the dataset is held out by this command",
        "peft": "adapters of policies are not trained by this command",
        "job": "it runs here: start it where it is to run",
        "save_checkpoint_to_hub": "--push_to_hub and --hub_strategy are Trainer's names",
        "sample_weighting": "all samples have the same weight",
        "cudnn_deterministic": "--full_determinism is Trainer's name",
        "dataloader_multiprocessing_context": "workers are started as torch does it by default",
        "tolerance_s": "LeRobot's own default is used",
    },
    "rollout": {
        "policy": "a checkpoint is rolled out as it is",
        "eval": "--episodes, --num_envs and --seed are what can be chosen; `lerobot-eval` does the rest",
        "job_name": "--output names the file of the result",
        "output_dir": "--output names the file of the result",
        "trust_remote_code": "environments of the Hub are left to `lerobot-eval`",
    },
    "cache build": {
        "policy": "give what is different from how the checkpoint was saved by --policy_options",
        "dataset": "--dataset takes a folder or a Hub repository",
    },
}


def translated(command: str, argv: Sequence[str], ours: Sequence[str]) -> Words:
    """Replace LeRobot's names in the ``argv`` of ``command``; ``ours`` are names that keep their own meaning.

    What is neither LeRobot's nor ours stays as it is, for the parser to refuse.

    Raises:
        ValueError: LeRobot's name has no counterpart; the message says what there is instead.
    """
    if command not in NAMES:
        return list(argv)
    words: Words = []
    at_the_end: Words = []
    entries: dict[str, dict[str, object]] = {}
    for name, option in _options(argv):
        mapping = _mapping_of(command, name)
        if name is None or name in ours:
            words += option
        elif name in NAMES[command]:
            (at_the_end if name == ROOT else words).extend(_renamed(NAMES[command][name], option))
        elif mapping is not None and _preset(command, name) is None and name not in WITHOUT[command]:
            entries.setdefault(mapping, {})[name.partition(".")[2]] = yaml.safe_load(" ".join(_values(option)))
        else:
            _refuse_without_counterpart(command, name)
            words += option
    for mapping, values in entries.items():
        if any(word.partition("=")[0] == f"--{mapping}" for word in argv):
            raise ValueError(f"--{mapping} and LeRobot's --… for its entries {', '.join(values)}: use one of the two")
        at_the_end += [f"--{mapping}", json.dumps(values)]
    return words + at_the_end


def hint_for_a_file(command: str, key: str) -> str | None:
    """Say what a YAML file of ours has instead of LeRobot's ``key``; None if that is no name of LeRobot's."""
    rule = NAMES.get(command, {}).get(key)
    if rule is not None:
        return f": here it is {rule!r}" if isinstance(rule, str) else f": it is LeRobot's; give it as --{key}=…"
    instead = WITHOUT.get(command, {}).get(key)
    return None if instead is None else f": it is LeRobot's and has no counterpart: {instead}"


def _options(argv: Sequence[str]) -> list[tuple[str | None, Words]]:
    """List every option's name, with its words as they stand; None for words before the first option."""
    found: list[tuple[str | None, Words]] = []
    for word in argv:
        if word.startswith("--"):
            found.append((word.removeprefix("--").partition("=")[0], [word]))
        elif found:
            found[-1][1].append(word)
        else:
            found.append((None, [word]))
    return found


def _values(option: Words) -> Words:
    _, given, value = option[0].partition("=")
    return [*([value] if given else []), *option[1:]]


def _renamed(rule: Rule, option: Words) -> Words:
    values = _values(option)
    return [f"--{rule}", *values] if isinstance(rule, str) else rule(" ".join(values))


def _mapping_of(command: str, name: str | None) -> str | None:
    beginnings: Mapping[str, str] = ENTRIES.get(command, {})
    return next((ours for start, ours in beginnings.items() if name is not None and name.startswith(start)), None)


def _preset(command: str, name: str) -> str | None:
    """Find what ``name`` begins with, if it is of the optimizer or schedule of a policy, which Trainer does not use."""
    beginning = name.partition("_")[0]
    return beginning if "." in beginning and beginning in WITHOUT[command] else None


def refuse_without_effect(options: Mapping[str, object]) -> None:
    """Refuse entries of ``policy_options`` that `lerobot-train` reads of a policy's configuration and `train` does not.

    Raises:
        ValueError: there is one; the message says what there is instead.
    """
    for name in options:
        rule = NAMES["train"].get(f"policy.{name}")
        if rule is not None:
            ours = rule if isinstance(rule, str) else "use_cpu"
            raise ValueError(f"policy_options: {name} has no effect there: give it as --{ours}")
        _refuse_without_counterpart("train", f"policy.{name}")


def _refuse_without_counterpart(command: str, name: str) -> None:
    parts = [name.rpartition(".")[0]] if name.count(".") > 1 else []
    for candidate in (name, *parts, _preset(command, name), name.partition(".")[0]):
        if candidate in WITHOUT[command]:
            raise ValueError(
                f"--{name} is LeRobot's and has no counterpart in `{command}`: {WITHOUT[command][candidate]}"
            )
