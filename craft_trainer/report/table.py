"""Success per task and method as a table: for the terminal, for a README, for the page."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from craft_trainer.report.interval import percent
from craft_trainer.report.results import GROUPS, Count, Group, Results, method_label
from craft_trainer.report.summary import coverage

type TableKind = Literal["text", "markdown"]


@dataclass(frozen=True)
class Line:
    """One row of the table: a task, or the mean of its group; one cell per method, None where it was not evaluated."""

    label: str
    group: Group
    is_mean: bool
    cells: tuple[Count | None, ...]


def table_lines(results: Results) -> tuple[Line, ...]:
    """Old tasks, mean old, new tasks, mean new; every cell pooled over seeds, the means over tasks as well."""
    return tuple(line for group in GROUPS for line in _group_lines(results, group))


def _group_lines(results: Results, group: Group) -> Iterator[Line]:
    for task in results.stream.tasks(group):
        yield Line(task, group, False, tuple(results.count(method, group, task=task) for method in results.methods))
    yield Line(f"mean {group}", group, True, tuple(results.count(method, group) for method in results.methods))


def cell_text(count: Count | None) -> tuple[str, str]:
    """Success and its interval in %: ("93", "84–97"); a dash where nothing was measured."""
    if count is None:
        return "–", ""
    low, high = count.interval
    return percent(count.rate), f"{100 * low:.0f}–{100 * high:.0f}"


def format_table(results: Results, kind: TableKind = "text") -> str:
    """The table as ``text`` (aligned, for a terminal) or ``markdown``; ValueError for any other kind."""
    if kind == "text":
        return _text_table(results)
    if kind == "markdown":
        return _markdown_table(results)
    raise ValueError(f"kind is {kind!r}, expected 'text' or 'markdown'")


def _text_table(results: Results) -> str:
    lines = table_lines(results)
    columns = [
        _text_column(method_label(method), [line.cells[index] for line in lines])
        for index, method in enumerate(results.methods)
    ]
    labels = ["", *(line.label for line in lines)]
    width = max(map(len, labels))
    body = [
        "   ".join((f"  {label:<{width}}", *cells)).rstrip() for label, *cells in zip(labels, *columns, strict=True)
    ]
    rule = "  " + "─" * (max(map(len, body)) - 2)
    out = [body[0]]
    for line, text in zip(lines, body[1:], strict=True):
        starts_group = line.label in (results.stream.old[0], results.stream.new[0])
        out += [rule, text] if starts_group and not line.is_mean else [text]
    return "\n".join([*out, rule, f"  success in % (95 % interval), {coverage(results)}"])


def _text_column(header: str, counts: list[Count | None]) -> list[str]:
    """Cells of one width: the numbers end, and the intervals begin, one under the other."""
    texts = [cell_text(count) for count in counts]
    left = max(len(value) for value, _ in texts)
    cells = [f"{value:>{left}} {f'({interval})' if interval else ''}" for value, interval in texts]
    width = max(map(len, (header, *cells)))
    return [f"{header:<{width}}", *(f"{cell:<{width}}" for cell in cells)]


def _markdown_table(results: Results) -> str:
    header = ["success in %", *map(method_label, results.methods)]
    out = [_markdown_line(header), "|---|" + "---:|" * len(results.methods)]
    for line in table_lines(results):
        mark = "**" if line.is_mean else ""
        cells = [(f"{mark}{value}{mark}", interval) for value, interval in map(cell_text, line.cells)]
        out.append(_markdown_line([f"{mark}{line.label}{mark}", *(f"{v} ({i})" if i else v for v, i in cells)]))
    return "\n".join([*out, "", f"In brackets the 95 % Wilson interval; {coverage(results)}."])


def _markdown_line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
