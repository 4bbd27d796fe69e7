"""docs/contributing.md, "Add a retention term": its example is a term like any other."""

import pytest
import torch
from pages import DOCS, blocks
from runs import history, run
from toy import toy_anchors

from craft_trainer.anchors.features import Features
from craft_trainer.losses.terms import TERMS


@pytest.fixture
def output_max(monkeypatch):
    (example,) = (block.text for block in blocks(DOCS / "contributing.md") if block.language == "python")
    names = {}
    exec(compile(example, "contributing.md", "exec"), names)
    monkeypatch.setitem(TERMS, "output_max", names["OutputMax"])
    return names["OutputMax"]


def test_the_example_is_what_it_says(output_max):
    student, teacher = Features({}, torch.tensor([[[1.0, -5.0]]])), Features({}, torch.tensor([[[0.0, 1.0]]]))
    assert output_max()(student, teacher, {"output": torch.tensor(4.0)}).tolist() == [6 / 2]


@pytest.mark.usefixtures("output_max")
def test_a_run_holds_it(tmp_path):
    """The class and one line, no other. Seen to fail while the configuration had a list of terms of its own."""
    anchors = toy_anchors(tmp_path / "cache")
    held = {"retention_terms": ["output_max"], "method": "weighted_sum", "max_steps": 30}
    kept, free = (
        run(tmp_path / f"{weight}", anchors, **held, multiplier_init=weight) and history(tmp_path / f"{weight}")[-1]
        for weight in (3.0, 0.0)
    )
    assert 0 < kept["retention_loss"] < 0.5 * free["retention_loss"]
