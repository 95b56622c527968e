"""Output files of an ingest: the lines of `--decisions`, and the writing of it and of
`--malformed`.
"""

import contextlib
import shutil
from collections.abc import Iterator
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


def encode_decision(result: EventResult, source: str) -> bytes:
    """Return the line of `--decisions` for an event of the source with this name."""
    input_event, decision, recorded = result.input_event, result.decision, result.recorded
    event = input_event.event
    line = DecisionLine(
        source, input_event.line, event.event_id, event.payment_id, event.type,
        decision.outcome, decision.reason, decision.state_before, decision.state_after,
    )  # fmt: skip
    if recorded is not None and decision.reason is Reason.DUPLICATE_EVENT:
        line.original_outcome = recorded.outcome
    elif recorded is not None:
        line.recorded = {"payment_id": recorded.payment_id, "type": recorded.type}
        line.known = result.is_known
    return _encode(line)


def encode_malformed(malformed: MalformedLine, source: str) -> bytes:
    """Return the line of `--decisions` for a malformed line of the source with this name."""
    return _encode({"source": source, "line": malformed.line, "error": malformed.error})


def write_decisions(file: IO[bytes], lines: bytes | bytearray) -> None:
    """Append lines to `--decisions`.

    Raises CannotFinish, BrokenPipeError if nobody reads it any more.
    """
    with _explain_errors("--decisions"):
        file.write(lines)
        file.flush()


def write_malformed(file: IO[bytes], line: bytes | OversizedLine) -> None:
    """Append a line to `--malformed`, byte for byte, so that it can be mended and ingested.

    Raises as above.
    """
    with _explain_errors("--malformed"):
        if isinstance(line, bytes):
            file.write(line)
        elif line.spool is not None:
            line.spool.seek(0)
            shutil.copyfileobj(line.spool, file)
            line.spool.close()
        file.write(b"\n")
        file.flush()


def _encode(value: object) -> bytes:
    """Return one object of `--decisions`.

    It may be read on a terminal, so invisible characters are escaped.
    """
    encoded = msgspec.json.encode(value)
    is_plain = encoded.isascii() and b"\x7f" not in encoded
    return (encoded if is_plain else printable_json(encoded.decode()).encode()) + b"\n"


@contextlib.contextmanager
def _explain_errors(option: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotFinish(
            f"{option}: cannot be written: {error.strerror}; what was recorded stays recorded, and is reported as "
            "duplicates when the same command is run again"
        ) from error
