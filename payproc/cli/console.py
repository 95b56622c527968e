"""The screen that results are printed on: how wide it is, and which styles it shows.

What belongs here: everything about a terminal, and about a stream that is none. The rules are those of Rich, which
draws the progress bar; importing it takes longer than most commands, so results do without it.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TextIO

from payproc.cli.table import Column, Row, Styled, layout

NARROWEST = 40
"""Columns that a table takes at least. In fewer it would be letters under each other, and in none it would be gone."""

_DEFAULT_WIDTH = 80

_LINES_AT_ONCE = 200
"""Lines written at once: one call of the system for each line is felt on a terminal."""

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
"""The parameters of SGR, the control sequence for styles."""


class Screen:
    """A stream that a person may look at."""

    def __init__(self, stream: TextIO) -> None:
        """Find out what the stream can show, by itself and by COLUMNS, TERM, FORCE_COLOR and NO_COLOR."""
        self._stream = stream
        self.width = max(_width(), NARROWEST)
        self._styles: dict[str, str] = {}
        if _shows_styles(stream):
            is_plain = bool(os.environ.get("NO_COLOR"))  # which leaves bold and dim as they are
            self._styles = {name: code for name, code in _STYLES.items() if not (is_plain and code.startswith("3"))}
        self._rule = "─" if (stream.encoding or "").lower().startswith("utf") else "-"

    def print(self, lines: Iterable[str]) -> None:
        """Print lines, however long they are."""
        iterator = iter(lines)
        while some := list(islice(iterator, _LINES_AT_ONCE)):
            self._stream.write("\n".join(some) + "\n")

    def print_table(
        self, columns: Sequence[Column], rows: Iterable[Row], *, measured: Iterable[Row] | None = None
    ) -> None:
        """Print a table; `measured` are the rows that decide its widths, unless those are the first."""
        self.print(layout(columns, rows, self.width, self.paint, measured=measured, rule=self._rule))

    def paint(self, styled: Styled) -> str:
        """Return a text in a style, as this screen takes it."""
        code = self._styles.get(styled.style)
        return f"\x1b[{code}m{styled.text}\x1b[0m" if code else styled.text


def _width() -> int:
    """Return the width of the terminal, though results may go into a pipe: `payproc review | less` is read there."""
    if (given := os.environ.get("COLUMNS", "")).isdigit():
        return int(given)
    if _is_dumb():
        return _DEFAULT_WIDTH
    return next(_terminal_widths(), 0) or _DEFAULT_WIDTH


def _terminal_widths() -> Iterator[int]:
    for descriptor in (0, 1, 2):
        try:
            yield os.get_terminal_size(descriptor).columns
        except OSError:  # it is no terminal
            continue


def _shows_styles(stream: TextIO) -> bool:
    forced = os.environ.get("FORCE_COLOR")
    return (stream.isatty() if forced is None else forced != "") and not _is_dumb()


def _is_dumb() -> bool:
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")
