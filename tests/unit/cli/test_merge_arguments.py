"""The one dial of `merge` is that of training."""

import pytest

from craft_trainer.cli.merge import MergeArguments

PLACES = {"teacher": "outputs/teacher", "tuned": "outputs/plain", "anchors": "outputs/anchors", "output_dir": "merged"}


def test_retention_sets_epsilon():
    """`merge` takes the dial, as `train` does."""
    assert MergeArguments(**PLACES, retention=0.95).settings(("hidden",)).epsilon == 0.05
    assert MergeArguments(**PLACES, epsilon=0.2).settings(("hidden",)).epsilon == 0.2
    assert MergeArguments(**PLACES).settings(("hidden",)).epsilon == 0.01


def test_both_are_refused():
    with pytest.raises(ValueError, match=r"retention 0\.95 sets epsilon to 0\.05, and epsilon is 0\.2: give one"):
        MergeArguments(**PLACES, retention=0.95, epsilon=0.2).settings(("hidden",))
