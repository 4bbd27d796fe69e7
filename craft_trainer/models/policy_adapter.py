"""PEFT adapters of LeRobot policies: which a policy may have, and a fresh one put on it by LeRobot's own rules."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import draccus
from lerobot.configs.default import PeftConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import nn

NAME = "default"  # of the adapter that PEFT saves in the folder itself, where LeRobot looks for it


def taken_apart(policy: Any) -> tuple[PreTrainedPolicy, Any]:
    """The LeRobot policy, and the ``PeftModel`` around it (None if there is none).

    The adapter's layers are in the policy, so that it acts with them, and its modules have the names that they have
    without PEFT.

    Raises:
        TypeError: the adapter is of a kind whose work is not done in the policy's layers.
        ValueError: LeRobot could not load it again.
    """
    if not hasattr(policy, "peft_config"):
        return policy, None
    inner, config, names = policy.get_base_model(), policy.active_peft_config, list(policy.peft_config)
    _require_in_layers(policy, config)
    if names != [NAME]:
        raise ValueError(
            f"the policy has adapters {names}: LeRobot loads one, which is called {NAME!r}. Delete the rest"
        )
    if not config.base_model_name_or_path:
        raise ValueError(
            "the adapter does not say what it is on, so LeRobot could not load it again: set "
            f'peft_config["{NAME}"].base_model_name_or_path to the folder or Hub repository of the policy, '
            "or put the adapter on by PolicyModel.add_adapter"
        )
    config.base_model_name_or_path = str(config.base_model_name_or_path)  # PEFT writes it as JSON
    return inner, policy


def put_on(policy: PreTrainedPolicy, settings: Mapping[str, Any], base: str, revision: str | None) -> Any:
    """``policy`` with a fresh adapter, which alone is trained from now on, as LeRobot's ``wrap_with_peft`` makes it.

    Args:
        settings: those of LeRobot's ``--peft.…``: method_type, r, lora_alpha, target_modules, full_training_modules,
            init_type. Without target_modules it takes the policy's own, which SmolVLA, PI0 and PI0.5 have.
        base: where the policy is, a folder or a Hub repository, the latter at ``revision``.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: LeRobot or PEFT does not take the settings, or some would have no effect.
    """
    try:
        from peft import PeftType
    except ImportError as error:
        raise ImportError("an adapter needs PEFT: pip install 'craft-trainer[peft]'") from error
    known = ", ".join(field.name for field in dataclasses.fields(PeftConfig))
    try:
        given = draccus.decode(PeftConfig, dict(settings))
    except draccus.utils.DraccusException as error:
        raise ValueError(f"peft: {error}; LeRobot's settings are {known}") from error
    if given.method_type.upper() not in PeftType.__members__:
        raise ValueError(f"peft: method_type is {given.method_type!r}: choose {', '.join(PeftType.__members__)}")
    policy.config.pretrained_path = base
    try:
        adapted = policy.wrap_with_peft(peft_cli_overrides=dataclasses.asdict(given) | {"revision": revision})
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"peft: {given.method_type} with {dict(settings)}: {error}") from error
    _require_in_layers(adapted, adapted.active_peft_config)
    _require_called(policy)
    return adapted


def _require_in_layers(peft_model: Any, config: Any) -> None:
    """Refuse adapters that are not all in the layers: prompts, and those that change the forward pass around them."""
    if config.is_prompt_learning:
        raise TypeError(f"{config.peft_type.value} trains a prompt, which a policy does not read: use LORA")
    from peft.tuners.tuners_utils import BaseTuner

    if type(peft_model.base_model).forward is not BaseTuner.forward:
        raise TypeError(
            f"{config.peft_type.value} adds to the forward pass outside of the layers, which LeRobot's policies pass "
            "by: use LORA"
        )


def _require_called(policy: nn.Module) -> None:
    """Refuse an adapter on a module whose weight is read by another, which never calls it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in policy.named_modules():
        if isinstance(module, nn.MultiheadAttention) and isinstance(module.out_proj, BaseTunerLayer):
            raise ValueError(
                f"peft: {name}.out_proj is never called: nn.MultiheadAttention reads its weight, so an adapter there "
                f"does nothing. Name other target_modules, e.g. linear1 and linear2 of a {policy.config.type}"
            )
