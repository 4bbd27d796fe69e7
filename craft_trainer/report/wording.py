"""Numbers and names as they are written in sentences, tables and figures."""

import re
from collections.abc import Callable, Sequence
from math import acos, degrees, isfinite, isnan

from craft_trainer.report.results import Count, Interval

DASH = "–"  # where nothing was measured
MARKS = re.compile(r"[\\`*<>\[\]|]")  # with which Markdown makes HTML, links, images, code, emphasis and cells


class Markdown(str):
    """Text that is Markdown already; any other text is escaped where it is put into Markdown."""

    __slots__ = ()


def in_markdown(text: str) -> Markdown:
    """``text`` in one line of Markdown: a stranger's name adds no HTML, link, picture, cell or heading."""
    if isinstance(text, Markdown):
        return text
    return Markdown(MARKS.sub(r"\\\g<0>", re.sub(r"\s*[\r\n\v\f\x85\u2028\u2029]\s*", " ", text)))


def code(text: str) -> Markdown:
    """``text`` as code in Markdown, in a table or outside."""
    return Markdown(f"`{re.sub(r'[`\s]+', ' ', text).replace('|', chr(92) + '|')}`")


def percent(fraction: float | None) -> str:
    """``fraction`` ≥ 0 in whole per cent, without the sign: 0.98 → ``98``.

    Only an exact 0 or 1 is written 0 or 100: 299 of 300 is ``99.7``, 1 of 5000 is ``<0.1``.
    """
    if fraction is None or isnan(fraction):
        return DASH
    value = 100 * fraction
    if 0 < value < 0.5 or 99.5 <= value < 100:
        return "<0.1" if value < 0.05 else ">99.9" if value >= 99.95 else f"{value:.1f}"
    return f"{value:.0f}"


def short(value: float) -> str:
    """A number ≥ 0 in two significant digits."""
    return "not finite" if not isfinite(value) else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def short_percent(fraction: float) -> str:
    """``fraction`` ≥ 0 in per cent in two significant digits, without the sign."""
    return short(100 * fraction)


def signed(value: float, how: str = ".2f") -> str:
    """A number with a true minus sign, which 0.00 has not, by default with two decimals."""
    text = f"{value:{how}}"
    return DASH if isnan(value) else text.replace("-", "" if not text.strip("+-0.") else "−")


def angle(cosine: float) -> str:
    """The angle of a cosine from 0° to 180°: ``96°``."""
    return DASH if isnan(cosine) else f"{degrees(acos(max(-1.0, min(1.0, cosine)))):.0f}°"


def spread(values: Sequence[float], write: Callable[[float], str]) -> str:
    """The lowest and the highest: ``47 to 95``, or ``47`` where they are written alike."""
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low} to {high}"


def within(interval: Interval) -> str:
    """An interval in whole per cent: ``84–97``."""
    return f"{100 * interval.low:.0f}–{100 * interval.high:.0f}"


def rate(count: Count | None) -> str:
    """Success and its 95 % interval in per cent: ``93 (84–97)``."""
    return DASH if count is None else f"{percent(count.rate)} ({within(count.interval)})"


def plural(number: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shortened(name: str, longest: int = 32) -> str:
    """The end of a name: ``…that/is/longer``."""
    return name if len(name) <= longest else "…" + name[1 - longest :]


def duration(seconds: float) -> str:
    """A time: ``4.2 s``, ``3 min 20 s``, ``1 h 05 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
