"""The page on security names a test for every promise: each of them is there."""

import re

import pytest
from pages import ROOT

NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/security.md").read_text("utf-8"))))


def test_every_promise_has_a_test():
    rows = [line for line in (ROOT / "docs/security.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.endswith("| test |")]
    assert len(promises) > 10
    assert [row for row in promises if "::test_" not in row] == []


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_is_there(file, name):
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE)
