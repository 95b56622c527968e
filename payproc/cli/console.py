"""The screen for results; messages, problems and the progress bar on stderr.

Belongs here: everything about a terminal, and about a stream that is none. Rich draws the progress
bar alone, because importing it takes longer than most commands. Width and styles follow its rules.
"""

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, TextIO, TypeVar

import typer

from payproc.cli.files import identify_file
from payproc.cli.table import Column, Layout, Row, Styled, lay_out
from payproc.escape import printable, redact
from payproc.signals import interrupt

if TYPE_CHECKING:
    from payproc.notes import Note

T = TypeVar("T")

MAX_PROBLEMS_SHOWN = 20
"""Malformed lines, or omitted records, that are listed on stderr; the rest are counted."""

MIN_TABLE_WIDTH = 40
"""Minimum table width. Below it every word would break."""

_MIN_WIDE_COLUMNS = 110
"""Screen width from which a row takes one line instead of two, if its ids stay whole."""

_DEFAULT_WIDTH = 80

SLOW_START_SECONDS = 2.0
"""Seconds without a row of a listing after which a person reads why."""

_ROWS_PER_REPORT = 2_000
"""Rows of a listing between two reports of progress."""

_LINES_PER_WRITE = 200
"""Lines written at once, because a system call per line is slow on a terminal."""

_STYLE_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
"""Parameters of SGR, the control sequence for styles."""


class Screen:
    """A stream for results, possibly a terminal."""

    def __init__(self, stream: TextIO) -> None:
        """Detect width and styles; COLUMNS, TERM, FORCE_COLOR and NO_COLOR override them."""
        self._stream = stream
        self.width = max(_detect_width(), MIN_TABLE_WIDTH)
        self._styles: dict[str, str] = {}
        if _shows_styles(stream):
            is_plain = bool(os.environ.get("NO_COLOR"))  # which keeps bold and dim
            self._styles = {
                name: code for name, code in _STYLE_CODES.items() if not (is_plain and code.startswith("3"))
            }
        self._rule = "─" if (stream.encoding or "").lower().startswith("utf") else "-"

    def print(self, lines: Iterable[str]) -> None:
        """Print lines without wrapping them."""
        iterator = iter(lines)
        while some := list(islice(iterator, _LINES_PER_WRITE)):
            self._stream.write("\n".join(some) + "\n")

    def print_table(
        self,
        columns: Sequence[Column],
        rows: Iterable[Row],
        *,
        measured: Iterable[Row] | None = None,
        layouts: Sequence[Layout] = (),
        empty: str = "",
    ) -> None:
        """Print a table, or the line `empty` instead of a header without rows.

        The rows `measured`, by default the first ones, decide widths and layout.
        """
        if empty:
            rows = iter(rows)
            if (first := next(rows, None)) is None:
                self.print([empty])
                return
            rows = chain([first], rows)
        table = lay_out(columns, rows, self.width, self.paint, measured=measured, layouts=layouts, rule=self._rule)
        self.print(table)

    def choose_layouts(self, layouts: Sequence[Layout]) -> Sequence[Layout]:
        """Return the layouts for this screen. The first, with a row a line, is for wide ones."""
        return layouts if self.width >= _MIN_WIDE_COLUMNS else layouts[1:]

    def paint(self, styled: Styled) -> str:
        """Return a text in its style, as this screen takes it."""
        code = self._styles.get(styled.style)
        return f"\x1b[{code}m{styled.text}\x1b[0m" if code else styled.text


def open_screen(*, stderr: bool = False) -> Screen:
    """Return the screen of stdout, or of stderr."""
    return Screen(sys.stderr if stderr else sys.stdout)


def print_message(text: str) -> None:
    """Print one line on stderr, without passwords and without control characters."""
    typer.echo(f"payproc: {printable(redact(text))}", err=True)


def confirm(question: str) -> bool:
    """Ask a yes-or-no question on the terminal; the default is no.

    Raises KeyboardInterrupt after a signal, and typer.Abort at the end of the input. input() would
    miss a signal that arrives just before it reads, and hang until the next key.
    """
    while True:
        typer.echo(f"{question} [y/N]: ", nl=False, err=True)
        try:
            select.select([sys.stdin, interrupt.wake_up], [], [])
            interrupt.check()
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            typer.echo(err=True)  # the next message gets a line of its own
            raise
        if not answer:
            typer.echo(err=True)
            raise typer.Abort
        if answer.strip().lower() in ("y", "yes"):
            return True
        if answer.strip().lower() in ("", "n", "no"):
            return False
        typer.echo("expected y or n", err=True)


def make_notifier(quiet: bool) -> "Note":
    """Return a function that prints notes; if `quiet`, only those that are marked `always`."""

    def note(line: str, *, always: bool = False) -> None:
        if always or not quiet:
            print_message(line)

    return note


class ProblemLog:
    """The problems of the input. It prints the first ones to stderr and counts the rest."""

    def __init__(self) -> None:
        self.count = 0
        self._lines = 0
        self._shown = 0

    @property
    def is_full(self) -> bool:
        """Return whether the next problems are only counted."""
        return self._lines == MAX_PROBLEMS_SHOWN

    def add(self, problem: str) -> None:
        """Count a problem, and print it unless MAX_PROBLEMS_SHOWN are printed."""
        self.count += 1
        self._print(problem, 1)

    def close(self, kind: str, advice: str = "") -> None:
        """Print the number of problems that were only counted."""
        more = self.count - self._shown
        if more > 0:
            typer.echo(f"… and {more:,} more {kind}{'s' if more > 1 else ''}{advice}", err=True)

    def _print(self, message: str, problems: int) -> None:
        """Print a line about counted problems, unless MAX_PROBLEMS_SHOWN are printed."""
        if not self.is_full:
            self._lines += 1
            self._shown += problems
            print(printable(message), file=sys.stderr)  # not typer.echo, which bypasses the progress bar


def is_watched(*, quiet: bool) -> bool:
    """Return whether a person waits at a terminal for the result."""
    return not quiet and sys.stderr.isatty()


def is_bar_useful(*, quiet: bool) -> bool:
    """Return whether a listing has a progress bar: if its lines go to a file.

    On a terminal, or in a pager, the listing shows its progress itself. In another pipe, the reader
    may draw a bar on the same terminal.
    """
    return is_watched(quiet=quiet) and identify_file(sys.stdout.fileno()) is not None


@contextlib.contextmanager
def show_progress(total: int | None, has_bar: bool, *, is_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr, or none; yield the function that takes the amount done."""
    if not has_bar:
        yield lambda _: None
        return
    from rich import progress as bars  # 30 ms of CPU, which a pipe need not pay
    from rich.console import Console

    # Everything printed meanwhile passes through this console, which must leave it unchanged.
    width = open_screen(stderr=True).width
    console = Console(stderr=True, width=width, highlight=False, markup=False, emoji=False)
    amount = bars.DownloadColumn() if is_bytes else bars.MofNCompleteColumn()
    columns = (bars.BarColumn(), bars.TaskProgressColumn(), amount, bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda completed: progress.update(task, completed=completed)


def report_progress(found: Iterable[T], on_progress: Callable[[int], None], *, quiet: bool) -> Iterator[T]:
    """Yield rows, and report their number now and then.

    Explain the wait for the first row if it is long, because the database sorts first.
    """
    note = "payproc: the database is sorting; rows follow"
    timer = threading.Timer(SLOW_START_SECONDS, print, [note], {"file": sys.stderr})  # print as in ProblemLog
    timer.daemon = True
    if is_watched(quiet=quiet):
        timer.start()
    try:
        number = 0
        for number, each in enumerate(found, 1):
            if number == 1:
                timer.cancel()
            if number % _ROWS_PER_REPORT == 0:
                on_progress(number)
            yield each
        on_progress(number)
    finally:
        timer.cancel()


def _detect_width() -> int:
    """Return the terminal's width even if stdout is a pipe, as in `payproc review | less`."""
    if (given := os.environ.get("COLUMNS", "")).isdigit():
        return int(given)
    if _is_dumb():
        return _DEFAULT_WIDTH
    return next(_read_terminal_widths(), 0) or _DEFAULT_WIDTH


def _read_terminal_widths() -> Iterator[int]:
    for descriptor in (0, 1, 2):
        try:
            yield os.get_terminal_size(descriptor).columns
        except OSError:  # not a terminal
            continue


def _shows_styles(stream: TextIO) -> bool:
    forced = os.environ.get("FORCE_COLOR")
    return (stream.isatty() if forced is None else forced != "") and not _is_dumb()


def _is_dumb() -> bool:
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")
