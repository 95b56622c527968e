"""Tables as plain lines: columns and rows in, lines out.

Belongs here: the widths of columns, the wrapping of text, and the layout of rows. The module is
pure: console.py knows the stream and its styles. Rich would take fifty times as long.

Widths follow the content of a sample of the rows. Where they do not fit, prose wraps and paths are
cut on the left before an id breaks. An id wraps and is never truncated, because a user looks it up
by its whole text. A number never wraps. Memory is flat: only the sample of the rows is held.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import NamedTuple

from payproc.cli.place import Place, fit_place
from payproc.cli.wrap import measure_text, wrap

SAMPLE_ROWS = 1_000
"""Rows whose content decides the widths, unless the caller gives others to measure."""

GAP = "  "
"""Between two columns."""

_MIN_COLUMN_WIDTH = 2
"""Width, including its part of the gap, below which no column shrinks."""

_UNBROKEN = re.compile(r"\S+(?: →)?")
"""A word, with the arrow that a transition leaves at the end of a line."""

_MAX_WORD_WIDTH = 24
"""Width that prose keeps for its longest word before an id breaks."""

_BROKEN_ID_WIDTH = 12
"""Width that ids keep, once they break, before prose gives more."""

_GOOD_LINE_WIDTH = 21
"""Width in which prose reads well; that of the longest transition."""


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
    SAMPLE_ROWS. The first of the `layouts` that breaks no id is taken, else the last.
    """
    if measured is None:
        rows = iter(rows)
        measured = list(islice(rows, SAMPLE_ROWS))
        rows = chain(measured, rows)
    layouts = layouts or [[[number] for number in range(len(columns))]]
    measure = measure_columns(columns, measured)
    layout = next((each for each in layouts if _takes(each, measure.good) <= width), layouts[-1])
    columns, widths = _stack_columns(columns, layout), fit_widths(columns, layout, measure, width)
    if any(len(stacked) > 1 for stacked in layout):
        rows = (_stack_fields(row, layout) for row in rows)
    yield from _lay_out_header(columns, widths, paint)
    yield rule * (sum(widths) + len(GAP) * (len(widths) - 1))
    for row in rows:
        yield from _lay_out_row(columns, widths, row or [""] * len(columns), paint)


class Measure(NamedTuple):
    """Widths of each field: of its content, and the least ones to read well, and to read at all."""

    content: list[int]
    good: list[int]
    readable: list[int]


def fit_widths(columns: Sequence[Column], layout: Layout, measure: Measure, width: int) -> list[int]:
    """Return the widths of a layout's columns: those of their content, reduced until they fit.

    Prose and paths shrink first: to readable widths, and further if that keeps the ids whole. If
    not, ids break. Then every column shrinks but the numbers.
    """
    broken = [_BROKEN_ID_WIDTH if column.is_id else each for each, column in zip(measure.good, columns, strict=True)]
    numbers = [each if column.is_number else 0 for each, column in zip(measure.content, columns, strict=True)]
    keeps_ids = _takes(layout, measure.readable) <= width
    widths = _stack_widths(layout, measure.content)
    for floors in (measure.good, measure.readable if keeps_ids else broken, numbers):
        _shrink(widths, _stack_widths(layout, floors), width)
    return widths


def _stack_widths(layout: Layout, widths: Sequence[int]) -> list[int]:
    """Return the widths of a layout's columns, each that of the widest field."""
    return [max(widths[number] for number in stacked) for stacked in layout]


def _takes(layout: Layout, widths: Sequence[int]) -> int:
    """Return the width of a table whose fields have these widths."""
    return sum(_stack_widths(layout, widths)) + len(GAP) * (len(layout) - 1)


def _stack_columns(columns: Sequence[Column], layout: Layout) -> list[Column]:
    """Return the columns of a layout.

    One that holds several fields has a header of several lines.
    """
    return [
        Column(
            "\n".join(columns[number].header for number in stacked),
            is_number=all(columns[number].is_number for number in stacked),
        )
        for stacked in layout
    ]


def _stack_fields(row: Row, layout: Layout) -> Row:
    """Return the cells of a row, in which fields are stacked."""
    cells: list[Cell] = []
    for stacked in layout if row else ():
        if len(stacked) == 1:
            cells.append(row[stacked[0]])
            continue
        lines: list[Line] = []
        for number in stacked:
            cell = row[number]
            lines += cell if isinstance(cell, list) else (cell,) if cell else ()
        cells.append(lines)
    return cells


def measure_columns(columns: Sequence[Column], rows: Iterable[Row]) -> Measure:
    """Return the widths of the fields of some rows."""
    widths = [max(map(measure_text, column.header.split("\n"))) for column in columns]
    readable = [max(map(measure_text, column.header.split())) for column in columns]
    good = list(readable)
    for row in rows:
        for number, cell in enumerate(row):
            column = columns[number]
            for line in cell if isinstance(cell, list) else (cell,):
                taken = measure_text(line if isinstance(line, str) else line.text)
                widths[number] = max(widths[number], taken)
                if taken > readable[number]:
                    well, at_all = _find_floors(line, taken, column)
                    good[number], readable[number] = max(good[number], well), max(readable[number], at_all)
    return Measure(widths, good, readable)


def _find_floors(line: Line, taken: int, column: Column) -> tuple[int, int]:
    """Return the least widths in which a line reads well, and in which it reads at all."""
    if isinstance(line, Place):
        short = measure_text(line.short)
        return min(taken, measure_text(line.before) + short), min(taken, short)
    if column.is_id or column.is_number:
        return taken, taken
    text = line if isinstance(line, str) else line.text
    word = min(_MAX_WORD_WIDTH, max(map(measure_text, _UNBROKEN.findall(text)), default=0))
    return max(word, min(taken, _GOOD_LINE_WIDTH)), word


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
        return [line + " " * (width - measure_text(line)) for line in fit_place(cell, width)]
    text, style = cell if isinstance(cell, Styled) else (cell, "")
    if not style and len(text) <= width and text.isascii():  # most cells; this path takes half the time
        return [text.rjust(width) if is_number else text.ljust(width)]
    lines = []
    for part in [text] if is_number else wrap(text, width):
        blank = " " * (width - measure_text(part))
        shown = paint(Styled(part, style)) if style else part
        lines.append(blank + shown if is_number else shown + blank)
    return lines
