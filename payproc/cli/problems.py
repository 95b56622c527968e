"""Malformed lines on stderr: a message each, and one for a JSON value over several lines.

Belongs here: the messages of `ingest` and `resolve --from` about lines. Pretty-printed JSON makes
each of its lines malformed. Their message comes at the end of the file, with their number. Memory
is flat, because only the first such line is kept.
"""

from payproc.cli.console import ProblemLog
from payproc.explain import ELEMENT, EXPECTED_LINE, NONE, PIECE, VALUE, Malformed
from payproc.ingest.sources import format_argument
from payproc.mends import choose_mend, is_array


class _Value:
    """A JSON value over several lines of one source; of one line, as long as no second follows."""

    def __init__(self, source: str, line: int, reason: Malformed) -> None:
        self.source = source
        self.first = self.last = line
        self.count = 1
        self.reason = reason
        self._is_array = is_array(reason.mend)
        self._mends = {reason.mend}

    def take(self, source: str, line: int, reason: Malformed) -> bool:
        """Count a line if it is another part of the value."""
        part = reason.part
        if part is NONE or source != self.source:
            return False
        is_near = line - self.last <= 2  # a blank line may be between them
        if not (
            (part is PIECE and (is_near or self.count > 1))
            or (part is ELEMENT and self._is_array)
            or (part is VALUE and is_near and self.count > 1)
        ):
            return False
        self.last = line
        self.count += 1
        if part is not VALUE:
            self._mends.add(reason.mend)
        return True

    @property
    def mend(self) -> str:
        """Return the command that puts each object on a line of its own."""
        return choose_mend(self.reason.mend, self._mends)


class LineProblems(ProblemLog):
    """The malformed lines of a run.

    A file's first message with a command has it whole; the next ones of its kind do without.
    """

    def __init__(self, command: str) -> None:
        """Take the command that reads a mended file."""
        super().__init__()
        self._command = command
        self._value: _Value | None = None
        self._mends_shown: set[tuple[str, str]] = set()
        self._unknown = 0

    def add_line(self, source: str, line: int, reason: Malformed) -> None:
        """Count a malformed line; print it if it is among the first."""
        self.count += 1
        if self._value is not None:
            if self._value.take(source, line, reason):
                return
            if self._value.count == 1 or self._value.source != source:
                self._close_value()
        if reason.part is PIECE:
            self._value = _Value(source, line, reason)
        else:
            self._print_line(source, line, reason)

    def add(self, problem: str) -> None:
        """Count a problem that is none of a line's form."""
        if self._value is not None and self._value.count == 1:
            self._close_value()
        super().add(problem)

    def close(self, kind: str, advice: str = "") -> None:
        """Print the message that waits for the end, and the number of lines that were counted."""
        self._close_value()
        super().close(kind, advice)

    @property
    def are_all_unknown(self) -> bool:
        """Return whether there are problems, and each is a line without an object or a command."""
        return 0 < self.count == self._unknown

    def _close_value(self) -> None:
        value, self._value = self._value, None
        if value is None:
            return
        if value.count == 1:
            self._print_line(value.source, value.first, value.reason._replace(mend=""))
        else:
            error = f"JSON that goes over several lines ({value.count:,} malformed lines), expected {EXPECTED_LINE}"
            self._print_mend(value.source, value.first, error, value.mend, value.count)

    def _print_line(self, source: str, line: int, reason: Malformed) -> None:
        self._unknown += not reason.mend and reason.error.endswith(EXPECTED_LINE)
        self._print_mend(source, line, reason.error, reason.mend, 1)

    def _print_mend(self, source: str, line: int, error: str, mend: str, problems: int) -> None:
        if self.is_full:  # before another command is remembered
            return
        fix = ""
        if mend and (source, mend) not in self._mends_shown:
            self._mends_shown.add((source, mend))
            fix = f"; use: {mend.replace('FILE', format_argument(source))} | {self._command}"
        self._print(f"{source}:{line}: {error}{fix}", problems)
