"""Recorded events out again, as lines that can be ingested.

What belongs here: in which order they go out, whether a line still says what is on record, and what a copy made of the
lines would not have. Nothing here writes to the database.

The order is that of the histories, payment by payment. No payment's history depends on another's, and every event_id is
on record once, so an empty database that ingests the lines comes to the same histories, however the work is split.
Conflicts go out last: to be one again, each needs the event that has its event_id on record before it.

What people decided does not go out. It is not an event, and to repeat it by machine would be to decide for them. What
it changes is not guessed: while the events pass, the decision table is folded over them, as ingesting them would.

A line that no longer says what is on record stays behind: it would be another event in the copy, and nobody would know.
So does a conflict whose event stays behind: it would be the first under its event_id, and so an event.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec
import psycopg2.extensions

from payproc.db.connection import FETCH_LINES, Database
from payproc.escape import unambiguous
from payproc.logic import Outcome, Resolution, State
from payproc.schemas import Malformed, parse_line
from payproc.verify import DECIDED

BLOCK_BYTES = 64 << 10
"""Lines are handed on in blocks of about so many bytes: what a pipe holds, and few enough to interrupt between."""

_WAITS = Outcome.MANUAL_REVIEW.value

# The compare and set on payments gives no position twice, so this is one order also where no key says so.
_EVENTS = """
    SELECT payment_id, position, event_id, type, outcome, reason, state_before, state_after, payload::text
    FROM payproc.events ORDER BY payment_id, position
"""

# Only of events that are on record for the same payment: so each is met while that payment's events are read.
_RESOLUTIONS = """
    SELECT resolutions.payment_id, resolutions.position, resolutions.state_after
    FROM payproc.resolutions JOIN payproc.events USING (event_id, payment_id)
    ORDER BY 1, 2
"""

_CONFLICTS = """
    SELECT event_conflicts.event_id, event_conflicts.payment_id, event_conflicts.type, event_conflicts.payload::text,
           original.payment_id, original.type, original.payload::text
    FROM payproc.event_conflicts LEFT JOIN payproc.events AS original USING (event_id)
    ORDER BY 1, 2, 3
"""

_COUNT_RESOLUTIONS = "SELECT resolution, count(*) FROM payproc.resolutions GROUP BY resolution"

_COUNT_LINES = "SELECT (SELECT count(*) FROM payproc.events) + (SELECT count(*) FROM payproc.event_conflicts)"


class LeftOut(msgspec.Struct, frozen=True):
    """An event, or a conflict, whose line must not go out, and why."""

    kind: str
    event_id: str
    payment_id: str
    why: str


class ExportSummary(msgspec.Struct):
    """What went out, what did not, and what that means for a copy."""

    events: int = 0
    conflicts: int = 0
    left_out: int = 0
    resolutions: dict[Resolution, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Resolution, 0))
    waiting: int = 0
    """Events that wait for a person in a copy."""
    changed_events: int = 0
    """Events that come out differently in a copy."""
    changed_payments: int = 0
    """Payments that have another state in a copy."""

    @property
    def lines(self) -> int:
        """How many lines went out."""
        return self.events + self.conflicts


def export(
    database: Database, totals: ExportSummary, on_left_out: Callable[[LeftOut], None] = lambda _: None
) -> Generator[bytes, None, None]:
    """Give what is on record as blocks of whole lines, as of one moment, counting in `totals`. Memory stays flat.

    Raises CannotFinish if the database cannot be read.
    """
    with database.snapshot() as connection:
        with connection.cursor() as cursor:
            cursor.execute(_COUNT_RESOLUTIONS)
            totals.resolutions.update((Resolution(resolution), count) for resolution, count in cursor)
        block = bytearray()
        for lines in (_events(connection, totals, on_left_out), _conflicts(connection, totals, on_left_out)):
            for line in lines:
                block += line
                # Whoever ended their lines with two carriage returns sent one; the other belongs to the line end.
                block += b"\r\n" if line.endswith(b"\r") else b"\n"
                if len(block) >= BLOCK_BYTES:
                    yield bytes(block)
                    block.clear()
        yield bytes(block)


def count_lines(database: Database) -> int:
    """How many lines there are to export. Raises CannotFinish."""
    with database.transaction() as cursor:
        cursor.execute(_COUNT_LINES)
        ((count,),) = cursor.fetchall()
    return int(count)


def _events(
    connection: psycopg2.extensions.connection, totals: ExportSummary, on_left_out: Callable[[LeftOut], None]
) -> Iterator[bytes]:
    """The lines of events, payment by payment; with what would become of them in a copy."""
    last_resolution = _LastResolutions(Database.stream(connection, _RESOLUTIONS))
    rows = Database.stream(connection, _EVENTS, fetch_rows=FETCH_LINES)
    for payment_id, history in groupby(rows, key=itemgetter(0)):
        state_in_copy = State.CREATED.value
        for _, position, event_id, event_type, outcome, reason, before, after, payload in history:
            last = (position, after)
            line = payload.encode()
            if why := _why_not(line, event_id, payment_id, event_type):
                totals.left_out += 1
                on_left_out(LeftOut("event", event_id, payment_id, why))
                continue
            decided = DECIDED[event_type, state_in_copy]
            totals.changed_events += decided != (outcome, reason, before, after)
            totals.waiting += decided[0] == _WAITS
            state_in_copy = decided[-1]
            totals.events += 1
            yield line
        _, state = max(last, last_resolution.of(payment_id))
        totals.changed_payments += state != state_in_copy


class _LastResolutions:
    """The last resolution of each payment, read along with the events, which come in the same order."""

    _NONE = (0, "")

    def __init__(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._rows = iter(rows)
        self._next = next(self._rows, None)

    def of(self, payment_id: str) -> tuple[int, str]:
        """The position of a payment's last resolution, and the state after it; position 0 if it has none."""
        last = self._NONE
        while self._next is not None and self._next[0] == payment_id:
            _, *last_entry = self._next
            last = (last_entry[0], last_entry[1])
            self._next = next(self._rows, None)
        return last


def _conflicts(
    connection: psycopg2.extensions.connection, totals: ExportSummary, on_left_out: Callable[[LeftOut], None]
) -> Iterator[bytes]:
    """The lines of conflicts."""
    rows = Database.stream(connection, _CONFLICTS, fetch_rows=FETCH_LINES)
    for event_id, payment_id, event_type, payload, original_payment, original_type, original in rows:
        line = payload.encode()
        why = _why_not(line, event_id, payment_id, event_type)
        if original is None:
            why = "no event is on record under its event_id, so it would become one"
        elif _why_not(original.encode(), event_id, original_payment, original_type):
            why = "the event under its event_id is left out, so it would take its place"
        elif (payment_id, event_type) == (original_payment, original_type):
            why = "it says the same as the event under its event_id, so it would be a duplicate"
        if why:
            totals.left_out += 1
            on_left_out(LeftOut("conflict", event_id, payment_id, why))
            continue
        totals.conflicts += 1
        yield line


def _why_not(line: bytes, event_id: str, payment_id: str, event_type: str) -> str | None:
    """Why a line would not be this event again; None if it would."""
    if b"\n" in line:
        return "its line has a line feed in it, so it would be two"
    parsed = parse_line(line)
    if isinstance(parsed, Malformed):
        return f"its line is malformed: {parsed.error}"
    event, _ = parsed
    if event.event_id != event_id:
        return f'its line has the event_id "{unambiguous(event.event_id)}"'
    if event.payment_id != payment_id:
        return f'its line has the payment_id "{unambiguous(event.payment_id)}"'
    return None if event.type == event_type else f"its line has the type {event.type.value}, the record {event_type}"
