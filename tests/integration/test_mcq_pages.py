"""The pages of the two Spaces in a real browser: paste items, press the button, read the numbers.

They need gradio, playwright (both are in the extra ``browser``) and a Chromium: ``playwright install chromium`` where
none is on the PATH.
Seen to fail: with the button not wired to its function, and with margin_gold's sign turned round.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

METRICS = Path(__file__).parents[2] / "craft_trainer/evaluation/metrics"
MISSING = [name for name in ("gradio", "playwright", "evaluate") if importlib.util.find_spec(name) is None]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"pip install {' '.join(MISSING)}: the pages need them"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH to open the pages with"),
]

ITEMS = """
{"choices": ["über", "a"], "log_likelihoods": [-4.0, -2.0], "answer_index": 0}
{"choices": ["x", "y", "z"], "log_likelihoods": [-1.5, -2.0, -7.0], "answer_index": 0}
"""
FIRST = """
{"id": "left", "log_likelihoods": [-1.0, -2.0], "answer_index": 0}
{"id": "right", "log_likelihoods": [-1.0, -2.0], "answer_index": 0}
"""
SECOND = FIRST.replace("[-1.0, -2.0]", "[-5.0, -2.0]", 1)


@pytest.fixture
def serve(tmp_path):
    """Starts the app of a folder with this Python and gives its address; stops it afterwards."""
    processes = []

    def start(folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        settings |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        with (tmp_path / "log").open("w") as log:
            command = [sys.executable, str(METRICS / folder / "app.py")]
            process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log, cwd=tmp_path)
        processes.append(process)
        wait_for(f"http://127.0.0.1:{port}", process, tmp_path / "log")
        return f"http://127.0.0.1:{port}"

    yield start
    for process in processes:
        process.terminate()
        process.wait(timeout=30)


def wait_for(address, process, log):
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the page did not start: {log.read_text()[-2000:]}")


@pytest.fixture
def page(tmp_path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 1000})
        tab.set_default_timeout(60_000)
        errors = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        yield tab
        folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
        tab.screenshot(path=folder / f"{tab.title().replace(' ', '_')}.png", full_page=True)
        browser.close()
    assert not errors


def cells(page, selector):
    """The rows of a shown table, as lists of texts; gradio names a cell by its row and column.

    Read at once, since gradio may be about to show another table.
    """
    shown = page.locator(f"{selector} [data-testid^=cell-]").evaluate_all(
        "cells => cells.map(cell => [cell.dataset.testid, cell.innerText])"
    )
    rows = {}
    for name, text in shown:
        row, column = map(int, name.split("-")[1:])
        rows.setdefault(row, {})[column] = text.strip()
    return [[text for _, text in sorted(row.items())] for _, row in sorted(rows.items())]


def pressed(page, button, texts, table, arrived):
    """Fill in ``texts``, press, and read ``table`` as soon as ``arrived(rows)``.

    More than once: what is typed into gradio's page before it is alive is lost, and a sentence and a table come one
    after the other.
    """
    for _ in range(6):
        for field, text in texts.items():
            page.locator(f"{field} textarea").fill(text)
        page.get_by_role("button", name=button, exact=True).click()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            rows = cells(page, table)
            if arrived(rows):
                return rows
            time.sleep(0.2)
    return rows


def test_the_metric_scores_what_is_pasted(serve, page):
    page.goto(serve("mcq_likelihood"))
    expected = [["0", "1", "False"], ["1", "0", "True"]]
    texts, shown = {"#items": ITEMS}, lambda rows: [row[:3] for row in rows]
    rows = pressed(page, "Score", texts, "#rows", lambda rows: shown(rows) == expected)
    page.get_by_text("2 items, accuracy 0.500").wait_for()
    means = dict(cells(page, "#means"))
    assert float(means["margin_gold"]) == pytest.approx((-2.0 + 0.5) / 2)
    assert float(means["margin_top2"]) == pytest.approx((2.0 + 0.5) / 2)
    assert float(means["accuracy_per_char"]) == 1.0  # -4/4 is above -2/1
    assert float(means["accuracy_per_byte"]) == 1.0
    assert shown(rows) == expected


def test_the_metric_says_what_is_wrong(serve, page):
    page.goto(serve("mcq_likelihood"))
    said = page.get_by_text("item 1: log_likelihoods holds nan")
    pressed(page, "Score", {"#items": ITEMS.replace("-7.0", "NaN")}, "#means", lambda _: said.is_visible())
    said.wait_for()
    assert not any(map(any, cells(page, "#means")))


def test_the_comparison_says_what_may_be_concluded(serve, page):
    page.goto(serve("mcq_comparison"))
    texts = {"#first": FIRST, "#second": SECOND}
    rows = pressed(page, "Compare", texts, "#numbers", lambda rows: dict(rows).get("right_to_wrong") == "left")
    page.get_by_text("Neither damage nor improvement may be concluded").wait_for()
    numbers = dict(rows)
    assert numbers["right_to_wrong"] == "left"
    assert float(numbers["accuracy_difference"]) == -0.5
    assert float(numbers["margin_gold_change"]) == pytest.approx(-2.0)
    assert float(numbers["mcnemar_p"]) == 1.0
