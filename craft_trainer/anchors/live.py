"""Anchors without a cache: a PEFT model without its adapter is its own teacher."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import send_to_device
from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.features import (
    DEFAULT_TOP_K,
    TASK_SCALE,
    TOKEN_SCALE,
    AnchorBatch,
    FeatureSpec,
    labels_of,
    task_loss_of,
    teacher_features,
)
from craft_trainer.anchors.statistics import feature_statistics, task_scale, token_scale
from craft_trainer.anchors.teacher_pass import raw_inputs, target_columns
from craft_trainer.models.base import ADAPTER, COPY, AnchoredModel, Batch

SCALE_ANCHORS = 256  # anchors from which the scales are estimated


class AdapterAnchors:
    """Anchors whose teacher is the base of a PEFT model, run with its adapter disabled whenever they are needed.

    It takes the place of an :class:`AnchorCache`: nothing is computed beforehand or stored, and every retention pass
    costs one more forward pass. Only low-rank or similar adapters may be trained: the base must stay as it is.

    Args:
        model: the PEFT model that will be trained, as its family's :class:`AnchoredModel`.
        load_batch: raw samples of some rows, collated.
        groups: the old task of each row.
        specs: hidden features to retain; may be empty if only tokens or outputs are.
        fingerprint: of the data that ``load_batch`` reads, by which it is known again where it is learned.
        output: False for a model whose output is not known, of which hidden features alone are held.

    Raises:
        TypeError: ``model`` has no adapter that can be disabled.
    """

    def __init__(
        self,
        model: AnchoredModel,
        load_batch: Callable[[list[int]], Batch],
        groups: Sequence[str],
        specs: Sequence[FeatureSpec] = (),
        *,
        num_tokens: int = DEFAULT_TOP_K,
        batch_size: int = 16,
        fingerprint: str = "",
        output: bool = True,
    ) -> None:
        self._peft_model, self._model, self._load_batch = _peft_model(model), model, load_batch
        self._num_tokens, self._batch_size, self.fingerprint = num_tokens, batch_size, fingerprint
        self._output = output
        self.groups, self.specs = list(groups), list(specs)

    def __len__(self) -> int:
        return len(self.groups)

    def batch(self, rows: Sequence[int], *, output: bool = True) -> AnchorBatch:
        """The anchors at ``rows``, with the teacher's features for them, where the model lives.

        Without ``output`` these are hidden features alone, and the teacher's pass ends at the deepest of their layers.
        """
        device = next(self._model.network.parameters()).device
        raw = raw_inputs(self._model, self._load_batch)(list(rows))
        inputs, output = send_to_device(raw, device), output and self._output
        with _without_adapter(self._peft_model):
            teacher = teacher_features(
                self._model, inputs, self.specs, num_tokens=self._num_tokens, output=output, task=output
            )
        return AnchorBatch(inputs, teacher, [self.groups[row] for row in rows])

    def scales(self) -> dict[str, Float[Tensor, ""]]:
        """The units of the retention losses, from up to 256 anchors spread over all."""
        chosen = torch.linspace(0, len(self) - 1, min(len(self), SCALE_ANCHORS)).long().tolist()
        starts = range(0, len(chosen), self._batch_size)
        teachers = [self.batch(chosen[start : start + self._batch_size]).teacher for start in starts]
        parts = [target_columns(teacher._replace(tokens=None, task=None)) for teacher in teachers]
        scales = {}
        for name in parts[0]:
            values = [part[name] for part in parts]
            scales[name] = feature_statistics(name, values.copy)[f"variance/{name}"].mean()
        tokens = [teacher.tokens for teacher in teachers if teacher.tokens is not None]
        if tokens:
            scales[TOKEN_SCALE] = token_scale((part.entropy, part.valid) for part in tokens)
        loss = task_loss_of(self._model)
        if loss is not None and teachers[0].task is not None:
            scales[TASK_SCALE] = task_scale(loss.unit, scales)
        return scales

    @property
    def has_labels(self) -> bool:
        """True if the anchors have targets of the task loss."""
        return bool(labels_of(self._model, self._load_batch([0])))

    def check_teacher(self, model: AnchoredModel) -> None:
        """Make sure that ``model`` is the one these anchors were made for.

        Raises:
            ValueError: it is another, or parameters outside its adapter are trained.
        """
        if model.network is not self._model.network:
            raise ValueError("these anchors were made for another model object: pass the model that is trained to both")
        trained = [name for name, parameter in self._model.network.named_parameters() if parameter.requires_grad]
        prefix = self._peft_model.base_model.prefix
        inside = [name for name in trained if prefix in name or ADAPTER.search(name) or COPY.search(name)]
        if outside := [name for name in trained if name not in inside]:
            raise ValueError(
                f"{outside[0]} is trained but is not part of the adapter, so the base model would not stay the "
                "teacher: freeze it, or build an anchor cache"
            )


@contextmanager
def _without_adapter(peft_model: Any) -> Iterator[None]:
    """The base model inside; afterwards the same parameters are trained as before (PEFT would train all adapters)."""
    trained = [(parameter, parameter.requires_grad) for parameter in peft_model.parameters()]
    try:
        with peft_model.disable_adapter():
            yield
    finally:
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


def _peft_model(model: AnchoredModel) -> Any:
    """The ``PeftModel`` around, or directly inside, the network of ``model``, or around the policy in it."""
    named = (getattr(model, name, None) for name in ("wrapper", "peft_model"))
    for candidate in (*named, model.network, *model.network.children()):
        if hasattr(candidate, "disable_adapter"):
            return candidate
    raise TypeError(
        f"{type(model.network).__name__} has no disable_adapter: wrap it by peft.get_peft_model; a LeRobot policy gets "
        "an adapter by PolicyModel.add_adapter"
    )
