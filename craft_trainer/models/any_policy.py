"""LeRobot policies of a type without a file in ``policies``: their layers are found, and what holds them is tried."""

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor, nn

from craft_trainer.models.base import Batch, TokenLayout
from craft_trainer.models.noise import forked_rng
from craft_trainer.models.policies.family import PolicyFamily

UNLIKE = {  # policy types that are not trained on demonstrations alone
    "gaussian_actor": "it is trained by reinforcement learning, on transitions and not on demonstrations",
    "tdmpc": "it has no layers with tokens, and calls its world model many times in a pass",
}


def layers(policy: PreTrainedPolicy) -> list[str]:
    """The modules of the list of modules of one class that has most parameters: the largest transformer's layers.

    Raises:
        ValueError: the policy has no such list.
    """
    lists = [(path, one) for path, one in policy.named_modules() if isinstance(one, nn.ModuleList) and len(one) > 1]
    stacks = {path: one for path, one in lists if len({type(module) for module in one}) == 1}
    if not stacks:
        raise ValueError(f"{policy.config.type} has no list of layers: name a module path")
    largest = max(stacks, key=lambda path: sum(parameter.numel() for parameter in stacks[path].parameters()))
    return [f"{largest}.{index}" for index in range(len(stacks[largest]))]


def predict(policy: PreTrainedPolicy, inputs: Batch) -> Tensor:
    """Run the policy's own training forward, in which layers that are held end the pass.

    Raises:
        ValueError: the pass ended, so it was its output that was asked for.
    """
    with forked_rng(next(policy.parameters()).device):
        policy.forward(dict(inputs))
    raise ValueError(
        f"what a {policy.config.type} gives beside its loss is not known, and no layer ended the pass: hold hidden "
        "layers that it calls, without its output (cache build --output false, retention_terms: [hidden])"
    )


def layout(policy: PreTrainedPolicy, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
    """Hidden states are (batch, tokens, dim), and all tokens count: which are padding is not known.

    Raises:
        ValueError: samples are not first.
    """
    num_samples = len(inputs[ACTION])
    if shape[0] != num_samples:
        raise ValueError(
            f"the hidden state at {path} has shape {tuple(shape)} for {num_samples} samples, not (batch, tokens, dim): "
            f"choose one of the layers {', '.join(layers(policy))}"
        )
    return TokenLayout()


FAMILY = PolicyFamily(layers, predict, None, layout, reads_actions=True, is_tried=True)
