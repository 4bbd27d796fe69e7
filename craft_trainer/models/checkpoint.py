"""LeRobot checkpoints as they were saved: where its own loaders return something else without an error."""

from pathlib import Path

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class
from lerobot.policies.pretrained import PreTrainedPolicy
from safetensors.torch import load_file

WEIGHTS_FILE = "model.safetensors"


def load_policy(folder: Path, config: PreTrainedConfig) -> PreTrainedPolicy:
    """The policy in ``folder`` in evaluation mode, every weight of it from the file.

    Where that fails, the loaders of the PI0 types print a warning and return random weights; so theirs are loaded here,
    old names included.

    Raises:
        FileNotFoundError: there are no weights in ``folder``.
        ValueError: they are not those of this policy.
    """
    kind = get_policy_class(config.type)
    if not hasattr(kind, "_fix_pytorch_state_dict_keys"):
        return kind.from_pretrained(folder, config=config, strict=True)
    saved = load_file(_weights_file(folder))
    policy = kind(config)
    renamed = policy._fix_pytorch_state_dict_keys(saved, config)
    try:
        policy.load_state_dict({_in_policy(name): tensor for name, tensor in renamed.items()})
    except RuntimeError as error:
        raise ValueError(f"{folder} holds other weights than its config.json says: {error}") from error
    return policy.eval()


def _weights_file(folder: Path) -> Path:
    if not (folder / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS_FILE}: it is not a whole LeRobot checkpoint")
    return folder / WEIGHTS_FILE


def _in_policy(name: str) -> str:
    """The name of a tensor in the policy; older checkpoints are of the model inside it."""
    return name if name.startswith("model.") else f"model.{name}"
