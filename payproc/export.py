"""Export: the recorded events as lines that can be ingested again.

Belongs here: the order of the lines, the check of each against its record, and the differences
of a copy. Nothing here writes to the database.

The order is that of the histories, payment by payment. No payment's history depends on another's,
and every event_id is on record once, so an empty database that ingests the lines gets the same
histories, however the work is split. Conflicts and redeliveries go out last, because each needs the
event with its event_id on record before it.

Resolutions and corrections are omitted. They are not events, and repeating them by machine would
mean deciding for people. The differences that follow are counted: the decision table is folded over
the events, as an ingest of the copy would do. Corrected payments that end in another state in the
copy are named.

A line that contradicts its record is omitted, because it would silently become another event in the
copy. So is a conflict or a redelivery whose event is omitted, because it would be the first under
its event_id, and so become an event.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec
import psycopg2.extensions

from payproc.content import has_same_content
from payproc.db.connection import Database
from payproc.db.rows import FETCH_LINES, open_stream, read_structs
from payproc.escape import unambiguous
from payproc.explain import Malformed
from payproc.logic import TABLE, EventType, Outcome, Reason, Resolution, State
from payproc.schemas import parse_line

BLOCK_BYTES = 64 << 10
"""Approximate size of a block of lines: a pipe's buffer, and soon written when a signal comes."""

_EVENTS = """
    SELECT payment_id, position, event_id, type, outcome, reason, state_before, state_after, payload::text AS line
    FROM payproc.events ORDER BY payment_id, position
"""

# Only those of payments with events, so each is reached while the events of its payment are read.
_DECISIONS_OF_PEOPLE = """
    SELECT resolutions.payment_id, resolutions.position, resolutions.state_after, false AS is_correction
    FROM payproc.resolutions JOIN payproc.events USING (payment_id, event_id)
    UNION ALL
    SELECT corrections.payment_id, corrections.position, corrections.state_after, true
    FROM payproc.corrections JOIN payproc.events AS first
         ON first.payment_id = corrections.payment_id AND first.position = 1
    ORDER BY 1, 2
"""

# Steps as in payments.py, because on Citus an event_id and its original are on different machines.
_CONFLICTS = """
    WITH conflict AS MATERIALIZED ({records}),
    pair AS MATERIALIZED (SELECT DISTINCT event_id, original_payment_id AS payment_id FROM conflict),
    original AS MATERIALIZED (
        SELECT event_id, payment_id, type, payload FROM pair JOIN payproc.events USING (payment_id, event_id)
    )
    SELECT event_id,
           -- Payment and type of a redelivery are those of the event. Without it they only name an
           -- omitted record.
           COALESCE(conflict.payment_id, original.payment_id,
                    conflict.payload OPERATOR(pg_catalog.->>) 'payment_id', '') AS payment_id,
           COALESCE(conflict.type, original.type, 'flag') AS type, conflict.payload::text AS line,
           original.payment_id AS original_payment_id, original.type AS original_type,
           original.payload::text AS original_line
    FROM conflict LEFT JOIN original USING (event_id)
    ORDER BY 1, 2, 3, digest
"""

_RECORDS = {
    "conflict": """
        SELECT event_id, record.payment_id, record.type, record.payload, NULL::bytea AS digest,
               whose.payment_id AS original_payment_id
        FROM payproc.event_conflicts AS record LEFT JOIN payproc.{event_ids} AS whose USING (event_id)
    """,
    "redelivery": """
        SELECT event_id, NULL AS payment_id, NULL::payproc.event_type AS type, record.payload, digest,
               whose.payment_id AS original_payment_id
        FROM payproc.redeliveries AS record LEFT JOIN payproc.{event_ids} AS whose USING (event_id)
    """,
}
"""The records under the event_id of an event, by kind."""


_COUNT_RESOLUTIONS = "SELECT resolution, count(*) FROM payproc.resolutions GROUP BY resolution"

_COUNT_CORRECTIONS = "SELECT count(*) FROM payproc.corrections"

_COUNT_LINES = """
    SELECT (SELECT count(*) FROM payproc.events) + (SELECT count(*) FROM payproc.event_conflicts)
         + (SELECT count(*) FROM payproc.redeliveries)
"""


class OmittedRecord(msgspec.Struct, frozen=True):
    """An event, a conflict or a redelivery whose line is omitted, and the reason."""

    kind: str
    event_id: str
    payment_id: str
    why: str


class CorrectedPayment(msgspec.Struct, frozen=True):
    """A payment with corrections that ends in another state in a copy."""

    payment_id: str
    state: State
    state_in_copy: State


class ExportSummary(msgspec.Struct):
    """Counts of exported and omitted records, and of the differences of a copy."""

    events: int = 0
    conflicts: int = 0
    redeliveries: int = 0
    omitted: int = 0
    resolutions: dict[Resolution, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Resolution, 0))
    corrections: int = 0
    waiting: int = 0
    """Events that need review in a copy."""
    changed_events: int = 0
    """Events that have another outcome in a copy."""
    changed_payments: int = 0
    """Payments that have another state in a copy."""

    @property
    def lines(self) -> int:
        """Return the number of exported lines."""
        return self.events + self.conflicts + self.redeliveries


def export_events(
    database: Database,
    summary: ExportSummary,
    on_omitted: Callable[[OmittedRecord], None] = lambda _: None,
    on_corrected: Callable[[CorrectedPayment], None] = lambda _: None,
) -> Generator[bytes, None, None]:
    """Yield the records of one moment as blocks of lines; count in `summary`. Memory stays flat.

    Raises CannotFinish if the database cannot be read.
    """
    with database.snapshot() as connection:
        with connection.cursor() as cursor:
            cursor.execute(_COUNT_RESOLUTIONS)
            summary.resolutions.update((Resolution(resolution), count) for resolution, count in cursor)
            cursor.execute(_COUNT_CORRECTIONS)
            ((summary.corrections,),) = cursor.fetchall()
        block = bytearray()
        for lines in (
            _export_events(connection, summary, on_omitted, on_corrected),
            *(_export_conflicts(database, connection, kind, summary, on_omitted) for kind in _RECORDS),
        ):
            for line in lines:
                block += line
                # A line that still ends with a carriage return was sent with two of them.
                block += b"\r\n" if line.endswith(b"\r") else b"\n"
                if len(block) >= BLOCK_BYTES:
                    yield bytes(block)
                    block.clear()
        yield bytes(block)


def count_lines(database: Database) -> int:
    """Return the number of lines to export. Raises CannotFinish."""
    with database.transaction() as cursor:
        cursor.execute(_COUNT_LINES)
        ((count,),) = cursor.fetchall()
    return int(count)


class _Record(msgspec.Struct, frozen=True, gc=False):
    """A record of an event_id, and its line as received."""

    event_id: str
    payment_id: str
    type: EventType
    line: str


class _Event(_Record, frozen=True, gc=False):
    """A row of _EVENTS."""

    position: int
    outcome: Outcome
    reason: Reason
    state_before: State
    state_after: State


class _Conflict(_Record, frozen=True, gc=False):
    """A conflict or a redelivery, with the event that has its event_id, if there is one."""

    original_payment_id: str | None
    original_type: EventType | None
    original_line: str | None

    def get_original(self) -> _Record | None:
        """Return the event that has its event_id."""
        if self.original_payment_id is None or self.original_type is None or self.original_line is None:
            return None
        return _Record(self.event_id, self.original_payment_id, self.original_type, self.original_line)


def _export_events(
    connection: psycopg2.extensions.connection,
    summary: ExportSummary,
    on_omitted: Callable[[OmittedRecord], None],
    on_corrected: Callable[[CorrectedPayment], None],
) -> Iterator[bytes]:
    """Yield the lines of events, payment by payment, and count the differences of a copy."""
    with (
        open_stream(connection, _DECISIONS_OF_PEOPLE) as decisions,
        open_stream(connection, _EVENTS, fetch_rows=FETCH_LINES) as cursor,
    ):
        people = _DecisionsOfPeople(decisions)
        for payment_id, history in groupby(read_structs(cursor, _Event), key=attrgetter("payment_id")):
            state_in_copy = State.CREATED
            for event in history:
                last = (event.position, event.state_after)
                if why := _find_reason_to_omit(event):
                    summary.omitted += 1
                    on_omitted(OmittedRecord("event", event.event_id, payment_id, why))
                    continue
                decision = TABLE[state_in_copy][event.type]
                recorded = (event.outcome, event.reason, event.state_before, event.state_after)
                summary.changed_events += decision != recorded
                summary.waiting += decision.outcome is Outcome.MANUAL_REVIEW
                state_in_copy = decision.state_after
                summary.events += 1
                yield event.line.encode()
            decided, is_corrected = people.read_last(payment_id)
            _, state = max(last, decided)
            if state != state_in_copy:
                summary.changed_payments += 1
                if is_corrected:
                    on_corrected(CorrectedPayment(payment_id, State(state), state_in_copy))


class _DecisionsOfPeople:
    """The decisions of people about each payment, read along with the events in the same order."""

    def __init__(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._rows = iter(rows)
        self._next = next(self._rows, None)

    def read_last(self, payment_id: str) -> tuple[tuple[int, str], bool]:
        """Return position and state of a payment's last decision, and whether any is a correction.

        Without one the position is 0.
        """
        last, is_corrected = (0, ""), False
        while self._next is not None and self._next[0] == payment_id:
            _, position, state, is_correction = self._next
            last = (position, state)
            is_corrected = is_corrected or is_correction
            self._next = next(self._rows, None)
        return last, is_corrected


def _export_conflicts(
    database: Database,
    connection: psycopg2.extensions.connection,
    kind: str,
    summary: ExportSummary,
    on_omitted: Callable[[OmittedRecord], None],
) -> Iterator[bytes]:
    """Yield the lines of conflicts, or of redeliveries with other content."""
    with connection.cursor() as asking:
        query = database.complete(_CONFLICTS.replace("{records}", _RECORDS[kind]), asking)
    with open_stream(connection, query, fetch_rows=FETCH_LINES) as cursor:
        for conflict in read_structs(cursor, _Conflict):
            if why := _find_reason_to_omit_conflict(conflict, kind) or _find_reason_to_omit(conflict):
                summary.omitted += 1
                on_omitted(OmittedRecord(kind, conflict.event_id, conflict.payment_id, why))
                continue
            summary.conflicts += kind == "conflict"
            summary.redeliveries += kind == "redelivery"
            yield conflict.line.encode()


def _find_reason_to_omit_conflict(conflict: _Conflict, kind: str) -> str | None:
    """Return the reason to omit a conflict or a redelivery, or None."""
    original = conflict.get_original()
    if original is None:
        return "no event is recorded under its event_id, so it would become one"
    if _find_reason_to_omit(original):
        return "the event under its event_id is omitted, so it would replace that event"
    if kind == "redelivery":
        return "it has the content of the event" if has_same_content(conflict.line, original.line) else None
    if (conflict.payment_id, conflict.type) == (original.payment_id, original.type):
        return "it has the payment and type of the event under its event_id, so it would be a duplicate"
    return None


def _find_reason_to_omit(record: _Record) -> str | None:
    """Return the reason to omit a record, or None."""
    if "\n" in record.line:
        return "its line holds a line feed, so it would become two"
    parsed = parse_line(record.line.encode())
    if isinstance(parsed, Malformed):
        return f"its line is malformed: {parsed.error}"
    event, _ = parsed
    if event.event_id != record.event_id:
        return f'its line has the event_id "{unambiguous(event.event_id)}"'
    if event.payment_id != record.payment_id:
        return f'its line has the payment_id "{unambiguous(event.payment_id)}"'
    if event.type is not record.type:
        return f"its line has the type {event.type.value}, the record {record.type.value}"
    return None
