"""The notebook runs from top to bottom, and shows what its text says: forgotten by plain fine-tuning, kept by CRaFT."""

import json

import pytest
from pages import DOCS

NOTEBOOK = DOCS / "notebooks" / "first_steps.ipynb"


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text("utf-8"))["cells"]


def test_it_is_stored_without_outputs(cells):
    """So that nothing on the page is older than the code beside it."""
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "".join(code[0]["source"]).startswith("%pip install")


def test_plain_fine_tuning_forgets_and_craft_keeps(cells, capsys):
    """Seen to fail with the anchors left out of the last training."""
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not source.startswith("%"):
            exec(compile(source, f"{NOTEBOOK.name}[{number}]", "exec"), namespace)
    success, old, new = (namespace[name] for name in ("success", "OLD", "NEW"))
    teacher, plain, craft = (success(namespace[name]) for name in ("teacher", "plain", "craft"))
    for word in old:
        assert teacher[word] >= 48
        assert plain[word] <= 5
        assert craft[word] >= 48
    assert teacher[new] <= 5
    assert min(plain[new], craft[new]) >= 48
    assert capsys.readouterr().out.count("'retention_loss'") >= 8
