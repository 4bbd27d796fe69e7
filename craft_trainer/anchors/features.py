"""Hidden states by module path, pooled. The one code path for the teacher's cache and for the student in training."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from craft_trainer.models.base import AT_INPUT, AnchoredModel, Batch
from craft_trainer.models.pooling import pool
from craft_trainer.models.task_loss import SupportsTaskLoss, TaskLoss

NO_LAYER = "none"  # among the names of layers: no hidden features


class FeatureSpec(NamedTuple):
    """One cached feature: the output of the module at ``path``, pooled over its tokens."""

    path: str
    pooling: str

    @property
    def column(self) -> str:
        """Its column in an anchor cache."""
        return f"hidden/{self.path}/{self.pooling}"


def layer_paths(model: AnchoredModel, names: Sequence[str]) -> dict[str, str]:
    """Each of ``names``, an index like ``-1`` or a module path of ``model`` → the path of that layer's module."""
    named = [name for name in names if name != NO_LAYER]
    return {name: model.module_path(int(name) if name.lstrip("-").isdigit() else name) for name in named}


def feature_specs(paths: Iterable[str], poolings: Iterable[str]) -> list[FeatureSpec]:
    """Every pooling of the outputs of every module of ``paths``."""
    return [FeatureSpec(path, pooling) for path, pooling in product(paths, poolings)]


class TokenTargets(NamedTuple):
    """Tokens that the teacher expects next at every position of a batch of token sequences.

    Attributes:
        indices: the teacher's top-k tokens, the most probable first.
        log_probs: their log-probabilities in nats, over the whole vocabulary.
        valid: positions that count; False where the sequence is padded.
        entropy: of the teacher's whole distribution, in nats.
    """

    indices: Int[Tensor, "batch tokens k"]
    log_probs: Float[Tensor, "batch tokens k"]
    valid: Bool[Tensor, "batch tokens"]
    entropy: Float[Tensor, "batch tokens"]


class Features(NamedTuple):
    """Hidden features and outputs of a model for one batch.

    Attributes:
        hidden: pooled hidden states by column.
        output: the model's output (an action chunk or token logits), if asked for.
        tokens: of a teacher that predicts tokens, what it expects.
        task: the task loss of every sample that has labels.
    """

    hidden: dict[str, Tensor]
    output: Tensor | None
    tokens: TokenTargets | None = None
    task: Float[Tensor, " batch"] | None = None


class AnchorBatch(NamedTuple):
    """Raw inputs of some anchors, what the teacher made of them, and the old task each belongs to."""

    inputs: dict[str, Any]
    teacher: Features
    groups: list[str]


TOKEN_SCALE = "token"  # the key of a teacher's mean entropy among its scales
TASK_SCALE = "task"  # and of the unit of its task loss
DEFAULT_TOP_K = 32  # tokens kept per position of a teacher that predicts tokens


class _AllCapturedError(Exception):
    """Raised by the last hook to end a forward pass of which nothing more is needed."""


def extract(
    model: AnchoredModel, batch: Batch, specs: Sequence[FeatureSpec], *, output: bool, task: bool = False
) -> Features:
    """The features of ``model`` on a raw ``batch``, in evaluation mode (no dropout, no sampling), differentiable.

    Without ``output`` the forward pass ends at the deepest of the asked layers. With ``task`` the task loss of every
    sample is computed from the output as well, if the batch has labels.
    """
    inputs = model.prepare(batch)
    features = _extract(model, inputs, specs, output=output)
    return _with_task_loss(model, batch, inputs, features) if task else features


def labels_of(model: AnchoredModel, batch: Batch) -> list[str]:
    """The keys of ``batch`` that hold targets of the task loss of ``model``."""
    return [key for key in model.label_keys() if key in batch]


def task_loss_of(model: AnchoredModel) -> TaskLoss | None:
    """The task loss of single samples of ``model``, if it has one."""
    return model.task_loss if isinstance(model, SupportsTaskLoss) else None


def _with_task_loss(model: AnchoredModel, batch: Batch, inputs: Batch, features: Features) -> Features:
    loss = task_loss_of(model)
    if loss is None or features.output is None or not labels_of(model, batch):
        return features
    return features._replace(task=loss.losses(inputs, features.output))


def _extract(model: AnchoredModel, inputs: Batch, specs: Sequence[FeatureSpec], *, output: bool) -> Features:
    module = model.network
    states: dict[str, Tensor] = {}
    prediction: Tensor | None = None
    watched = capture(module, {spec.path for spec in specs}, states, stop=not output)
    with suppress(_AllCapturedError), evaluating(module), watched:
        prediction = model.predict(inputs)
    if missed := [spec.path for spec in specs if spec.path not in states]:
        raise ValueError(f"{missed[0]} is not called in a pass, so it has no hidden state: choose another layer")
    hidden = {spec.column: _pooled(model, inputs, states[spec.path], spec) for spec in specs}
    return Features(hidden, prediction if output else None)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every submodule's own mode restored afterwards."""
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True


@contextmanager
def capture(module: nn.Module, paths: set[str], states: dict[str, Tensor], *, stop: bool) -> Iterator[None]:
    """Store the hidden states at ``paths`` in ``states``; with ``stop``, end the pass when all are there.

    A path is that of a submodule and stands for its output, or for its first input if it ends with ``@input``: some
    policies compute their layers without calling them, and only the norms between them see the hidden state.
    """

    def keep(path: str, state: Tensor | tuple[Tensor, ...]) -> None:
        if path in states:
            raise ValueError(f"{path} runs more than once in a pass, so it has no single state: choose another layer")
        states[path] = state[0] if isinstance(state, tuple) else state
        if stop and len(states) == len(paths):
            raise _AllCapturedError

    def watch(path: str) -> RemovableHandle:
        submodule = module.get_submodule(path.removesuffix(AT_INPUT))
        if path.endswith(AT_INPUT):
            return submodule.register_forward_pre_hook(lambda _module, inputs: keep(path, inputs))
        return submodule.register_forward_hook(lambda _module, _inputs, output: keep(path, output))

    handles = [watch(path) for path in paths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def teacher_features(
    teacher: AnchoredModel,
    batch: Batch,
    specs: Sequence[FeatureSpec],
    *,
    num_tokens: int = DEFAULT_TOP_K,
    output: bool = True,
    task: bool = False,
) -> Features:
    """Compute what anchors retain of a teacher: hidden features and its output, of tokens the top-k.

    With ``task`` its task loss as well, if the batch has labels.
    Without ``output`` hidden features alone, and the forward pass ends at the deepest of their layers.
    """
    inputs = teacher.prepare(batch)
    features = _extract(teacher, inputs, specs, output=output)
    features = _with_task_loss(teacher, batch, inputs, features) if task else features
    if not output or teacher.output_kind != "logits":
        return features
    assert features.output is not None
    return features._replace(output=None, tokens=token_targets(teacher, inputs, features.output, num_tokens))


def token_targets(
    model: AnchoredModel, inputs: Batch, logits: Float[Tensor, "batch tokens vocabulary"], num_tokens: int
) -> TokenTargets:
    """Take the top ``num_tokens`` tokens at every position, with their log-probabilities in float32."""
    everywhere = logits.float()
    top, indices = everywhere.topk(min(num_tokens, logits.shape[-1]), dim=-1)
    below = (everywhere - top[..., :1]).clamp_min_(-120.0)  # e⁻¹²⁰ is 0 in float32, and 0 · ∞ would be no number
    weights = below.exp()
    total = weights.sum(dim=-1)
    log_total = total.log()
    valid = model.token_layout("", inputs, logits.shape).valid
    return TokenTargets(
        indices,
        top - top[..., :1] - log_total[..., None],
        torch.ones_like(indices[..., 0], dtype=torch.bool) if valid is None else valid,
        (log_total - torch.linalg.vecdot(weights, below) / total).clamp_min(0),
    )


def _pooled(model: AnchoredModel, inputs: Batch, state: Tensor, spec: FeatureSpec) -> Tensor:
    """The hidden state at ``spec.path``, as (batch, tokens, dim), pooled; places of a picture are tokens."""
    layout = model.token_layout(spec.path, inputs, state.shape) if state.ndim > 2 else None
    if layout is None or (state.ndim > 3 and not layout.channels_first):
        raise ValueError(
            f"the hidden state at {spec.path} has shape {tuple(state.shape)}, not one vector per token of every "
            "sample: choose a transformer layer"
        )
    hidden = state.movedim(layout.batch_dim, 0)
    hidden = hidden.flatten(2).movedim(1, 2) if layout.channels_first else hidden
    masks = [mask for mask in (layout.valid, layout.image) if mask is not None]
    if all(mask.shape == hidden.shape[:2] for mask in masks):
        return pool(hidden, spec.pooling, layout)
    raise ValueError(
        f"the hidden state at {spec.path} has shape {tuple(state.shape)}, and the mask of its tokens "
        f"{tuple(masks[0].shape)}: choose a transformer layer whose tokens have the mask, or leave out a mask that is "
        "not of tokens"
    )
