"""A LeRobot policy with its processors as one module: what is trained, adapted, saved and loaded of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.processor import DeviceProcessorStep
from torch import Tensor, nn

from craft_trainer.hub.resolve_path import parse
from craft_trainer.models import checkpoint
from craft_trainer.models.base import without_padding
from craft_trainer.models.policy_adapter import put_on, taken_apart


class PolicyModule(nn.Module):
    """A policy, with a PEFT adapter in its layers or none, between its pre- and its postprocessor.

    Args:
        policy: a ``PreTrainedPolicy``, or the ``PeftModel`` around one (``policy.wrap_with_peft``, ``get_peft_model``).

    Raises:
        TypeError: the adapter's work is not done in the policy's layers.
        ValueError: LeRobot could not load the adapter again.
    """

    library_name = "lerobot"  # whose checkpoints these are
    origin: str | None = None  # the checkpoint that it was loaded from

    def __init__(self, policy: Any, preprocessor: Any, postprocessor: Any) -> None:
        super().__init__()
        self.preprocessor, self.postprocessor = preprocessor, postprocessor
        self._hold(policy)

    def _hold(self, policy: Any) -> None:
        self.policy, peft_model = taken_apart(policy)
        self._around = (peft_model,)  # in a tuple, which hides it: its parameters are the policy's
        self.policy.config.use_peft = peft_model is not None

    @property
    def policy_config(self) -> PreTrainedConfig:
        """The policy's own configuration; not named ``config``, which Trainer's loggers take for transformers' own."""
        return self.policy.config

    @property
    def network(self) -> nn.Module:
        """The policy and its processors are one module: this."""
        return self

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def processors(self) -> tuple[Any, Any]:
        """The pre- and postprocessor of the policy."""
        return self.preprocessor, self.postprocessor

    @property
    def peft_model(self) -> Any:
        """The ``PeftModel`` around the policy; None of a policy without an adapter."""
        return self._around[0]

    @property
    def renamed(self) -> dict[str, str]:
        """Features that the data names otherwise than the policy: the data's names → the policy's."""
        maps = [step.rename_map for step in self.preprocessor.steps if hasattr(step, "rename_map")]
        return {name: new for renames in maps for name, new in renames.items()}

    def preprocessed(self, samples: Mapping[str, Any]) -> dict[str, Any]:
        """Preprocess raw samples, on the device that the policy was moved to since it was loaded.

        What is renamed takes the place of a feature that has its new name already.
        """
        device, renamed = self.device, self.renamed
        replaced = {new for name, new in renamed.items() if name in samples} - renamed.keys()
        kept = {name: value for name, value in samples.items() if name not in replaced}
        for step in self.preprocessor.steps:
            if isinstance(step, DeviceProcessorStep) and step.tensor_device.type != device.type:
                step.device = str(device)
                step.__post_init__()  # LeRobot's way of reading it
        found: dict[str, Any] = self.preprocessor(kept)
        return found

    def add_adapter(self, settings: Mapping[str, Any]) -> None:
        """Put a fresh adapter on the policy, the only part of it that is trained; see :func:`policy_adapter.put_on`.

        Raises:
            ValueError: it has one already, or was not loaded from a checkpoint, or a setting is wrong.
        """
        if self.peft_model is not None:
            raise ValueError(f"{self.origin} is an adapter, which goes on being trained as it is: leave peft out")
        if self.origin is None:
            raise ValueError("an adapter names the checkpoint that it is on: save the policy, and load it from there")
        place = parse(self.origin)
        base, revision = (str(place.resolve()), None) if isinstance(place, Path) else place
        self._hold(put_on(self.policy, settings, base, revision))

    def save_pretrained(self, output_dir: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write an ordinary LeRobot checkpoint: config.json, processors, and the weights or those of the adapter."""
        state = None
        if state_dict is not None:
            state = {name.removeprefix("policy."): without_padding(tensor) for name, tensor in state_dict.items()}
        checkpoint.save(self.policy, self.peft_model, Path(output_dir), state)
        self.preprocessor.save_pretrained(output_dir)
        self.postprocessor.save_pretrained(output_dir)

    def load_checkpoint(self, checkpoint_dir: str | Path) -> None:
        """Load the weights in a LeRobot checkpoint folder into this policy, in place.

        Raises:
            FileNotFoundError: the folder holds no weights of this kind, whole or of an adapter.
            ValueError: they are those of another adapter.
        """
        checkpoint.restore(self.policy, self.peft_model, Path(checkpoint_dir))
