"""What the trainer and the anchor builder need of a model, whatever its family."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class TokenLayout:
    """How the hidden state of one module is laid out, and which of its tokens are what.

    Attributes:
        batch_dim: the dimension of the raw hidden state that indexes samples (0, or 1 for sequence-first modules).
        valid: tokens that are not padding, or None when all are.
        image: tokens that come from images, or None when the module sees none.
    """

    batch_dim: int = 0
    valid: Bool[Tensor, "batch tokens"] | None = None
    image: Bool[Tensor, "batch tokens"] | None = None


@runtime_checkable
class AnchoredModel(Protocol):
    """A trainable module whose behaviour on anchors can be compared with its teacher's.

    ``forward(return_loss=True, **batch)`` returns a mapping with the scalar ``loss`` of the task. Batches are raw
    samples, collated: the model owns its preprocessing, so that anchors and task data take the same path.
    """

    def predict(self, batch: Batch) -> Float[Tensor, "batch steps dim"]:
        """The model's output (for a policy the normalised action chunk), differentiable, without sampling noise."""
        ...

    def module_path(self, layer: int | str) -> str:
        """The module whose output is hidden layer ``layer``: an index into the family's layers, or a module path."""
        ...

    def token_layout(self, path: str, batch: Batch, num_tokens: int) -> TokenLayout:
        """The layout of the output of the module at ``path`` for ``batch``."""
        ...

    def input_keys(self) -> list[str]:
        """Keys of a raw sample that the model reads, targets included."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Hex digests of everything that decides the model's outputs: ``weights`` and ``processors``."""
        ...

    def save_pretrained(self, output_dir: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write a checkpoint in the family's own format."""
        ...

    def load_checkpoint(self, checkpoint_dir: str | Path) -> None:
        """Load weights written by :meth:`save_pretrained` into this module, in place."""
        ...


def require_anchored(model: nn.Module) -> AnchoredModel:
    """``model`` as an :class:`AnchoredModel`.

    Raises:
        TypeError: ``model`` cannot be anchored as it is.
    """
    if not isinstance(model, AnchoredModel):
        raise TypeError(
            f"{type(model).__name__} cannot be trained with anchors: wrap a LeRobot policy in "
            "craft_trainer.models.lerobot.PolicyModel, or implement craft_trainer.models.base.AnchoredModel"
        )
    return model


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of the state dict of ``module``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
        digest.update(data.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
