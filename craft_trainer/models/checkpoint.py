"""LeRobot checkpoints as they were saved: where its own loaders return something else without an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from safetensors.torch import load_file, load_model
from torch import Tensor

from craft_trainer.hub.resolve_path import resolve_path
from craft_trainer.models.pretrained import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG_FILE,
    WEIGHTS_FILE,
    base_of_adapter,
    checkpoint_inside,
    is_adapter,
    json_of,
    load_whole_adapter,
    loading,
    readable,
    with_adapter_of,
)

IN_PEFT = "base_model.model."  # before the names of a policy's tensors in a ``PeftModel``
PROCESSOR_FILES = ("policy_preprocessor.json", "policy_postprocessor.json")


def load_config(folder: Path) -> PreTrainedConfig:
    """The configuration of the policy in ``folder``.

    Raises:
        FileNotFoundError: there is no policy.
        ValueError: it says that there is an adapter where there is none, or the reverse.
    """
    if not (folder / CONFIG_FILE).is_file():
        inside = checkpoint_inside(folder)
        if is_adapter(folder):
            inside = f"; that of an adapter's policy lies beside {ADAPTER_CONFIG}"
        raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}: it is not a LeRobot checkpoint{inside}")
    with readable(folder / CONFIG_FILE):
        config = PreTrainedConfig.from_pretrained(folder)
    if config.use_peft and not (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"{folder / CONFIG_FILE}: use_peft is true, and there is no {ADAPTER_CONFIG} beside it: put the adapter's "
            f"files there, or, if {WEIGHTS_FILE} has the adapter in it, set use_peft to false"
        )
    if not config.use_peft and is_adapter(folder) and not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(
            f"{folder / CONFIG_FILE}: use_peft is false, so LeRobot looks for {WEIGHTS_FILE}, and there is a PEFT "
            "adapter: set use_peft to true"
        )
    return config


def load_processors(folder: Path, config: PreTrainedConfig, **overrides: Any) -> tuple[Any, Any]:
    """The pre- and the postprocessor in ``folder``, of steps that are registered.

    A step that is not has a ``class``, which LeRobot imports and calls, whatever it is.

    Raises:
        ValueError: a file names such a step.
    """
    for file in (folder / name for name in PROCESSOR_FILES):
        for number, step in enumerate(_steps(file)):
            if "registry_name" not in step:
                raise ValueError(
                    f"{file}: steps[{number}] names the class {step.get('class')!r}, which would be imported and "
                    "called, whatever it is. A step is loaded by registry_name only: register its class in "
                    "lerobot.processor.ProcessorStepRegistry, import that, and write its name into the file"
                )
    with readable(folder / PROCESSOR_FILES[0]):
        processors: tuple[Any, Any] = make_pre_post_processors(config, pretrained_path=str(folder), **overrides)
    for step in processors[0].steps:
        getattr(step, "proc", None)  # GR00T's reads its tokenizer late otherwise, where its code would run
    return processors


def _steps(file: Path) -> list[dict[str, Any]]:
    """The steps in a processor's file, none if there is no file; a ValueError if they are no objects."""
    steps: Any = json_of(file).get("steps", [])
    objects = isinstance(steps, list) and all(isinstance(step, dict) for step in steps)
    if not objects or not all(isinstance(step.get("config", {}), dict) for step in steps):
        raise ValueError(f"{file}: steps is not a list of objects: save or download it again")
    return list(steps)


def saved_renames(folder: Path) -> dict[str, str]:
    """Read the names that the preprocessor in ``folder`` changes: the data's → the policy's."""
    maps = [step.get("config", {}).get("rename_map", {}) for step in _steps(folder / PROCESSOR_FILES[0])]
    return {name: new for renames in maps for name, new in renames.items()}


def load_policy(folder: Path, config: PreTrainedConfig) -> Any:
    """The policy in ``folder`` in evaluation mode, every weight of it from the file; of an adapter the ``PeftModel``.

    As LeRobot does it, the policy that an adapter is on has the configuration in the adapter's folder.

    Raises:
        FileNotFoundError: there are no weights in ``folder``, or where its adapter says that its base is.
        ImportError: PEFT is not installed, which an adapter needs.
        ValueError: they are not those of this policy, or the adapter is on nothing.
    """
    if not config.use_peft:
        return _load_whole(folder, config)
    base, revision = base_of_adapter(folder)
    try:
        policy = _load_whole(resolve_path(base, revision=revision, without=("*/*",)), config)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder / ADAPTER_CONFIG} is on {base}, which is not there: correct base_model_name_or_path ({error})"
        ) from error
    return with_adapter_of(folder, policy, trainable=True).eval()


def restore(policy: PreTrainedPolicy, peft_model: Any, folder: Path) -> None:
    """Load the weights in ``folder`` into ``policy``, in place; of an adapter those of the ``peft_model`` around it.

    Raises:
        FileNotFoundError: the folder holds no weights of this kind.
        ValueError: they are those of another adapter.
    """
    file = folder / (WEIGHTS_FILE if peft_model is None else ADAPTER_WEIGHTS)
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no {file.name}: it is not a checkpoint to resume from")
    if peft_model is None:
        load_model(policy, file, strict=True, device=str(next(policy.parameters()).device))
    else:
        load_whole_adapter(peft_model, folder, trainable=True)


def save(policy: PreTrainedPolicy, peft_model: Any, folder: Path, state: Mapping[str, Tensor] | None) -> None:
    """Write an ordinary LeRobot checkpoint, or the adapter of ``peft_model`` as LeRobot's training does it.

    ``state`` are the tensors to save, by their names in ``policy``; its own if None.
    """
    if peft_model is None:
        policy.save_pretrained(folder, state_dict=state)
        return
    whole = None if state is None else {f"{IN_PEFT}{name}": tensor for name, tensor in state.items()}
    peft_model.save_pretrained(str(folder), state_dict=whole, save_embedding_layers=False)
    policy.config.save_pretrained(folder)


def _load_whole(folder: Path, config: PreTrainedConfig) -> PreTrainedPolicy:
    """The policy in ``folder``, of its own weights.

    Where that fails, the loaders of the PI0 types print a warning and return random weights; so theirs are loaded here,
    old names included.
    """
    weights, kind = folder / WEIGHTS_FILE, get_policy_class(config.type)
    if not weights.is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS_FILE}: it is not a whole LeRobot checkpoint")
    if not hasattr(kind, "_fix_pytorch_state_dict_keys"):
        with loading(folder):
            return kind.from_pretrained(folder, config=config, strict=True)
    with loading(folder):
        saved = load_file(weights)
    policy = kind(config)
    renamed = policy._fix_pytorch_state_dict_keys(saved, config)
    try:  # names in older checkpoints are of the model inside the policy
        policy.load_state_dict({f"model.{name.removeprefix('model.')}": tensor for name, tensor in renamed.items()})
    except RuntimeError as error:
        raise ValueError(f"{folder} holds other weights than its config.json says: {error}") from error
    return policy.eval()
