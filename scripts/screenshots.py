"""Pictures of a report in both themes, as docs/report.md shows them.

    python scripts/screenshots.py outputs/demo/report.html docs/images

Needs the extra ``browser``, Pillow and a Chromium on the PATH. Writes report-light.webp and report-dark.webp: the
headline and the bars of success beside the training figures.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

WIDTH, HEIGHT = 980, 1850  # CSS pixels of one picture
SECTIONS = ("header", "#training")  # where the two halves begin
GAP = 24
SCALE = 0.42  # of what is written, from two device pixels per CSS pixel


def main(page: Path, folder: Path) -> None:
    """Open ``page`` in either theme, take its two halves, write them side by side into ``folder``."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for theme in ("light", "dark"):
            context = browser.new_context(
                color_scheme=theme, viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=2
            )
            tab = context.new_page()
            tab.goto(page.resolve().as_uri())
            halves = [_shot(tab, selector) for selector in SECTIONS]
            target = folder / f"report-{theme}.webp"
            _beside(halves).save(target, quality=72, method=6)
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")
        browser.close()


def _shot(tab: Page, selector: str) -> Image.Image:
    top = tab.locator(selector).first.evaluate("one => one.getBoundingClientRect().top + scrollY")
    tab.evaluate("top => scrollTo(0, top - 32)", top)
    return Image.open(io.BytesIO(tab.screenshot()))


def _beside(halves: list[Image.Image]) -> Image.Image:
    width = sum(half.width for half in halves) + GAP * (len(halves) - 1)
    whole = Image.new("RGB", (width, halves[0].height), halves[0].getpixel((0, 0)))
    left = 0
    for half in halves:
        whole.paste(half, (left, 0))
        left += half.width + GAP
    return whole.resize((round(whole.width * SCALE), round(whole.height * SCALE)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
