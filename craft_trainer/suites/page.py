"""A page with tables and pictures of suites: what stands between two comments is written anew from raw results."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from craft_trainer.report.tables import Table
from craft_trainer.report.wording import in_markdown
from craft_trainer.suites.curves import steps_table
from craft_trainer.suites.runs import Run, read_runs
from craft_trainer.suites.suite import NAME
from craft_trainer.suites.tables import differences_table, seconds_table, stream_table, suite_table

TABLES = {"seconds": seconds_table, "steps": steps_table}
PICTURES = ("frontier", "budgets", "matrix", "curves")
BLOCK = re.compile(
    rf"<!-- suite: (?P<suite>{NAME})(?:/(?P<stream>{NAME}))?"
    rf"(?: (?:against (?P<rival>{NAME})|(?P<what>{'|'.join([*TABLES, *PICTURES])})))?"
    r"(?: of (?P<methods>[^>\n]+?))? -->(?P<line_end>\r?\n)"
)
BEGINNING = re.compile(r"^<!-- suite: ", re.MULTILINE)
END = "<!-- end of suite -->"


@dataclass(frozen=True)
class Written:
    """A page with its tables, and the pictures that it shows: SVG by file name."""

    text: str
    blocks: int
    pictures: dict[str, bytes]


def written(page: str, raw: Path, pictures: str) -> Written:
    """Write every block of ``page`` anew: what stands between ``<!-- suite: … -->`` and ``<!-- end of suite -->``.

    The first comment says what it is of: ``NAME/STREAM`` is a table of one stream, ``NAME`` of all streams together.
    ``against METHOD`` behind either is a table of the paired differences to a method, ``seconds`` of the times,
    ``steps`` of how fast the new task is learned, and ``frontier``, ``budgets``, ``matrix`` or ``curves`` a picture.
    ``of METHOD = words, METHOD`` behind all that chooses and names the methods. Pictures are in the folder
    ``pictures``, as seen from the page.

    Raises:
        ValueError: a block has no end, says what is not known, or has nothing to show.
    """
    parts, position, drawn, blocks = [], 0, dict[str, bytes](), 0
    while starts := BEGINNING.search(page, position):
        begins = BLOCK.match(page, starts.start())
        if begins is None:
            line = page[starts.start() :].partition("\n")[0]
            raise ValueError(f"{line}: expected <!-- suite: NAME/STREAM against METHOD of METHODS -->, parts left out")
        end = page.find(END, begins.end())
        if end < 0 or BEGINNING.search(page, begins.end(), end):
            raise ValueError(f"{begins[0].strip()} has no {END} behind it")
        block = f"\n{_block(begins, raw, pictures, drawn)}\n\n"
        parts += [page[position : begins.end()], block.replace("\n", begins["line_end"])]
        position, blocks = end, blocks + 1
    return Written("".join([*parts, page[position:]]), blocks, drawn)


def _block(begins: re.Match[str], raw: Path, folder: str, drawn: dict[str, bytes]) -> str:
    """The Markdown of one block; a picture is put into ``drawn``."""
    runs = read_runs(raw, begins["suite"])
    if begins["methods"]:
        runs = chosen(runs, begins["methods"])
    if stream := begins["stream"]:
        there = sorted({run.stream for run in runs})
        runs = [run for run in runs if run.stream == stream]
        if not runs:
            raise ValueError(f"no raw result of the stream {stream}; there are {', '.join(there)}")
    if begins["what"] not in PICTURES:
        table = _table(begins, runs)
        if not table.rows:
            raise ValueError(f"{begins[0].strip()}: no raw result has what this table shows: leave the block out")
        return table.markdown()
    from craft_trainer.suites.curve_pictures import curves_picture  # matplotlib only where a page has a picture
    from craft_trainer.suites.pictures import DRAWN
    from craft_trainer.suites.text_pictures import text_frontier_picture

    draws = DRAWN | {"curves": curves_picture} | ({"frontier": text_frontier_picture} if runs[0].losses else {})
    name = "-".join(filter(None, (begins["suite"], stream, begins["what"])))
    picture = draws[begins["what"]](runs)
    svg = picture.svg(name)
    if drawn.setdefault(f"{name}.svg", svg) != svg:
        raise ValueError(f"{begins[0].strip()}: a picture {name}.svg of other methods is on this page already")
    return f"![{in_markdown(f'{picture.title}. {picture.description}')}]({folder}/{name}.svg)"


def _table(begins: re.Match[str], runs: Sequence[Run]) -> Table:
    if begins["rival"]:
        return differences_table(begins["rival"], runs)
    if begins["what"]:
        return TABLES[begins["what"]](runs)
    return stream_table(runs) if begins["stream"] else suite_table(runs)


def chosen(runs: Sequence[Run], methods: str) -> list[Run]:
    """The runs of ``METHOD = words, METHOD``, in this order, each with its words; with or without a budget.

    Raises:
        ValueError: there is no run of a method, or two entries choose the same.
    """
    found: list[Run] = []
    entries: dict[str, str] = {}
    for entry in methods.split(","):
        method, _, words = (part.strip() for part in entry.partition("="))
        mine = [run for run in runs if method in (run.name, run.method)]
        if not mine:
            there = ", ".join(dict.fromkeys(run.method for run in runs))
            raise ValueError(f"no raw result of {method}; there are {there}")
        if twice := next((run.method for run in mine if run.method in entries), None):
            raise ValueError(f"of {methods}: {entries[twice]!r} and {method!r} both choose {twice}: choose it once")
        entries |= {run.method: method for run in mine}
        found += [replace(run, words=words or run.words) for run in mine]
    return found
