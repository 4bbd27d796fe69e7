"""LeRobot checkpoints as they were saved: where its own loaders return something else without an error."""

import json
from pathlib import Path
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from safetensors.torch import load_file

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ADAPTER_FILE = "adapter_config.json"
PROCESSOR_FILES = ("policy_preprocessor.json", "policy_postprocessor.json")


def load_config(folder: Path) -> PreTrainedConfig:
    """The configuration of the policy in ``folder``.

    Raises:
        FileNotFoundError: there is no policy.
        ValueError: there is the adapter of one.
    """
    if (folder / ADAPTER_FILE).is_file():
        base = json.loads((folder / ADAPTER_FILE).read_text("utf-8")).get("base_model_name_or_path")
        raise ValueError(
            f"{folder / ADAPTER_FILE}: this is a PEFT adapter of {base}, not a whole policy. Merge the two: load that "
            "policy by LeRobot, save PeftModel.from_pretrained(policy, ADAPTER).merge_and_unload() in a new folder, "
            "and copy the adapter's files policy_*processor* into it"
        )
    if not (folder / CONFIG_FILE).is_file():
        inside = f"; {folder / 'pretrained_model'} is one" if (folder / "pretrained_model").is_dir() else ""
        raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}: it is not a LeRobot checkpoint{inside}")
    return PreTrainedConfig.from_pretrained(folder)


def load_processors(folder: Path, config: PreTrainedConfig, **overrides: Any) -> tuple[Any, Any]:
    """The pre- and the postprocessor in ``folder``, of steps that are registered.

    A step that is not has a ``class``, which LeRobot imports and calls, whatever it is.

    Raises:
        ValueError: a file names such a step.
    """
    for file in (folder / name for name in PROCESSOR_FILES):
        steps = json.loads(file.read_text("utf-8")).get("steps", []) if file.is_file() else []
        for number, step in enumerate(steps):
            if "registry_name" not in step:
                raise ValueError(
                    f"{file}: steps[{number}] names the class {step.get('class')!r}, which would be imported and "
                    "called, whatever it is. A step is loaded by registry_name only: register its class in "
                    "lerobot.processor.ProcessorStepRegistry, import that, and write its name into the file"
                )
    processors: tuple[Any, Any] = make_pre_post_processors(config, pretrained_path=str(folder), **overrides)
    for step in processors[0].steps:
        getattr(step, "proc", None)  # GR00T's reads its tokenizer late otherwise, where its code would run
    return processors


def load_policy(folder: Path, config: PreTrainedConfig) -> PreTrainedPolicy:
    """The policy in ``folder`` in evaluation mode, every weight of it from the file.

    Where that fails, the loaders of the PI0 types print a warning and return random weights; so theirs are loaded here,
    old names included.

    Raises:
        FileNotFoundError: there are no weights in ``folder``.
        ValueError: they are not those of this policy.
    """
    weights, kind = folder / WEIGHTS_FILE, get_policy_class(config.type)
    if not weights.is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS_FILE}: it is not a whole LeRobot checkpoint")
    if not hasattr(kind, "_fix_pytorch_state_dict_keys"):
        return kind.from_pretrained(folder, config=config, strict=True)
    saved = load_file(weights)
    policy = kind(config)
    renamed = policy._fix_pytorch_state_dict_keys(saved, config)
    try:  # names in older checkpoints are of the model inside the policy
        policy.load_state_dict({f"model.{name.removeprefix('model.')}": tensor for name, tensor in renamed.items()})
    except RuntimeError as error:
        raise ValueError(f"{folder} holds other weights than its config.json says: {error}") from error
    return policy.eval()
