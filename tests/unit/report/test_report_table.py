"""The table holds the pooled counts, in the promised order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from craft_trainer.report import Results, format_table, gather, load_results
from craft_trainer.report.page import as_markdown

type Document = dict[str, Any]


@pytest.fixture
def results(document: Document, write_results: Callable[[Document], Path]) -> Results:
    return load_results(write_results(document))


def test_text(results: Results) -> None:
    """40, 6, 39 of 40; 38, 26, 37 of 40; 78, 32, 76 of 80; 0, 40, 38 of 40, each with its Wilson interval."""
    rows = [line.split() for line in format_table(results).splitlines() if "─" not in line]
    assert rows == [
        ["teacher", "plain", "CRaFT"],
        ["push-v3", "100", "(91–100)", "15", "(7–29)", "98", "(87–100)"],
        ["reach-v3", "95", "(83–99)", "65", "(50–78)", "92", "(80–97)"],
        ["mean", "old", "98", "(91–99)", "40", "(30–51)", "95", "(88–98)"],
        ["window-close-v3", "0", "(0–9)", "100", "(91–100)", "95", "(83–99)"],
        ["mean", "new", "0", "(0–9)", "100", "(91–100)", "95", "(83–99)"],
        ["success", "in", "%", "(95", "%", "interval),", "2", "seeds", "×", "20", "episodes", "per", "task"],
    ]


def test_text_columns_are_aligned(results: Results) -> None:
    lines = format_table(results).splitlines()
    cells = [line for line in lines[:-1] if "(" in line]
    brackets = [[place for place, letter in enumerate(line) if letter == "("] for line in cells]
    assert brackets == [brackets[0]] * 5
    assert len(brackets[0]) == 3
    assert len({len(line) for line in lines if "─" in line}) == 1
    assert max(map(len, lines)) < 80


def test_markdown(results: Results) -> None:
    lines = format_table(results, "markdown").splitlines()
    assert lines[:2] == ["| success in % | teacher | plain | CRaFT |", "|---|---:|---:|---:|"]
    assert lines[4] == "| **mean old** | **98** (91–99) | **40** (30–51) | **95** (88–98) |"


def test_markdown_escapes_a_pipe(document: Document, write_results: Callable[[Document], Path]) -> None:
    document["stream"]["new"] = ["open|close"]
    for row in document["rows"]:
        row["task"] = row["task"].replace("window-close-v3", "open|close")
    table = format_table(load_results(write_results(document)), "markdown")
    assert r"| open\|close | 0 (0–9) |" in table


def test_markdown_adds_nothing_of_a_name(document: Document, write_results: Callable[[Document], Path]) -> None:
    """No HTML, link, picture, heading or cell. Seen to fail with pipes and spaces alone escaped."""
    name = "<img src=x> ![a](//b) `c`\n# *d*"
    document["stream"]["new"] = [name]
    for row in document["rows"]:
        row["task"] = row["task"].replace("window-close-v3", name)
    results = load_results(write_results(document))
    shown = r"\<img src=x\> !\[a\](//b) \`c\` # \*d\*"
    assert f"| {shown} | 0 (0–9) |" in format_table(results, "markdown")
    page = as_markdown(gather(results=[str(results.path)]))
    assert "<img" not in page.replace(r"\<img", "")
    assert "\n# *d*" not in page


def test_a_method_without_new_tasks_has_dashes(document: Document, write_results: Callable[[Document], Path]) -> None:
    document["rows"] = [row for row in document["rows"] if (row["method"], row["group"]) != ("teacher", "new")]
    del document["summary"]["teacher"]["new"]
    lines = format_table(load_results(write_results(document)), "markdown").splitlines()
    assert lines[5] == "| window-close-v3 | – | 100 (91–100) | 95 (83–99) |"


def test_fewer_seeds_are_named(document: Document, write_results: Callable[[Document], Path]) -> None:
    document["rows"] = [row for row in document["rows"] if (row["method"], row["seed"]) != ("teacher", 1)]
    document["summary"]["teacher"]["old"] = 38 / 40
    footer = format_table(load_results(write_results(document))).splitlines()[-1]
    assert footer.endswith("2 seeds × 20 episodes per task (teacher: 1 seed)")


def test_another_kind_is_refused(results: Results) -> None:
    with pytest.raises(ValueError, match="kind is 'html', expected 'text' or 'markdown'"):
        format_table(results, cast(Any, "html"))
