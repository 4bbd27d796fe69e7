"""What a checkpoint computes must be finite before it is called a result."""

import math
from collections.abc import Iterable


def require_finite(what: str, values: Iterable[float]) -> None:
    """Raise a FloatingPointError if one of ``values``, which a checkpoint computed, is not finite.

    Everything compares as false with a NaN, so a table of it reads as if nothing were lost.
    """
    if not all(map(math.isfinite, values)):
        raise FloatingPointError(
            f"{what} not finite. Its weights hold such numbers: take an earlier checkpoint. Or its number type "
            "overflows: load a language model in float32 (--dtype, of merge --teacher_dtype)"
        )
