"""Any module of torch as a Trainer model that can be anchored: a network, what it reads, and its loss."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from jaxtyping import Float
from safetensors.torch import load_model
from torch import Tensor, nn

from craft_trainer.models.base import AT_INPUT, Batch, PlainInputs, TokenLayout, weights_digest, without_padding
from craft_trainer.models.general import base_model
from craft_trainer.models.pretrained import WEIGHTS_FILE


class TorchModel(PlainInputs, nn.Module):
    """A network of your own (or of timm, torchvision, …) with its loss, as Trainer takes it and as anchors see it.

    ``forward(**batch)`` gives ``{"loss": loss(output, batch)}``, output = network(*inputs). Checkpoints hold the
    network's own tensors under the names that it gives them, so ``network.load_state_dict`` reads them.

    Args:
        network: its output is a tensor [batch …], with the samples first; an adapter goes around it.
        inputs: the keys of a batch that it takes, in order.
        labels: those that the loss reads.
        loss: the network's output and the batch → a scalar.
        mask: the key of a batch that says which tokens of hidden states are not padding [batch tokens], if there are.
        layers: module paths that ``-1``, ``-2``, … stand for, first to last; a path is always possible.
        channels_first: whether hidden states are (batch, channels, …), as those of convolutions.
        output_kind: ``numbers``, or ``logits`` of a network that gives a distribution over classes for every token.
    """

    accepts_loss_kwargs = False  # Trainer: divide the loss by the number of accumulated micro-batches
    library_name = "torch"

    def __init__(
        self,
        network: nn.Module,
        inputs: Sequence[str],
        labels: Sequence[str],
        loss: Callable[[Tensor, Batch], Tensor],
        *,
        mask: str | None = None,
        layers: Sequence[str] = (),
        channels_first: bool = False,
        output_kind: str = "numbers",
    ) -> None:
        super().__init__()
        if output_kind not in ("numbers", "logits"):
            raise ValueError(f"output_kind is {output_kind!r}: it must be numbers or logits")
        self.wrapper = network
        self.output_kind = output_kind
        self._inputs, self._labels, self._loss = list(inputs), list(labels), loss
        self._mask, self._channels_first = mask, channels_first
        self._layers: list[str] = []
        self._layers = [self.module_path(layer) for layer in layers]

    @property
    def network(self) -> nn.Module:
        """The network; of a PEFT model the base model with the adapter in it, so that layers keep their names."""
        return base_model(self.wrapper)

    def forward(self, return_loss: bool = True, **batch: Any) -> dict[str, Tensor]:
        """The task loss: ``{"loss": scalar}``; ``return_loss`` tells Trainer that there is one in evaluation too."""
        return {"loss": self._loss(self.predict(batch), batch)}

    def prepare(self, batch: Batch) -> Batch:
        """Samples are what the network takes."""
        return batch

    def predict(self, inputs: Batch) -> Float[Tensor, "batch *rest"]:
        """The network's output, differentiable.

        Raises:
            TypeError: it is not a tensor.
        """
        output = self.wrapper(*(inputs[key] for key in self._inputs))
        if not isinstance(output, Tensor):
            raise TypeError(
                f"{type(self.network).__name__} gives a {type(output).__name__}: wrap it so that it gives a tensor"
            )
        return output

    def module_path(self, layer: int | str) -> str:
        """The module path of layer ``layer`` of the network; a ValueError if there is none."""
        if isinstance(layer, str) and layer.removesuffix(AT_INPUT) in dict(self.network.named_modules()):
            return layer
        if isinstance(layer, int) and -len(self._layers) <= layer < len(self._layers):
            return self._layers[layer]
        named = "" if self._layers else ", or give TorchModel its layers"
        raise ValueError(
            f"{type(self.network).__name__} has no layer {layer!r}; it has {len(self._layers)}: {self._layers}. Name a "
            f"module path{named}"
        )

    def token_layout(self, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
        """Hidden states are (batch, tokens, dim), or (batch, channels, …)."""
        valid = None if self._mask is None else inputs[self._mask].bool()
        return TokenLayout(channels_first=self._channels_first and path != "", valid=valid)

    def input_keys(self) -> list[str]:
        """The keys that the network, its loss and its layout read."""
        return list(dict.fromkeys([*self._inputs, *self._labels, *([self._mask] if self._mask else [])]))

    def label_keys(self) -> list[str]:
        """The keys that the loss alone reads."""
        return self._labels

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the weights: what else decides the output of a module is not known."""
        return {"weights": weights_digest(self.network), "processors": ""}

    def save_pretrained(self, output_dir: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write the network's own tensors to ``model.safetensors``: of ``state_dict``, where one was gathered."""
        given = (state_dict or {}).items()
        gathered = {name.removeprefix("wrapper."): without_padding(tensor) for name, tensor in given}
        save_torch_state_dict(gathered or self.wrapper.state_dict(), output_dir, max_shard_size=sys.maxsize)

    def load_checkpoint(self, checkpoint_dir: str | Path) -> None:
        """Load what :meth:`save_pretrained` wrote, in place.

        Raises:
            FileNotFoundError: the folder holds no weights.
            RuntimeError: a tensor is missing, or another one.
        """
        weights = Path(checkpoint_dir) / WEIGHTS_FILE
        if not weights.is_file():
            raise FileNotFoundError(f"{checkpoint_dir} holds no {WEIGHTS_FILE}: it is not a checkpoint to resume from")
        load_model(self.wrapper, weights)
