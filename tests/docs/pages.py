"""What the documentation's pages hold: code blocks, links and headings, as a Markdown parser sees them."""

import re
import shlex
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "CONTRIBUTING.md"])
SHELL = ("bash", "sh", "shell", "console")
PROGRAMS = ("craft-trainer", "accelerate launch", "python -m craft_trainer", "bash scripts/", "pip install")
RUNNABLE = re.compile(r"<!-- runnable(?:: (\w+))? -->")


class Block(NamedTuple):
    """A code block: its page, first line, language, text, and what it needs to be run (None: it is not to be run)."""

    page: Path
    line: int
    language: str
    text: str
    runnable: str | None

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def tokens(page):
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def blocks(page):
    """Fenced and indented code; a comment `<!-- runnable -->` right before one says that it is to be run."""
    before = None
    for token in tokens(page):
        if token.type == "html_block":
            before = RUNNABLE.fullmatch(token.content.strip())
        elif token.type in ("fence", "code_block"):
            language = token.info.split()[0] if token.info else ""
            yield Block(page, token.map[0] + 1, language, token.content, before and (before[1] or "nothing"))
            before = None
        else:
            before = None


def command_lines(block):
    """The commands of a block without their comments, continued lines joined.

    Blocks without a language may be anything: of them only lines that begin with one of our programs count.
    """
    joined = block.text.replace("\\\n", " ")
    for line in joined.splitlines():
        if block.language in SHELL:
            if words := shlex.split(line, comments=True):
                yield words
        elif not block.language and line.startswith(PROGRAMS):
            yield shlex.split(line, comments=True)


def inline_codes(page):
    """Texts of `inline code`, with the line of their paragraph."""
    for token in tokens(page):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


def links(page):
    """Targets of links and images."""
    for token in tokens(page):
        for child in token.children or ():
            if child.type in ("link_open", "image"):
                yield child.attrs["src" if child.type == "image" else "href"]


def anchors(page):
    """Fragments of the headings, as GitHub makes them: lower case, no punctuation, a hyphen for every space."""
    found = []
    for heading, inline in pairwise(tokens(page)):
        if heading.type == "heading_open":
            text = "".join(child.content for child in inline.children if child.type in ("text", "code_inline"))
            found.append(re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-"))
    return found
