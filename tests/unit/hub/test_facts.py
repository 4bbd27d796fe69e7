"""The file of a run: read as it was written, or refused."""

import json

import pytest

from craft_trainer.hub.facts import FACTS_FILE, Retained, RunFacts, Source, Teacher

RETAINED = Retained(
    "while 3 anchors are retained",
    [Teacher(Source("outputs/teacher"), 3, "abc")],
    {"hidden": 1.0},
    ["variance"],
    [["policy.model", "none"]],
    {"push": 3},
)
FACTS = RunFacts(
    "craft", "lerobot", "act", base=Source("org/a@v1", "org/a"), retained=RETAINED, training={"seed": "1"}, step=7
)


def test_it_comes_back(tmp_path):
    FACTS.write(tmp_path)
    assert RunFacts.read(tmp_path) == FACTS
    RunFacts("plain").write(tmp_path)
    assert RunFacts.read(tmp_path) == RunFacts("plain")


@pytest.mark.parametrize(
    "damage", [{"schema": 9}, {"more": 1}, {"retained": {"teachers": [1]}}, {"base": {"place": "x"}}]
)
def test_another_version_is_refused(tmp_path, damage):
    FACTS.write(tmp_path)
    content = json.loads((tmp_path / FACTS_FILE).read_text()) | damage
    (tmp_path / FACTS_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"card\.json is not of this version"):
        RunFacts.read(tmp_path)


@pytest.mark.parametrize(
    ("facts", "warns"),
    [
        (RunFacts("craft", "peft", base=Source("model")), True),
        (RunFacts("craft", "lerobot", "act", adapter=True, base=Source("outputs/act")), True),
        (RunFacts("craft", "peft", base=Source("org/a@v1", "org/a")), False),
        (RunFacts("craft", "peft"), False),
        (RunFacts("craft", "transformers", base=Source("model")), False),
    ],
)
def test_the_base_of_an_adapter_that_only_this_machine_has(facts, warns):
    """Whole weights need no base."""
    told = facts.local_base
    assert (told is not None) == warns
    assert told is None or f"{facts.base.name}, is a folder of this machine" in told


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the output_dir of a finished run"):
        RunFacts.read(tmp_path)
