"""Tables as plain lines: columns and rows in, lines out.

Belongs here: the widths of columns, the wrapping of text, and the layout of rows. The module is
pure: console.py knows the stream and its styles. Rich drew the same tables at fifty times the cost.

Widths follow the content of a sample of the rows, unless a column has a fixed width. Where they do
not fit, prose wraps and paths are cut on the left before an id breaks. An id wraps and is never
truncated, because a user looks it up by its whole text. A number never wraps. Memory is flat: only
the sample of the rows is held.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import NamedTuple

from payproc.cli.place import Place, fit_place

SAMPLE_ROWS = 1_000
"""Rows whose content decides the widths, unless the caller gives others to measure."""

GAP = "  "
"""Between two columns."""

_MIN_COLUMN_WIDTH = 2
"""Width, including its part of the gap, below which no column shrinks."""

_ONE_CELL = frozenset(map(chr, range(0x20, 0x7F))) | frozenset("→␣…–·─")
"""Characters known to take one cell each. Others need Rich's tables of widths."""

_WORD = re.compile(r"\s*\S+\s*")

_UNBROKEN = re.compile(r"\S+(?: →)?")
"""A word, with the arrow that a transition leaves at the end of a line."""

_MAX_WORD_WIDTH = 24
"""Width that prose keeps for its longest word before an id breaks."""


class Styled(NamedTuple):
    """A line of a cell in a style: bold, dim, red, green or yellow."""

    text: str
    style: str


Line = str | Styled | Place

Cell = Line | list[Line]
"""One line, or a list of lines."""

Row = Sequence[Cell]

Paint = Callable[[Styled], str]
"""Function that adds the control sequences of a style, where a screen shows styles."""


class Column(NamedTuple):
    """A column. Its header has one line or several."""

    header: str
    width: int = 0
    """Fixed width in cells; 0 follows the content."""
    is_number: bool = False
    """Numbers align right and never wrap."""
    is_id: bool = False
    """Ids keep their width until no other column can give any."""


Layout = Sequence[Sequence[int]]
"""The columns to print, each with the numbers of the fields that it stacks from top to bottom."""


def lay_out(
    columns: Sequence[Column],
    rows: Iterable[Row],
    width: int,
    paint: Paint,
    *,
    measured: Iterable[Row] | None = None,
    layouts: Sequence[Layout] = (),
    rule: str = "─",
) -> Iterator[str]:
    """Yield the lines of a table in `width` cells: the header, a rule, and the rows.

    A row without cells is a blank line. The widths follow the rows `measured`, by default the first
    SAMPLE_ROWS. The first of the `layouts` that fits without breaking an id is taken, else the last.
    """
    if measured is None:
        rows = iter(rows)
        measured = list(islice(rows, SAMPLE_ROWS))
        rows = chain(measured, rows)
    measured = list(measured)
    layout = _choose_layout(columns, measured, width, layouts) if layouts else [[n] for n in range(len(columns))]
    columns = _stack_columns(columns, layout)
    if layouts:
        measured, rows = (map(_stacker(layout), some) for some in (measured, rows))
    widths = compute_widths(columns, measured, width)
    yield from _lay_out_header(columns, widths, paint)
    yield rule * (sum(widths) + len(GAP) * (len(widths) - 1))
    for row in rows:
        yield from _lay_out_row(columns, widths, row or [""] * len(columns), paint)


def compute_widths(columns: Sequence[Column], rows: Iterable[Row], width: int) -> list[int]:
    """Return the width of each column: that of its content, reduced until the table fits.

    Prose and paths shrink to what stays readable, then every column but the numbers.
    """
    widths, floors = _measure_columns(columns, rows)
    _shrink(widths, floors, width)
    _shrink(widths, [each if column.is_number else 0 for each, column in zip(widths, columns, strict=True)], width)
    return widths


def _choose_layout(columns: Sequence[Column], rows: Sequence[Row], width: int, layouts: Sequence[Layout]) -> Layout:
    """Return the first layout whose columns fit at their least readable widths, else the last."""
    _, floors = _measure_columns(columns, rows)
    for layout in layouts:
        least = [max(floors[number] for number in stacked) for stacked in layout]
        if sum(least) + len(GAP) * (len(least) - 1) <= width:
            return layout
    return layouts[-1]


def _stack_columns(columns: Sequence[Column], layout: Layout) -> list[Column]:
    """Return the columns of a layout; one that holds several fields has a header of several lines."""
    return [
        Column(
            "\n".join(columns[number].header for number in stacked),
            max(columns[number].width for number in stacked),
            all(columns[number].is_number for number in stacked),
            any(columns[number].is_id for number in stacked),
        )
        for stacked in layout
    ]


def _stacker(layout: Layout) -> Callable[[Row], Row]:
    """Return the function that stacks the fields of a row."""

    def stack(row: Row) -> Row:
        cells: list[Cell] = []
        for stacked in layout if row else ():
            if len(stacked) == 1:
                cells.append(row[stacked[0]])
                continue
            lines: list[Line] = []
            for number in stacked:
                cell = row[number]
                lines += cell if isinstance(cell, list) else (cell,)
            cells.append(lines)
        return cells

    return stack


def _measure_columns(columns: Sequence[Column], rows: Iterable[Row]) -> tuple[list[int], list[int]]:
    """Return the width of each column's content, and the least width in which it reads well."""
    widths = [column.width or max(map(measure_text, column.header.split("\n"))) for column in columns]
    floors = [column.width or max(map(measure_text, column.header.split())) for column in columns]
    flexible = [(number, column) for number, column in enumerate(columns) if not column.width]
    for row in rows if flexible else ():
        for number, column in flexible if row else ():
            cell = row[number]
            for line in cell if isinstance(cell, list) else (cell,):
                text = line if isinstance(line, str) else line.text
                taken = measure_text(text)
                widths[number] = max(widths[number], taken)
                if taken <= floors[number]:
                    continue
                floors[number] = max(floors[number], _least_width(line, taken, column))
    return widths, floors


def _least_width(line: Line, taken: int, column: Column) -> int:
    """Return the least width in which a line reads well: an id whole, prose with whole words."""
    if isinstance(line, Place):
        return min(taken, measure_text(line.short))
    if column.is_id or column.is_number:
        return taken
    text = line if isinstance(line, str) else line.text
    return min(_MAX_WORD_WIDTH, max(map(measure_text, _UNBROKEN.findall(text)), default=0))


def _shrink(widths: list[int], floors: Sequence[int], width: int) -> None:
    """Reduce the widest of the columns until all fit into `width` or are at their floors.

    Columns of the same width share a reduction as evenly as in Rich.
    """
    last = len(widths) - 1
    excess = sum(widths) + len(GAP) * last - width
    floors = [max(floor, _MIN_COLUMN_WIDTH - (number < last)) for number, floor in enumerate(floors)]
    while excess > 0:
        # With a part of the gap.
        taken = {number: each + (number < last) for number, each in enumerate(widths) if each > floors[number]}
        if not taken:
            return
        widest = max(taken.values())
        step = widest - max([_MIN_COLUMN_WIDTH, *(each for each in taken.values() if each != widest)])
        most = min(excess, step)
        tied = [number for number, each in taken.items() if each == widest]
        for left, number in zip(range(len(tied), 0, -1), tied, strict=True):
            cut = min(most, round(excess / left), widths[number] - floors[number])
            widths[number] -= cut
            excess -= cut


def _lay_out_header(columns: Sequence[Column], widths: Sequence[int], paint: Paint) -> Iterator[str]:
    """Yield the lines of the headers, aligned at the bottom."""
    cells = [
        [line for part in column.header.split("\n") for line in wrap(part, width)]
        for column, width in zip(columns, widths, strict=True)
    ]
    height = max(map(len, cells))
    yield from _lay_out_row(
        columns,
        widths,
        [[*[""] * (height - len(cell)), *(Styled(line, "bold") for line in cell)] for cell in cells],
        paint,
    )


def _lay_out_row(columns: Sequence[Column], widths: Sequence[int], row: Row, paint: Paint) -> Iterator[str]:
    """Yield the lines of a row, as many as its highest cell has."""
    cells = [
        _lay_out_cell(cell, width, column.is_number, paint)
        for cell, width, column in zip(row, widths, columns, strict=True)
    ]
    if all(len(cell) == 1 for cell in cells):
        yield GAP.join([cell[0] for cell in cells])
        return
    blanks = [" " * width for width in widths]
    for lines in zip_longest(*cells):
        yield GAP.join([blank if line is None else line for line, blank in zip(lines, blanks, strict=True)])


def _lay_out_cell(cell: Cell, width: int, is_number: bool, paint: Paint) -> list[str]:
    """Return the lines of a cell, each as wide as its column."""
    if isinstance(cell, list):
        return [shown for line in cell for shown in _lay_out_cell(line, width, is_number, paint)]
    if isinstance(cell, Place):
        return [line + " " * (width - measure_text(line)) for line in fit_place(cell, width, measure_text, wrap)]
    text, style = cell if isinstance(cell, Styled) else (cell, "")
    if not style and len(text) <= width and text.isascii():  # most cells; this path takes half the time
        return [text.rjust(width) if is_number else text.ljust(width)]
    lines = []
    for part in [text] if is_number else wrap(text, width):
        blank = " " * (width - measure_text(part))
        shown = paint(Styled(part, style)) if style else part
        lines.append(blank + shown if is_number else shown + blank)
    return lines


def wrap(text: str, width: int) -> list[str]:
    """Wrap a text into lines of at most `width` cells.

    Lines break between words, and inside a word that is longer than a line.
    """
    if measure_text(text) <= width:
        return [text]
    lines = []
    line = ""
    for word in _WORD.findall(text):
        if measure_text(line + word.rstrip()) <= width:
            line += word
            continue
        if line:
            lines.append(line.rstrip())
        *full, line = _chop(word, width)
        lines += full
    return [*lines, line.rstrip()]


def _chop(word: str, width: int) -> list[str]:
    """Break a word into full lines. A character of no width stays with the one before it."""
    if _ONE_CELL.issuperset(word):
        bare = word.rstrip()
        *full, last = [bare[start : start + width] for start in range(0, len(bare), width)] or [""]
        return [*full, last + word[len(bare) :]]
    lines = [""]
    taken = 0
    for character in word:
        size = measure_text(character)
        if taken + size > width and not character.isspace():
            lines.append("")
            taken = 0
        lines[-1] += character
        taken += size
    return lines


def measure_text(text: str) -> int:
    """Return the width of a text in cells of a terminal."""
    if text.isascii() or _ONE_CELL.issuperset(text):
        return len(text)
    from rich.cells import cell_len  # 2 ms of CPU for widths that ordinary tables do not need

    return cell_len(text)
