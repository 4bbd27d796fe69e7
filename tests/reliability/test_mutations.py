"""The short form of mutations.py, which docs/reliability.md has the counts of."""

import mutations
import pytest


@pytest.mark.parametrize("name", [*mutations.KINDS, *mutations.FREE])
def test_no_change_is_taken_for_the_truth(name):
    """Seen to fail with `files: {}`, `accuracy_difference: 5`, a flipped `correct`, and `anchors.json` = `[]`."""
    kind = (mutations.KINDS | mutations.FREE)[name]
    counts, faults = mutations.count(kind, 15, f"short {name}")
    assert counts["named"] > 0 or name == "progress of mcq"  # whose damaged lines are scored again
    assert not [fault for fault in faults if name not in mutations.FREE or "accepted" not in fault]
