"""From a matplotlib figure to SVG inside a page, or to an image file that stands alone."""

import re
from collections.abc import Callable
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

type Draw = Callable[[], Figure]

PAGE_INK = "#010203"  # a colour no figure uses otherwise: becomes currentColor, so that the page's theme decides
PAPER_INK = "#1f2328"
PAGE_PAPER = "#040506"  # the same for what is as light as the paper: becomes the card of the page
WIDTH_INCHES = 8.0
PNG_DPI = 200
ON_SCREEN = 1.4  # pixels for a point: as wide as a page of text
ROOT = (
    'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
    'aria-labelledby="{0}-title {0}-description"><title id="{0}-title">{1}</title><desc id="{0}-description">{2}</desc>'
)
TEMPLATES = Path(__file__).parents[1] / "templates"
STYLE, PAGE_STYLE = TEMPLATES / "figure.mplstyle", TEMPLATES / "report.css"
END_OF_COLOURS = "* {"  # what follows the colours of both themes in the page's style
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', 'DejaVu Sans', sans-serif"
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # no clock, no version: same input, same bytes

# Okabe & Ito 2008, "Color Universal Design": told apart with any common colour blindness.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE, YELLOW, GREY = "#56B4E9", "#E69F00", "#F0E442", "#8C8C8C"
THEMED = {  # on a page each is a variable of its style sheet, which has a shade for light and one for dark paper
    "blue": BLUE, "vermillion": VERMILLION, "green": GREEN, "purple": PURPLE,
    "sky": SKY, "orange": ORANGE, "yellow": YELLOW, "grey": GREY,
}  # fmt: skip


def blank_figure(height_inches: float) -> Figure:
    """An empty figure of the page's width whose layout keeps labels from overlapping."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.05))
    FigureCanvasAgg(figure)
    return figure


def inline_svg(draw: Draw, name: str, title: str, description: str) -> str:
    """The figure as an <svg> element for HTML: text stays text, ink is currentColor, ids begin with ``name``.

    Colours are ``var(--blue)`` and so on, so that each theme has shades that stand out from its paper.
    """
    svg = _save(draw, "svg", ink=PAGE_INK, paper=PAGE_PAPER, background="none", salt=name).decode()
    svg = svg[svg.index("<svg") :].replace(PAGE_INK, "currentColor").replace(PAGE_PAPER, "var(--card, white)")
    for variable, colour in THEMED.items():
        svg = svg.replace(colour.lower(), f"var(--{variable}, {colour})")
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)  # hundredths of a point
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box, "matplotlib wrote an SVG without a viewBox"
    return f"<svg {view_box[0]} {ROOT.format(name, escape(title), escape(description))}{svg[svg.index('>') + 1 :]}"


def themed_svg(draw: Draw, name: str, title: str, description: str) -> bytes:
    """The figure as an SVG file in two themes: it is light or dark as the reader's screen is, by the page's colours."""
    svg = inline_svg(draw, name, title, description)
    colours = PAGE_STYLE.read_text("utf-8").split(END_OF_COLOURS)[0]
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box, "matplotlib wrote an SVG without a viewBox"
    width, height = (round(ON_SCREEN * float(side)) for side in box.groups())
    style = f"<style>{colours}svg {{ color: var(--ink) }} svg text {{ font-family: {FONTS} !important }}</style>"
    paper = '<rect width="100%" height="100%" style="fill: var(--card)"/>'
    end = svg.index("</desc>") + len("</desc>")
    return f'<svg width="{width}" height="{height}"{svg[4:end]}{style}{paper}{svg[end:]}'.encode()


def standalone_image(draw: Draw, file_format: str) -> bytes:
    """The figure on white, as ``svg`` or ``png`` bytes."""
    return _save(draw, file_format, ink=PAPER_INK, paper="white", background="white", salt="figure")


def _save(draw: Draw, file_format: str, **named: str) -> bytes:
    """The figure in the style of figure.mplstyle, filled in with what is ``named``."""
    style = STYLE.read_text("utf-8").format(**named)
    theme: dict[Any, Any] = dict(line.split(": ", 1) for line in style.splitlines() if line)
    png = {"dpi": PNG_DPI, "metadata": {"Software": None}}
    buffer = BytesIO()
    with rc_context(theme):
        draw().savefig(buffer, format=file_format, **(png if file_format == "png" else {"metadata": NO_METADATA}))
    return buffer.getvalue()
