"""What is tried on samples, where nobody can tell by looking into the model: of what its answers are a function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device

from craft_trainer.anchors.features import Features, FeatureSpec, extract
from craft_trainer.anchors.teacher_pass import raw_inputs, with_own_actions
from craft_trainer.models.base import AnchoredModel
from craft_trainer.models.noise import forked_rng

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # of the largest number of a feature
HALF_TOLERANCE = 5e-2


def require_held(
    model: AnchoredModel, load: Callable[[list[int]], Mapping[str, Any]], specs: Sequence[FeatureSpec]
) -> None:
    """Refuse features that ``model`` does not have, or that are no function of the sample.

    The latter are layers that see random numbers, or the other samples of a batch: what the teacher made of a sample
    could not be compared with what the student makes of it later. It is tried on two samples where nobody has looked
    into the model (``is_tried``).

    Args:
        load: raw samples of some rows.

    Raises:
        ValueError: the model has no such module, or a feature of the first sample changes with the seed, or with the
            sample beside it.
    """
    for spec in specs:
        model.module_path(spec.path)
    if not specs or not getattr(model, "is_tried", False):
        return
    samples = send_to_device(dict(load([0, 1])), _device(model))
    first = {key: value[:1] for key, value in samples.items()}
    passes = ((samples, 0), (samples, 1), (first, 0))
    together, again, alone = (_features(model, batch, specs, seed) for batch, seed in passes)
    for spec in specs:
        value = together.hidden[spec.column][0].float()
        allowed = TOLERANCE.get(together.hidden[spec.column].dtype, HALF_TOLERANCE) * value.abs().max()
        for other, reason in ((again, "the random numbers of a pass"), (alone, "the other samples of its batch")):
            if (other.hidden[spec.column][0].float() - value).abs().max() > allowed:
                raise ValueError(
                    f"the hidden state at {spec.path} depends on {reason}, so it cannot be held: choose a layer that "
                    "sees observations alone, as those of a vision-language backbone"
                )


def reads_instructions(model: AnchoredModel, load: Callable[[list[int]], Mapping[str, Any]]) -> bool:
    """True if what a policy makes of a sample changes with its instruction, tried on the first row of ``load``."""
    sample = send_to_device(raw_inputs(model, lambda rows: dict(load(rows)))([0]), _device(model))
    sample = with_own_actions(model, sample, [0])
    first, second = (
        _features(model, sample | {"task": [told]}, [], seed=0, output=True).output for told in ("open it", "close it")
    )
    assert first is not None
    assert second is not None
    return not torch.equal(first, second)


@torch.no_grad()
def _features(
    model: AnchoredModel, batch: Mapping[str, Any], specs: Sequence[FeatureSpec], seed: int, *, output: bool = False
) -> Features:
    with forked_rng(_device(model)):
        torch.manual_seed(seed)
        return extract(model, batch, specs, output=output)


def _device(model: AnchoredModel) -> torch.device:
    return next(model.network.parameters()).device
