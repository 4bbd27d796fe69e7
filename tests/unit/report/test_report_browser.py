"""The page in a real browser: seen, read aloud, driven by keyboard, printed; light and dark.

They need the extra ``browser`` (playwright, axe-playwright-python) and a Chromium on the PATH:
``pip install 'craft-trainer[browser]'`` and ``apt install chromium``; without they are skipped.
"""

import importlib.util
import shutil

import pytest
from report_inputs import write_demo, write_mcq, write_rollout, write_run

from craft_trainer.report import gather, write_page

MISSING = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OFFLINE = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: pip install 'craft-trainer[browser]'"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH to open the page with"),
]

PAGES = ("demo", "comparison", "many")
THEMES = ("light", "dark")
A4 = {"width": 673, "height": 1002}  # CSS pixels between margins of 16 mm
INTERACTIVE = "a[href], summary, button, input, select, textarea, [role='region']"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One demo; one of everything, compared; thirty runs. By name, as files."""
    folder = tmp_path_factory.mktemp("pages")
    one = write_demo(folder / "one", old=("push-v3", "a-task-whose-name-is-longer-than-most-v3"))
    other = write_demo(folder / "other", seeds=(0,), settings={"policy": "act", "epsilon": 0.01})
    runs = [write_run(folder / "craft"), write_run(folder / "plain", history=False, record=False, steps=(40, 60))]
    tasks = [f"a_task_whose_name_is_long_{n}-v3" for n in range(10)]
    rollouts = [write_rollout(folder / f"{name}.json", tasks=tasks) for name in ("first", "second")]
    mcq = [write_mcq(folder / "mcq.json"), write_mcq(folder / "alone.json", compare=False)]
    many = [write_run(folder / f"many/{n:02}", retention_loss=0.002 * n, multiplier=n) for n in range(30)]
    evidence = {
        "demo": gather(results=[str(one)]),
        "comparison": gather(
            results=[str(one), str(other)],
            runs=[str(path) for path in runs],
            rollouts=[str(path) for path in rollouts],
            choices=[str(path) for path in mcq],
        ),
        "many": gather(runs=[str(path) for path in many]),
    }
    return {name: write_page(found, folder / f"{name}.html") for name, found in evidence.items()}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OFFLINE))
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser, pages):
    """Open a page in a theme; afterwards nothing may have gone wrong in it, nor left it."""
    contexts, wrong = [], []

    def open_page(name, theme="light", width=1280, media="screen"):
        context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 900})
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        tab.on("pageerror", lambda error: wrong.append(f"error {error}"))
        tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        tab.on("request", lambda request: wrong.append(request.url) if not allowed(request.url) else None)
        tab.emulate_media(media=media, color_scheme=theme)
        tab.goto(pages[name].as_uri())
        return tab

    def allowed(url):
        return url in {path.as_uri() for path in pages.values()} or url == "data:,"

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == [], "an error, or a request that leaves the page"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_serious_fault(show, name, theme):
    """Everything unfolded. Seen to fail with --soft #8d949c, and with a skip link that leads nowhere."""
    from axe_playwright_python.sync_playwright import Axe

    tab = show(name, theme)
    unfold(tab)
    found = Axe().run(tab).response
    assert len(found["passes"]) > 15, "axe looked at little"
    told = [
        f"{one['impact']} {one['id']}: {one['help']} {node['html'][:200]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
    assert told == []


def unfold(tab):
    tab.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")


def test_the_themes_are_two_and_ink_follows(show):
    """Seen to fail with the rule for dark removed, and with black for currentColor."""
    ink = "getComputedStyle(document.querySelector('figure svg text')).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = (show("demo", theme) for theme in THEMES)
    assert lightness(light.evaluate(paper)) > 200 > 60 > lightness(light.evaluate(ink))
    assert lightness(dark.evaluate(ink)) > 200 > 60 > lightness(dark.evaluate(paper))


def lightness(colour):
    red, green, blue = (int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    return (red + green + blue) / 3


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_can_be_read_without_being_seen(show, name):
    """Its name and its sentence are what assistive technology is given, and numbers stand in a table beside it.

    Seen to fail with the desc of a figure left empty, and with th without scope.
    """
    tab = show(name)
    figures = tab.get_by_role("img").all()
    assert len(figures) == tab.locator("svg").count() >= 3
    names = [figure.locator("title").text_content().strip() for figure in figures]
    assert len(set(names)) == len(names)
    assert all(names)
    assert all(len(figure.locator("desc").text_content().strip()) > 20 for figure in figures)
    captions = tab.eval_on_selector_all("table", "all => all.map(one => one.caption && one.caption.textContent.trim())")
    assert captions
    assert all(captions)
    unscoped = tab.locator("th:not([scope])").count()
    assert unscoped == 0
    for figure in tab.locator("figure").all():
        assert figure.evaluate("one => [...one.closest('section').querySelectorAll('table')].length") > 0


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_everything_and_shows_where_it_is(show, name):
    """Tab goes through all that can be used, in the order of the page, each with an outline.

    Seen to fail with tabindex -1 on a region, and with `outline: none`.
    """
    tab = show(name)
    wanted = tab.locator(INTERACTIVE).evaluate_all("all => all.filter(one => one.checkVisibility()).length")
    tab.evaluate("window.reached = []")
    for _ in range(wanted):
        tab.keyboard.press("Tab")
        outline = tab.evaluate("""() => {
            reached.push(document.activeElement);
            const style = getComputedStyle(document.activeElement);
            return style.outlineStyle + ' ' + parseFloat(style.outlineWidth);
        }""")
        assert outline.split()[0] != "none"
        assert float(outline.split()[1]) >= 2
    assert tab.evaluate(f"new Set(reached).size === {wanted}")
    assert tab.evaluate(f"reached.every(one => one.matches({INTERACTIVE!r}))")
    order = tab.evaluate("reached.every((one, i) => !i || reached[i - 1].compareDocumentPosition(one) & 4)")
    assert order, "focus jumps back"


def test_the_skip_link_comes_first_and_skips(show):
    tab = show("demo")
    tab.keyboard.press("Tab")
    skip = tab.get_by_text("Skip to the findings")
    assert skip.evaluate("one => one === document.activeElement && one.getBoundingClientRect().top >= 0")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "content"


def test_what_is_folded_opens_with_enter(show):
    tab = show("demo")
    summary = tab.get_by_text("Seed by seed", exact=True)
    row = tab.get_by_role("rowheader", name="seed 1", exact=True, include_hidden=True).first
    assert not row.is_visible()
    summary.focus()
    tab.keyboard.press("Enter")
    assert row.is_visible()


def test_a_wide_table_scrolls_with_the_arrow_keys(show):
    """Seen to fail with `overflow: hidden`."""
    tab = show("comparison", width=360)
    region = tab.get_by_role("region", name="Success of every method")
    region.focus()
    assert region.evaluate("one => one.scrollWidth > one.clientWidth")
    for _ in range(4):
        tab.keyboard.press("ArrowRight")
    tab.wait_for_function("document.activeElement.scrollLeft > 0")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_the_page_itself_never_scrolls_sideways(show, name, width):
    """Everything unfolded. Seen to fail without the scrolling regions."""
    tab = show(name, width=width)
    unfold(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", PAGES)
def test_print_loses_nothing(show, name):
    """On A4, from the dark theme: black on white, nothing cut off at the right, nothing folded away.

    Seen to fail with the print rules for details, for cells and for colours taken out, one after the other.
    """
    tab = show(name, "dark", media="print")
    tab.set_viewport_size(A4)
    beyond = tab.evaluate("""() => [...document.querySelectorAll('body *')]
        .filter(one => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1)
        .map(one => one.tagName + ' ' + one.textContent.trim().slice(0, 60))""")
    assert beyond == []
    clipped = tab.evaluate("""() => [...document.querySelectorAll('body *')]
        .filter(one => one.clientWidth && one.scrollWidth > one.clientWidth + 1)
        .filter(one => getComputedStyle(one).overflowX !== 'visible').length""")
    assert clipped == 0
    hidden = tab.locator("details table").evaluate_all("all => all.filter(one => !one.checkVisibility()).length")
    assert tab.locator("details table").count() > 2
    assert hidden == 0
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    assert lightness(tab.evaluate("getComputedStyle(document.body).color")) == 0
    assert tab.pdf(format="A4").startswith(b"%PDF")
