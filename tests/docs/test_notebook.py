"""The notebook runs from top to bottom, and shows what its text says: forgotten by plain fine-tuning, kept by CRaFT."""

import json
import shlex

import pytest
from lm_folders import save_tiny_lm
from pages import DOCS

from craft_trainer.cli.main import main

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


def run(cells, namespace):
    """Run the code of ``cells`` as a notebook does: ``!`` begins a command, in which {name} stands for a variable."""
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" or source.startswith("%pip "):
            continue
        if source.startswith("!"):
            for line in source.replace("\\\n", " ").splitlines():
                program, *words = shlex.split(line.removeprefix("!").format(**namespace))
                assert (program, main(words)) == ("craft-trainer", 0)
        else:
            exec(compile(source, f"{NOTEBOOK.name}[{number}]", "exec"), namespace)


def test_plain_fine_tuning_forgets_and_craft_keeps(cells, tmp_path, monkeypatch, capsys):
    """Of the policy in full; of the language model with a tiny one under its name. Seen to fail without the anchors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    save_tiny_lm(tmp_path / "HuggingFaceTB" / "SmolLM2-135M-Instruct")
    namespace = {"__name__": "__main__"}
    run(cells, namespace)
    success, old, new = (namespace[name] for name in ("success", "OLD", "NEW"))
    teacher, plain, craft = (success(namespace[name]) for name in ("teacher", "plain", "craft"))
    for word in old:
        assert teacher[word] >= 48
        assert plain[word] <= 5
        assert craft[word] >= 48
    assert teacher[new] <= 5
    assert min(plain[new], craft[new]) >= 48
    told = capsys.readouterr().out
    assert told.count("'retention_loss'") >= 8
    assert told.count("lm_craft: ") == 1
    assert 0 < namespace["moved"]["lm_craft"] < namespace["moved"]["lm_plain"]
