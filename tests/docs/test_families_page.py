"""The table of model families: what it says is tested is tested there."""

import re

from every_family import FAMILIES
from pages import DOCS, ROOT
from test_up_to_date import cells

NAMED = re.compile(r"`(tests/[\w/]+\.py)`")
SAID = {  # where the table has other words than the test
    "classifier": "classifier of texts",
    "image classifier": "ViT",
    "token classifier": "classifier of tokens",
    "own module": "module of your own",
    "ACT": "LeRobot policy with a file",
    "diffusion": "LeRobot policy with a file",
    "SmolVLA": "LeRobot policy with a file",
    "VQ-BeT": "vqbet",
}


def rows():
    """The rows of the first table, which has five columns."""
    every = [row[:5] for row in cells(DOCS / "families.md")]  # text after a table follows its last row
    return every[1 : next(number for number, row in enumerate(every) if row[0] == "policy type")]


def test_every_shape_names_tests_that_exist():
    """Seen to fail with a file renamed, and with the tests of a row taken out."""
    assert len(rows()) == 13
    assert [row[0] for row in rows() if not NAMED.search(row[-1])] == []
    named = {path for row in rows() for path in NAMED.findall(row[-1])}
    assert [path for path in sorted(named) if "def test_" not in _text(path)] == []


def test_every_shape_of_the_common_test_is_in_the_table():
    """Seen to fail with a family added to the test alone."""
    shapes = {name.removesuffix(" with an adapter") for name in FAMILIES}
    assert len(shapes) >= 19
    said = " ".join(row[0] for row in rows() if "test_families.py" in row[-1])
    assert [name for name in sorted(shapes) if SAID.get(name, name).lower() not in said.lower()] == []


def test_every_engine_has_a_test_or_was_not_run():
    """Two processes are tested by two processes."""
    engines = [row for row in cells(DOCS / "distributed.md") if len(row) == 4]
    assert len(engines) >= 12
    for engine, _separate, joint, by in engines[1:]:
        named = NAMED.findall(by)
        assert [path for path in named if "def test_" not in _text(path)] == []
        if "two" in engine or "the same" in engine:
            assert "not run" in joint or any(path.startswith("tests/distributed/") for path in named), engine
        assert named or "not run" in joint, engine


def _text(path):
    file = ROOT / path
    return file.read_text() if file.is_file() else ""
