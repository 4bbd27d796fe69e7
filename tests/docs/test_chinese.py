"""The Chinese pages have the commands, the code and the figures of the English ones."""

import re

import pytest
from pages import DOCS, ROOT, blocks, command_lines, inline_codes

PAIRS = [
    (ROOT / "README.md", ROOT / "README.zh-CN.md"),
    (DOCS / "quickstart.md", DOCS / "quickstart.zh.md"),
]
COMMAND = re.compile(r"(bash scripts/|craft-trainer |pip install |--quick)")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
BROKEN = re.compile(r"[\u3001-\u9fff\uff01-\uff5e]\n[\u3001-\u9fff\uff01-\uff5e\w`]")


def commands(page):
    """Commands in blocks, in their order, without comments."""
    return [words for block in blocks(page) for words in command_lines(block)]


def code(page):
    return [block.text for block in blocks(page) if block.language == "python"]


def commands_in_sentences(page):
    return sorted({" ".join(text.split()) for text in inline_codes(page) if COMMAND.match(text)})


def figures(page):
    """Percentages before the README's second heading: what is claimed."""
    return sorted(re.findall(r"[\d.]+\s*%", page.read_text().split("\n## ")[0]))


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda page: page.name)
def test_commands_are_the_same(english, chinese):
    """Seen to fail with another option in the Chinese page."""
    assert len(commands(english)) >= 5
    assert commands(chinese) == commands(english)
    assert code(chinese) == code(english) != []


def test_commands_in_the_readme_s_sentences_are_the_same():
    """Of the part that is translated: what a user types first. Seen to fail with --seeds 0,1,2."""
    english, chinese = (commands_in_sentences(page) for page in PAIRS[0])
    not_translated = {"craft-trainer bench step", "pip install -e '.[docs]' && mkdocs serve"}
    assert chinese == sorted(set(english) - not_translated)


def test_figures_are_the_same():
    """Seen to fail with 5 % for 4 %."""
    english, chinese = (figures(page) for page in PAIRS[0])
    assert english == chinese != []


@pytest.mark.parametrize("chinese", [pair[1] for pair in PAIRS], ids=lambda page: page.name)
def test_it_is_chinese(chinese):
    text = chinese.read_text()
    assert len(CHINESE.findall(text)) > 400
    assert not BROKEN.search(text), "a line break inside a sentence is shown as a space: one line per paragraph"
