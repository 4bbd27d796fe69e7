"""The page is well-formed, self-contained and says what the files say."""

import builtins
import errno
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import craft_trainer.report
from craft_trainer.report import Results, load_results, verdict, write_report, write_success_figure
from craft_trainer.report.wording import duration

type Document = dict[str, Any]
type Write = Callable[[Document], Path]

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}
LOADING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}


class Page(HTMLParser):
    """Every element, and the text of the page; fails on an end tag that does not match its start tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, *names: str) -> list[str]:
        return [value for _, attributes in self.elements for name, value in attributes.items() if name in names]


@pytest.fixture
def results_path(document: Document, write_results: Write) -> Path:
    return write_results(document)


@pytest.fixture
def html(results_path: Path, write_history: Callable[..., Path]) -> str:
    write_history(0)
    write_history(1, multiplier=0.5)
    return write_report(results_path).read_text(encoding="utf-8")


def test_it_is_written_beside_the_results(results_path: Path) -> None:
    assert write_report(results_path) == results_path.with_name("report.html")
    assert write_report(results_path, results_path.with_name("other.html")).is_file()
    assert not list(results_path.parent.glob("*.tmp")) + list(results_path.parent.glob(".*"))


def test_it_is_well_formed_and_has_three_figures_with_names(html: str) -> None:
    page = Page(html)
    figures = [attributes for tag, attributes in page.elements if tag == "svg"]
    ids = set(page.attributes("id"))
    assert [figure["role"] for figure in figures] == ["img"] * 3
    assert all(set(figure["aria-labelledby"].split()) <= ids for figure in figures)
    assert Counter(tag for tag, _ in page.elements)["title"] == 4


def test_no_id_is_used_twice_and_every_reference_has_its_target(html: str) -> None:
    page = Page(html)
    ids = Counter(page.attributes("id"))
    assert [name for name, number in ids.items() if number > 1] == []
    inner = [value.removeprefix("#") for value in page.attributes("href", "xlink:href") if value.startswith("#")]
    targets = inner + re.findall(r"url\(#([^)]+)\)", html)
    assert targets
    assert set(targets) <= set(ids)


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    page = Page(html)
    loads = [value for value in page.attributes(*LOADING) if not value.startswith("#")]
    assert loads == ["data:,"]
    assert not {"script", "iframe", "object", "embed", "img"} & {tag for tag, _ in page.elements}
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []


def test_ink_follows_the_theme(html: str) -> None:
    assert "#010203" not in html
    assert html.count("currentColor") > 50
    assert "prefers-color-scheme: dark" in html


def test_it_says_the_verdict_and_the_numbers(html: str, results_path: Path) -> None:
    page = Page(html)
    text = page.text.replace("\u00a0", " ")
    assert verdict(load_results(results_path)) in text
    assert "40 (30–51)" in " ".join(text.split())
    assert "λ ends at 0.65" in text
    for expected in ("train.learning_rate", "1e-05", "[-2, -1]", "12.3 s", "1 h 02 min", "push-v3"):
        assert expected in text


def test_text_in_the_figures_is_text(html: str) -> None:
    figure = html[html.index("<svg") : html.index("</svg>")]
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", figure)
    assert {"push-v3", "reach-v3", "mean old", "window-close-v3", "CRaFT", "98"} <= set(labels)
    assert "mean new" not in labels, "the mean of one task repeats it"


def test_without_a_history_one_sentence_takes_its_place(results_path: Path) -> None:
    page = Page(write_report(results_path).read_text(encoding="utf-8"))
    assert Counter(tag for tag, _ in page.elements)["svg"] == 1
    assert page.text.count("What the constraint did during training is not shown: no seed0/craft") == 1


def test_the_time_is_that_on_the_clock_where_it_is_known(document: Document, write_results: Write) -> None:
    assert "<summary>Time: 1 h 02 min</summary>" in write_report(write_results(document)).read_text()
    document["seconds"]["total"] = 2000.0
    assert "<summary>Time: 33 min 20 s</summary>" in write_report(write_results(document)).read_text()


def test_names_are_escaped(document: Document, write_results: Write) -> None:
    evil = "<script src='http://x'>$a$ 0.12345"
    document["stream"]["new"] = [evil]
    for row in document["rows"]:
        row["task"] = row["task"].replace("window-close-v3", evil)
    page = Page(write_report(write_results(document)).read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.elements}
    figure = page.text[page.text.index("all seeds together") : page.text.index("Task by task")]
    assert evil in figure
    assert page.text.count(evil) >= 3


def test_the_same_input_gives_the_same_bytes(results_path: Path, write_history: Callable[..., Path]) -> None:
    write_history(0)
    assert write_report(results_path).read_bytes() == write_report(results_path).read_bytes()


def test_a_failed_write_leaves_the_old_page(results_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = results_path.with_name("report.html")
    target.write_text("old")

    def fail(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(results_path)
    assert target.read_text() == "old"
    assert {path.name for path in results_path.parent.iterdir()} == {"results.json", "report.html"}


@pytest.fixture
def results(results_path: Path) -> Results:
    return load_results(results_path)


def test_success_figure_as_svg_is_on_white(results: Results, tmp_path: Path) -> None:
    path = write_success_figure(results, tmp_path / "success.svg")
    svg = path.read_text(encoding="utf-8")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "fill: #ffffff" in svg
    assert "currentColor" not in svg


def test_success_figure_as_png(results: Results, tmp_path: Path) -> None:
    data = write_success_figure(results, tmp_path / "success.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20]) == 1600


def test_success_figure_with_another_ending_is_refused(results: Results, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in '\.pdf', expected \.svg or \.png"):
        write_success_figure(results, tmp_path / "success.pdf")


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_the_extra_the_error_says_how_to_install_it(
    results_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in list(sys.modules):
        if name.startswith(tuple(f"craft_trainer.report.{part}" for part in ("page", "pictures", "figures"))):
            monkeypatch.delitem(sys.modules, name)
    real_import = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"needs {package}.*pip install 'craft-trainer\[report\]'"):
        write_report(results_path)


def test_the_whole_report_is_written_without_torch_and_pyplot(results_path: Path) -> None:
    """In a fresh process under an empty parent package: what is loaded, and that rcParams stay as they were."""
    program = (
        "import sys, types, matplotlib; before = matplotlib.rcParams.copy()\n"
        "package = sys.modules['craft_trainer'] = types.ModuleType('craft_trainer')\n"
        f"package.__path__ = [{str(Path(craft_trainer.report.__file__).parents[1])!r}]\n"
        "from craft_trainer.report import write_report\n"
        f"write_report({str(results_path)!r})\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "heavy = {'torch', 'transformers', 'lerobot', 'datasets', 'matplotlib.pyplot', 'craft_trainer.training'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (59.97, "1 min 00 s"), (3725.0, "1 h 02 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
