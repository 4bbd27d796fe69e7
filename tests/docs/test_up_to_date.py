"""Pages that repeat what is said elsewhere say the same: settings, contributing, errors, the original's options."""

import ast
import importlib.util
import re
from itertools import pairwise

import pytest
from command_line import options
from pages import DOCS, ROOT, anchors, tokens

from craft_trainer.cli.hints import of_the_original
from craft_trainer.cli.main import main

OPTION = re.compile(r"`((?:cache |bench )?[\w-]+) --(\w+)`")


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_page_is_that_of_the_settings():
    """Seen to fail with another default in CraftConfig, and with a new key in a YAML file."""
    assert load(ROOT / "scripts/settings.py").page() == (DOCS / "settings.md").read_text(), "run scripts/settings.py"


def test_a_number_without_a_unit_is_found(monkeypatch):
    settings = load(ROOT / "scripts/settings.py")
    monkeypatch.delitem(settings.UNITS, "epsilon")
    with pytest.raises(KeyError, match="epsilon"):
        settings.page()


def test_contributing_is_the_same_on_the_site():
    """The site's page is the repository's, with links that fit its place. Seen to fail with a sentence taken out."""
    own = (ROOT / "CONTRIBUTING.md").read_text()
    own = own.replace("[docs/families.md](docs/families.md)", "[families.md](families.md)")
    own = own.replace("`docs/log.md`", "[the log](log.md)")
    assert (DOCS / "contributing.md").read_text() == own


LONG = 1500  # words, above which a page needs a reason


def running_words(page):
    """The words that are read through: no tables, headings and blocks of code."""
    count, skipped = 0, False
    for token in tokens(page):
        if token.type in ("table_open", "heading_open", "table_close", "heading_close"):
            skipped = token.type.endswith("open")
        elif token.type == "inline" and not skipped:
            seen = {"text": None, "code_inline": "code"}  # code is one word
            text = "".join(seen.get(child.type, " ") or child.content for child in token.children)
            count += len(re.findall(r"[A-Za-z0-9'’-]+", text))
    return count


def test_every_page_has_a_reader_and_a_long_one_a_reason():
    """The tables of the page for contributors. Seen to fail without a row, without a reason, and with an idle one."""
    said = (ROOT / "CONTRIBUTING.md").read_text().split("## The pages")[1].split("\n## ")[0]
    for_whom, reasons = said.split("No page has more than")
    pages = {page.name: page for page in DOCS.glob("*.md")}
    assert sorted(re.findall(r"`docs/([\w.]+)`", for_whom)) == sorted(pages)
    long = {name.removesuffix(".md") for name, page in pages.items() if running_words(page) > LONG}
    assert long == set(re.findall(r"`(\w+)`", reasons))


def cells(page):
    """The rows of a page's tables, as lists of Markdown texts."""
    rows, row = [], []
    for token in tokens(page):
        if token.type == "tr_open":
            row = []
        elif token.type == "inline":
            row.append(token.content)
        elif token.type == "tr_close":
            rows.append(row)
    return rows


def test_every_option_of_the_original_has_a_line():
    """The list was made from the original's files, not from this page. Seen to fail with a line deleted."""
    rows = cells(DOCS / "migration.md")
    said = {code for row in rows for code in re.findall(r"`([^`]+)`", row[0])}
    wanted = (ROOT / "tests/docs/original_options.txt").read_text().splitlines()
    wanted = [line.strip() for line in wanted if line.strip() and not line.startswith("#")]
    assert len(wanted) >= 80
    assert [option for option in wanted if option not in said] == []


def test_an_error_names_what_the_page_names():
    """Every option of the original is answered by a counterpart that its row names, or by nothing where it has none."""
    wanted = (ROOT / "tests/docs/original_options.txt").read_text().splitlines()
    for name in [line.strip().removeprefix("--") for line in wanted if line.strip() and not line.startswith("#")]:
        said = of_the_original(f"--{name}=1")
        assert said, name
        assert said == of_the_original(name)
        rows = [row for row in cells(DOCS / "migration.md") if f"`{name}`" in row[0] or f"`--{name}`" in row[0]]
        page, named = " ".join(" ".join(row) for row in rows), re.findall(r"`[^`]+ --[^`]+`", said)
        assert named or "nothing" in said, name
        assert ("nothing" in said) == all("—" in row[1:] for row in rows), name
        assert [words for words in named if words not in page] == [], name


@pytest.mark.parametrize("command", ["train", "cache build", "mcq"])
def test_a_command_answers_every_option_of_the_original(command, capsys):
    """In each of its three spellings: understood, or answered with its counterpart; none with a guess."""
    wanted = (ROOT / "tests/docs/original_options.txt").read_text().splitlines()
    for name in [line.strip().removeprefix("--") for line in wanted if line.strip() and not line.startswith("#")]:
        for words in ([f"--{name}=1"], [f"--{name}", "1"], [f"{name}=1"]):
            try:
                status = main([*command.split(), *words])
            except SystemExit as refused:
                status = refused.code
            said = capsys.readouterr().err
            assert status != 0, words
            assert "did you mean" not in said, (words, said)
            if f"no option {words[0].partition('=')[0]}" in said or not words[0].startswith("--"):
                assert "it is an option of the original project. Here: " in said, (words, said)


def test_what_the_migration_names_exists(monkeypatch):
    """Seen to fail with `train --retention_evry`."""
    named = OPTION.findall((DOCS / "migration.md").read_text())
    assert len(named) > 60
    known = {command: options(command, monkeypatch) for command in {command for command, _ in named}}
    assert [(command, name) for command, name in named if name not in known[command]] == []


def messages():
    """String literals of the package and its scripts, with … for what is filled in."""
    for path in [*ROOT.glob("craft_trainer/**/*.py"), *ROOT.glob("scripts/*.sh")]:
        if path.suffix == ".sh":
            yield path.read_text()
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%\.?\d*[a-z]", "…", node.value)


def quoted_errors():
    """Headings of the FAQ that are messages."""
    page = tokens(DOCS / "faq.md")
    for heading, inline in pairwise(page):
        if heading.type == "heading_open" and inline.content.startswith("`"):
            yield inline.content.strip("`")


def test_errors_of_the_faq_are_raised():
    """Seen to fail with a word of a message changed."""
    known = list(messages())
    assert len(anchors(DOCS / "faq.md")) > 30
    for error in quoted_errors():
        pattern = ".*".join(re.escape(part.strip()) for part in error.split("…"))
        assert any(re.search(pattern, message, re.DOTALL) for message in known), f"nothing says {error!r}"


def test_the_first_page_claims_what_the_readme_claims():
    """Figures, and what there is not yet. Seen to fail with 5 % for 4 %, and with a word of the list changed."""
    readme, index = (ROOT / "README.md").read_text(), (DOCS / "index.md").read_text()
    missing = re.search(r"\*\*Not yet:\*\* (.*?)\n\n", readme, re.DOTALL)[1]
    listed = index.split("## Not yet\n\n")[1]
    assert listed.lower().split() == missing.lower().split()
    claims = [sorted(re.findall(r"[\d.]+\s*%", text.split("\n## ")[0])) for text in (readme, index)]
    assert claims[0] == claims[1] != []
