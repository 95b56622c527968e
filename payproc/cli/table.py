"""Tables as plain lines: columns and rows in, lines out.

What belongs here: how wide columns are, where text is broken, and how rows and columns are put together. Pure: where
the lines go, and how a style looks there, is screen.py's. Rich drew the same tables at fifty times the cost.

Widths follow the content of a sample of the rows, unless a column has a width of its own. A cell that is wider is
broken inside its column and never cut: an id that cannot be read whole cannot be looked up. A number is never broken.
Memory is flat: of the rows, only the sample is held.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import NamedTuple

SAMPLE_ROWS = 1_000
"""Rows whose content decides the widths, unless the caller gives others to measure."""

GAP = "  "
"""Between two columns."""

_NARROWEST = 2
"""A column that is not made narrower, with its part of the gap."""

_ONE_CELL = frozenset(map(chr, range(0x20, 0x7F))) | frozenset("→␣…–·─")
"""Characters known to take one cell each. For others, Rich's tables of widths are imported."""

_WORD = re.compile(r"\s*\S+\s*")


class Styled(NamedTuple):
    """A line of a cell in a style: bold, dim, red, green or yellow."""

    text: str
    style: str


Line = str | Styled

Cell = Line | list[Line]
"""One line, or several below each other."""

Row = Sequence[Cell]

Paint = Callable[[Styled], str]
"""Gives a text in its style as a terminal takes it, or as it is where styles are not shown."""


class Column(NamedTuple):
    """A column: its header, of one line or several, its width, and whether it holds numbers."""

    header: str
    width: int = 0
    """Cells that it takes; 0: as many as its content."""
    is_number: bool = False
    """Numbers stand at the right, and are not broken."""


def layout(
    columns: Sequence[Column],
    rows: Iterable[Row],
    width: int,
    paint: Paint,
    *,
    measured: Iterable[Row] | None = None,
    rule: str = "─",
) -> Iterator[str]:
    """Lay a table out in `width` cells: the header, a line below it, and the rows. A row without cells is a blank line.

    `measured` are the rows whose content decides the widths; without them, the first SAMPLE_ROWS do.
    """
    if measured is None:
        rows = iter(rows)
        measured = list(islice(rows, SAMPLE_ROWS))
        rows = chain(measured, rows)
    widths = column_widths(columns, measured, width)
    yield from _header(columns, widths, paint)
    yield rule * (sum(widths) + len(GAP) * (len(widths) - 1))
    for row in rows:
        yield from _row(columns, widths, row or [""] * len(columns), paint)


def column_widths(columns: Sequence[Column], rows: Iterable[Row], width: int) -> list[int]:
    """Return what each column takes: its content, and less of the widest where that is more than there is."""
    widths = [column.width or max(map(cell_width, column.header.split("\n"))) for column in columns]
    flexible = [number for number, column in enumerate(columns) if not column.width]
    for row in rows if flexible else ():
        for number in flexible if row else ():
            cell = row[number]
            for line in cell if isinstance(cell, list) else (cell,):
                taken = cell_width(line.text if isinstance(line, Styled) else line)
                widths[number] = max(widths[number], taken)
    _shrink(widths, [number for number, column in enumerate(columns) if not column.is_number], width)
    return widths


def _shrink(widths: list[int], shrinking: Sequence[int], width: int) -> None:
    """Take from the widest of the columns `shrinking`, as evenly as Rich does, until all columns fit into `width`."""
    last = len(widths) - 1
    excess = sum(widths) + len(GAP) * last - width
    while excess > 0:
        taken = {number: widths[number] + (number < last) for number in shrinking}  # with a part of the gap
        widest = max(taken.values(), default=_NARROWEST)
        if widest == _NARROWEST:
            return
        step = widest - max([_NARROWEST, *(each for each in taken.values() if each != widest)])
        most = min(excess, step)
        tied = [number for number in shrinking if taken[number] == widest]
        for left, number in zip(range(len(tied), 0, -1), tied, strict=True):
            cut = min(most, round(excess / left))
            widths[number] -= cut
            excess -= cut


def _header(columns: Sequence[Column], widths: Sequence[int], paint: Paint) -> Iterator[str]:
    """The headers stand on the line below them."""
    cells = [
        [line for part in column.header.split("\n") for line in folded(part, width)]
        for column, width in zip(columns, widths, strict=True)
    ]
    height = max(map(len, cells))
    yield from _row(
        columns,
        widths,
        [[*[""] * (height - len(cell)), *(Styled(line, "bold") for line in cell)] for cell in cells],
        paint,
    )


def _row(columns: Sequence[Column], widths: Sequence[int], row: Row, paint: Paint) -> Iterator[str]:
    """A row takes as many lines as its highest cell."""
    cells = [
        _cell(cell, width, column.is_number, paint) for cell, width, column in zip(row, widths, columns, strict=True)
    ]
    if all(len(cell) == 1 for cell in cells):
        yield GAP.join([cell[0] for cell in cells])
        return
    blanks = [" " * width for width in widths]
    for lines in zip_longest(*cells):
        yield GAP.join([blank if line is None else line for line, blank in zip(lines, blanks, strict=True)])


def _cell(cell: Cell, width: int, is_number: bool, paint: Paint) -> list[str]:
    """Return the lines of a cell, each as wide as its column."""
    if isinstance(cell, list):
        return [shown for line in cell for shown in _cell(line, width, is_number, paint)]
    text, style = cell if isinstance(cell, Styled) else (cell, "")
    if not style and len(text) <= width and text.isascii():  # as most are, and it takes half the time
        return [text.rjust(width) if is_number else text.ljust(width)]
    lines = []
    for part in [text] if is_number else folded(text, width):
        blank = " " * (width - cell_width(part))
        shown = paint(Styled(part, style)) if style else part
        lines.append(blank + shown if is_number else shown + blank)
    return lines


def folded(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` cells: between words, and inside a word that is longer than a line."""
    if cell_width(text) <= width:
        return [text]
    lines = []
    line = ""
    for word in _WORD.findall(text):
        if cell_width(line + word.rstrip()) <= width:
            line += word
            continue
        if line:
            lines.append(line.rstrip())
        *full, line = _chopped(word, width)
        lines += full
    return [*lines, line.rstrip()]


def _chopped(word: str, width: int) -> list[str]:
    """Break a word where a line is full. A character of no width stays with the one before it."""
    if _ONE_CELL.issuperset(word):
        bare = word.rstrip()
        *full, last = [bare[start : start + width] for start in range(0, len(bare), width)] or [""]
        return [*full, last + word[len(bare) :]]
    lines = [""]
    taken = 0
    for character in word:
        size = cell_width(character)
        if taken + size > width and not character.isspace():
            lines.append("")
            taken = 0
        lines[-1] += character
        taken += size
    return lines


def cell_width(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii() or _ONE_CELL.issuperset(text):
        return len(text)
    from rich.cells import cell_len  # Unicode's widths, of which an ordinary table needs none

    return cell_len(text)
