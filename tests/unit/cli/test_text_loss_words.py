"""What `loss` says of two models."""

import pytest

from craft_trainer.cli.text_loss import sentences

MEASURED = {"tokens": 1000, "loss": 2.0, "loss_ci": [1.9, 2.1], "compare_loss": 2.1, "compare_loss_ci": [2.0, 2.2]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [(1, "fewer than 20 texts are too few"), (19, "so nothing may be concluded"), (20, "predicts these texts worse")],
)
def test_a_verdict_takes_twenty_texts(rows, said):
    """Seen to fail: one text gave an interval of no width, and a verdict."""
    text = sentences(MEASURED | {"rows": rows, "difference": 0.1, "difference_ci": [0.05, 0.15]})
    assert said in text
    assert ("predicts" in text) is (rows == 20)
