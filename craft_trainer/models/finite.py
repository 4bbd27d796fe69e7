"""What a checkpoint computes must be finite before it is called a result."""

import math
from collections.abc import Iterable


def require_finite(what: str, values: Iterable[float]) -> None:
    """Raise a FloatingPointError if one of ``values``, which a checkpoint computed, is not finite.

    Everything compares as false with a NaN, so a table of it reads as if nothing were lost.
    """
    if not all(map(math.isfinite, values)):
        raise FloatingPointError(
            f"{what} not finite. Its weights hold such numbers, or its number type overflows: try --dtype float32"
        )
