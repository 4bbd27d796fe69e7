"""The short form of bad_arrow.py, which docs/reliability.md has the counts of."""

import bad_arrow
import pytest


@pytest.mark.parametrize("name", bad_arrow.KINDS)
def test_no_wrong_offset_ends_the_process(name):
    """Seen to fail: SIGBUS with questions and texts, other values in the parts of a cache, tracebacks in all but the
    first."""
    counts, faults = bad_arrow.count(bad_arrow.KINDS[name], 12, f"short {name}")
    assert counts["the same" if name == "parts of a cache" else "named"] > 0
    assert faults == []
