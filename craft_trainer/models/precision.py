"""Half precision on a CPU that has no instructions for it."""

import logging

import torch
from torch import nn

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by accelerate's name of a mixed precision
SUPPORT = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}  # oneDNN's word
logger = logging.getLogger(__name__)


def warn_if_emulated(network: nn.Module, mixed_precision: str = "no") -> bool:
    """Log a warning, and return True, if a CPU computes ``network`` in a half precision that it has not.

    It is that of the weights, or that of accelerate's ``mixed_precision``. The figures of the warning are of
    linear layers and of convolutions, forward and backward, with torch 2.11 on a CPU with AVX2 alone.
    """
    weights = [weight for weight in network.parameters() if weight.is_floating_point()]
    if {weight.device.type for weight in weights} != {"cpu"}:
        return False
    used = {weight.dtype for weight in weights} | {AUTOCAST.get(mixed_precision, torch.float32)}
    emulated = sorted(str(dtype).removeprefix("torch.") for dtype in used if is_emulated(dtype))
    if emulated:
        logger.warning(
            "this CPU has no instructions for %s: on such a CPU torch took 10 to 27 times as long as in float32. Take "
            "float32 (no bf16 or fp16, dtype float32)",
            " and ".join(emulated),
        )
    return bool(emulated)


def is_emulated(dtype: torch.dtype) -> bool:
    """True if oneDNN computes on this CPU, and says that it cannot compute in ``dtype`` here."""
    if dtype not in SUPPORT or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return not getattr(torch.ops.mkldnn, SUPPORT[dtype])()
