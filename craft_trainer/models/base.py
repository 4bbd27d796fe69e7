"""The interface that the trainer and the anchor builder need of a model of any family."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import getattr_static
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Batch = Mapping[str, Any]
Moments = Mapping[str, tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]]  # feature → mean and standard deviation
COPY = re.compile(r"\.modules_to_save\.[^.]+\.")  # in names of parameters: PEFT's trained copy of a module
ADAPTER = re.compile(r"\.(lora_\w+|miss_block|ia3_l|trainable_tokens_delta)\.")  # likewise: a part of PEFT's adapter
IDLE_AT = {  # likewise: the part that decides whether it does anything, and the number at which it does nothing
    re.compile(r"\.(lora_B|lora_embedding_A|miss_block)\."): 0,
    re.compile(r"\.ia3_l\."): 1,
}
WRAPPING = re.compile(r"\.(base_layer|original_module|token_adapter)(?=\.)")  # likewise: what PEFT puts around a weight
AT_INPUT = "@input"  # at the end of a module path: what goes into the module instead of what comes out


@dataclass(frozen=True)
class TokenLayout:
    """The layout of one module's hidden state, and the kind of each of its tokens.

    Attributes:
        batch_dim: the dimension of the raw hidden state that indexes samples (0, or 1 for sequence-first modules).
        channels_first: whether it is (batch, dim, tokens), as that of a convolution.
        valid: tokens that are not padding, or None when all are.
        image: tokens that come from images, or None when the module sees none.
    """

    batch_dim: int = 0
    channels_first: bool = False
    valid: Bool[Tensor, "batch tokens"] | None = None
    image: Bool[Tensor, "batch tokens"] | None = None


class PlainInputs:
    """Inputs of which every tensor has an entry per sample, no image has 8 bits a colour, and nothing is random."""

    def image_keys(self) -> list[str]:
        """None: pixels are numbers, of any scale."""
        return []

    def noise(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Nothing random goes into it."""
        return {}

    def packed(self, batch: Batch) -> dict[str, list[int]]:
        """Every tensor has one entry per sample."""
        return {}


@runtime_checkable
class AnchoredModel(Protocol):
    """A trainable module whose behaviour on anchors can be compared with its teacher's.

    ``forward(return_loss=True, **batch)`` returns a mapping with the scalar ``loss`` of the task. Batches are raw
    samples, collated: the model owns its preprocessing, so that anchors and task data take the same path.
    """

    @property
    def network(self) -> nn.Module:
        """The module whose parameters are trained."""

    @property
    def output_kind(self) -> str:
        """The kind of output of :meth:`predict`: ``numbers`` or ``logits`` (of the next token at every position)."""

    def prepare(self, batch: Batch) -> Batch:
        """Preprocess raw samples into the inputs of :meth:`predict` and :meth:`token_layout`."""

    def predict(self, inputs: Batch) -> Float[Tensor, "batch steps dim"]:
        """The model's output (a policy's normalised actions, or token logits), differentiable, a function of its input.

        Of a policy that denoises its actions, what it predicts for the noise and time in ``inputs``; see :meth:`noise`.
        """

    def module_path(self, layer: int | str) -> str:
        """The module path of hidden layer ``layer``, an index into the family's layers or a path itself.

        The path of a module stands for its output, or for what goes into it if it ends with ``@input``.
        """

    def token_layout(self, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
        """The layout of the hidden state at ``path``, whose shape is ``shape``; path "" is that of :meth:`predict`."""

    def input_keys(self) -> list[str]:
        """Keys of a raw sample that the model reads, targets included."""

    def label_keys(self) -> list[str]:
        """Those of :meth:`input_keys` that hold targets of the task loss; a sample without any has no labels."""

    def image_keys(self) -> list[str]:
        """Those of :meth:`input_keys` that hold images of 8 bits a colour: float (..., 3, height, width) in [0, 1]."""

    def noise(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Random inputs that turn a generative policy's output into a function, drawn for each row; {} for others."""

    def packed(self, batch: Batch) -> dict[str, list[int]]:
        """Inputs that hold one sample after the other instead of one row each: how many entries each sample has.

        Like the patches of all images of a batch; {} for models whose inputs are all batch-first.
        """

    def fingerprint(self) -> dict[str, str]:
        """Hex digests of what decides the model's outputs: ``weights``, ``processors`` and ``configuration``.

        A model without a configuration may leave out the last; anchors do not compare it then. Quantised weights have a
        ``quantization`` as well, in words.
        """


MEMBERS = tuple(name for name in vars(AnchoredModel) if not name.startswith("_"))
TELLING = {"module_path", "token_layout", "input_keys", "label_keys", "output_kind", "packed", "fingerprint"}


def missing_members(model: object) -> list[str]:
    """Those of :class:`AnchoredModel` that ``model`` lacks, or has from the protocol itself, where they do nothing."""
    return [name for name in MEMBERS if not _has(model, name)]


def require_whole_model(model: object) -> None:
    """Raise a TypeError that names every missing member of a ``model`` that is meant to be an :class:`AnchoredModel`.

    By what only such a model has; what has nothing of it passes.
    """
    missing = missing_members(model)
    begun = isinstance(model, AnchoredModel) or any(name in TELLING and name not in missing for name in MEMBERS)
    if missing and begun:
        raise TypeError(
            f"{type(model).__name__} is no whole craft_trainer.models.base.AnchoredModel, it lacks "
            f"{', '.join(missing)}: add {'it' if len(missing) == 1 else 'them'}, or wrap the module in "
            "craft_trainer.models.torch_model.TorchModel, which has them all"
        )


def _has(model: object, name: str) -> bool:
    """Without asking a property, which may be costly; a submodule is an attribute of ``model`` alone."""
    of_class = getattr_static(type(model), name, None)
    return hasattr(model, name) if of_class is None else of_class is not getattr_static(AnchoredModel, name)


@runtime_checkable
class SupportsCheckpointing(Protocol):
    """A model with a checkpoint format of its own, which Trainer cannot read and write by itself."""

    def save_pretrained(self, output_dir: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write a checkpoint in the family's own format."""

    def load_checkpoint(self, checkpoint_dir: str | Path) -> None:
        """Load weights written by :meth:`save_pretrained` into this module, in place."""


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of the state dict of ``module``.

    A PEFT adapter that does nothing yet (the part that decides it is as it starts, a copied head is as it was) is left
    out, so a base model with a fresh adapter has the digest of the base model.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(without_idle_adapters(module).items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
        digest.update(data.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def without_idle_adapters(module: nn.Module) -> dict[str, Tensor]:
    """The state of ``module`` with the names of the base model; PEFT's parts stay only if one of them has an effect.

    These are adapters of the types LORA, MISS and IA3, trained rows of embeddings, and the copies that it trains of
    whole modules.
    """
    state: dict[str, Tensor] = module.state_dict()
    adapters = {name for name in state if ADAPTER.search(name)}
    originals = {name: found for name in state if (found := COPY.sub(".original_module.", name)) != name}
    moved = any((state[name] != at).any() for name in adapters for part, at in IDLE_AT.items() if part.search(name))
    moved = moved or any(not torch.equal(state[copy], state[original]) for copy, original in originals.items())
    moved = moved or _has_moved_rows(module)
    dropped = set() if moved else {*adapters, *originals}
    return {
        name.removeprefix("base_model.model.") if name in adapters else _name_in_base(name): tensor
        for name, tensor in state.items()
        if name not in dropped
    }


def _name_in_base(name: str) -> str:
    return WRAPPING.sub("", name.removeprefix("base_model.model."))


def _has_moved_rows(module: nn.Module) -> bool:
    """True if PEFT trains rows of an embedding (``trainable_token_indices``), and one is not as it was."""
    layers: list[Any] = [part for part in module.modules() if "trainable_tokens_delta" in dict(part.named_children())]
    tables = [(layer, layer.get_base_layer().weight) for layer in layers]
    return any(
        not torch.equal(rows.to(table), table[layer.token_indices[name]])
        for layer, table in tables
        for name, rows in layer.trainable_tokens_delta.items()
    )


def without_padding(tensor: Tensor) -> Tensor:
    """``tensor`` in memory of its own size: one gathered from shards lies in a padded buffer, which is not saved."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
