"""PI0.5: PI0 with the state among the text, and the time in the expert's norms."""

from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from craft_trainer.models.base import Batch
from craft_trainer.models.policies.family import PolicyFamily, PolicyLoss
from craft_trainer.models.policies.pi0 import layers, layout, prepare_without_state
from craft_trainer.models.vla import chunk, flow_losses, flow_noise, velocity


def predict(policy: PreTrainedPolicy, inputs: Batch) -> Tensor:
    """The velocity at the noise and time of the inputs."""
    return velocity(policy, inputs, ("images", "image_masks", "tokens", "token_masks"))


FAMILY = PolicyFamily(
    layers,
    predict,
    PolicyLoss(flow_losses, "variance"),
    layout,
    prepare_without_state,
    flow_noise,
    reads_actions=True,
    act=chunk,
)
