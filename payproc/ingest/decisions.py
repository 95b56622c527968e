"""Decisions: the lines of `--decisions`, and the writer of them and of `--malformed`."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from typing import IO

import msgspec

from payproc.batch import EventResult
from payproc.errors import CannotFinish
from payproc.escape import printable_json
from payproc.ingest.lines import OversizedLine
from payproc.ingest.rounds import MalformedLine
from payproc.logic import Reason


class DecisionLine(msgspec.Struct, omit_defaults=True):
    """One object of `--decisions`, for an event."""

    source: str
    line: int
    event_id: str
    payment_id: str
    type: str
    outcome: str
    reason: str
    state_before: str
    state_after: str
    original_outcome: str | None = None
    recorded: dict[str, str] | None = None
    known: bool = False
    differs: bool = False


class LineWriter:
    """Writer of --decisions and --malformed, round by round. Either file may be missing."""

    def __init__(self, decisions: IO[bytes] | None, malformed: IO[bytes] | None, sources: Sequence[str]) -> None:
        """Take the open files, and the names of the run's sources."""
        self._decisions = decisions
        self._malformed = malformed
        self._sources = sources
        self._decision_lines = bytearray()
        self._malformed_lines: list[bytes | OversizedLine] = []

    def add(self, result: EventResult) -> None:
        """Add an event's result to the round."""
        if self._decisions is not None:
            line = _make_line(result, self._sources[result.input_event.source])
            self._decision_lines += _encode(line)

    def add_malformed(self, malformed: MalformedLine) -> None:
        """Add a malformed line to the round."""
        if self._decisions is not None:
            line = {"source": self._sources[malformed.source], "line": malformed.line, "error": malformed.reason.error}
            self._decision_lines += _encode(line)
        if self._malformed is not None:
            self._malformed_lines.append(malformed.raw)

    def write(self) -> None:
        """Write the round. Raises CannotFinish, BrokenPipeError if the reader of a file is gone."""
        if self._decisions is not None:
            with _explain_errors("--decisions"):
                self._decisions.write(self._decision_lines)
                self._decisions.flush()
        if self._malformed is not None:
            with _explain_errors("--malformed"):
                for line in self._malformed_lines:
                    _write_line(self._malformed, line)
        self._decision_lines.clear()
        self._malformed_lines.clear()


def _make_line(result: EventResult, source: str) -> DecisionLine:
    input_event, decision, recorded = result.input_event, result.decision, result.recorded
    event = input_event.event
    line = DecisionLine(
        source,
        input_event.line,
        event.event_id,
        event.payment_id,
        event.type,
        decision.outcome,
        decision.reason,
        decision.state_before,
        decision.state_after,
    )
    if recorded is not None and decision.reason is Reason.DUPLICATE_EVENT:
        line.original_outcome = recorded.outcome
        line.differs = result.differs
    elif recorded is not None:
        line.recorded = {"payment_id": recorded.payment_id, "type": recorded.type}
        line.known = result.is_known
    return line


def _encode(value: object) -> bytes:
    """Return one object of `--decisions`, with invisible characters escaped for a terminal."""
    encoded = msgspec.json.encode(value)
    is_plain = encoded.isascii() and b"\x7f" not in encoded
    return (encoded if is_plain else printable_json(encoded.decode()).encode()) + b"\n"


def _write_line(file: IO[bytes], line: bytes | OversizedLine) -> None:
    """Write a malformed line byte for byte, so that it can be mended and ingested."""
    if isinstance(line, bytes):
        file.write(line)
    elif line.spool is not None:
        line.spool.seek(0)
        shutil.copyfileobj(line.spool, file)
        line.spool.close()
    file.write(b"\n")
    file.flush()


@contextlib.contextmanager
def _explain_errors(option: str) -> Iterator[None]:
    """Raise CannotFinish for an error of the option's file."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotFinish(
            f"{option}: cannot be written: {error.strerror}; recorded events stay recorded, and a rerun reports them "
            "as duplicates"
        ) from error
