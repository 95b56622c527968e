"""Reads one payment: its state, its whole history, what waits for a person, and conflicts that name it.

What belongs here: queries that answer `payproc show`. Nothing here writes.
"""

from datetime import datetime, timezone

import msgspec
import psycopg2.extensions

from payproc.logic import EventType, Outcome, Reason, Resolution, State


class EventEntry(msgspec.Struct, frozen=True, tag_field="kind", tag="event"):
    """One event in a payment's history."""

    position: int
    event_id: str
    type: EventType
    outcome: Outcome
    reason: Reason
    state_before: State
    state_after: State
    recorded_at: datetime
    run_id: int
    source: str
    line: int
    payload: msgspec.Raw
    """The line as received."""


class ResolutionEntry(msgspec.Struct, frozen=True, tag_field="kind", tag="resolution"):
    """What a person decided about an event in MANUAL_REVIEW, in the history of its payment."""

    position: int
    event_id: str
    resolution: Resolution
    state_before: State
    state_after: State
    recorded_at: datetime
    note: str
    resolved_by: str


HistoryEntry = EventEntry | ResolutionEntry


class RecordedFact(msgspec.Struct, frozen=True):
    """What an event_id stands for."""

    payment_id: str
    type: EventType


class Conflict(msgspec.Struct, frozen=True):
    """What came under an event_id that was already taken."""

    event_id: str
    payment_id: str
    type: EventType
    recorded: RecordedFact
    recorded_at: datetime
    run_id: int
    source: str
    line: int
    payload: msgspec.Raw


class Payment(msgspec.Struct, frozen=True):
    """Everything on record about a payment. Field for field the object that `show --format json` prints."""

    payment_id: str
    state: State
    version: int
    history: list[HistoryEntry]
    open_reviews: list[EventEntry]
    conflicts: list[Conflict]


_PAYMENT = "SELECT state, version FROM payproc.payments WHERE payment_id = %s"

# Where Citus has distributed the tables, a step of its own for what is on other machines than `runs`: MATERIALIZED.
_HISTORY = """
    WITH entry AS MATERIALIZED (SELECT * FROM payproc.events WHERE payment_id = %s)
    SELECT position, event_id, type, outcome, reason, state_before, state_after, recorded_at,
           run_id, runs.sources[entry.source + 1], entry.source, line, payload::text
    FROM entry LEFT JOIN payproc.runs USING (run_id)
    ORDER BY position
"""

_RESOLUTIONS = """
    SELECT position, event_id, resolution, state_before, state_after, resolved_at, note, resolved_by
    FROM payproc.resolutions WHERE payment_id = %s
"""

# Conflicts that name the payment, and those under one of its own event_ids that name another.
_CONFLICTS = """
    WITH conflict AS MATERIALIZED (
        SELECT conflict.*, original.payment_id AS original_payment_id, original.type AS original_type
        FROM payproc.event_conflicts AS conflict JOIN payproc.events AS original USING (event_id)
        WHERE conflict.payment_id = %(payment_id)s
        UNION ALL
        SELECT conflict.*, original.payment_id, original.type
        FROM payproc.event_conflicts AS conflict JOIN payproc.events AS original USING (event_id)
        WHERE original.payment_id = %(payment_id)s AND conflict.payment_id <> %(payment_id)s
    )
    SELECT event_id, payment_id, type, original_payment_id, original_type, recorded_at,
           run_id, runs.sources[conflict.source + 1], conflict.source, line, payload::text
    FROM conflict LEFT JOIN payproc.runs USING (run_id)
    ORDER BY recorded_at, event_id
"""


def load_payment(cursor: psycopg2.extensions.cursor, payment_id: str) -> Payment | None:
    """Read a payment; None if nothing at all is on record about it.

    Where only a conflict names it, the payment is still `created`: nobody has heard of it in good order.
    """
    cursor.execute(_PAYMENT, (payment_id,))
    stored = cursor.fetchone()
    cursor.execute(_HISTORY, (payment_id,))
    events = [
        EventEntry(
            position, event_id, EventType(event_type), Outcome(outcome), Reason(reason), State(before), State(after),
            in_utc(recorded_at), run_id, source_name(name, source), line, msgspec.Raw(payload),
        )
        for position, event_id, event_type, outcome, reason, before, after,
            recorded_at, run_id, name, source, line, payload in cursor
    ]  # fmt: skip
    cursor.execute(_RESOLUTIONS, (payment_id,))
    resolutions = [
        ResolutionEntry(position, event_id, Resolution(resolution), State(before), State(after), in_utc(at), note, by)
        for position, event_id, resolution, before, after, at, note, by in cursor
    ]
    cursor.execute(_CONFLICTS, {"payment_id": payment_id})
    conflicts = [
        Conflict(
            event_id, named, EventType(event_type), RecordedFact(original, EventType(original_type)),
            in_utc(recorded_at), run_id, source_name(name, source), line, msgspec.Raw(payload),
        )
        for event_id, named, event_type, original, original_type,
            recorded_at, run_id, name, source, line, payload in cursor
    ]  # fmt: skip
    if stored is None and not conflicts:
        return None
    state, version = stored or (State.CREATED, 0)
    history: list[HistoryEntry] = [*events, *resolutions]
    history.sort(key=lambda entry: entry.position)
    resolved = {entry.event_id for entry in resolutions}
    open_reviews = [
        entry for entry in events if entry.outcome is Outcome.MANUAL_REVIEW and entry.event_id not in resolved
    ]
    return Payment(payment_id, State(state), version, history, open_reviews, conflicts)


def payment_of(cursor: psycopg2.extensions.cursor, event_id: str) -> str | None:
    """The payment that an event is of, for whoever looks for the one and has the other; None if it is not on record."""
    cursor.execute("SELECT payment_id FROM payproc.events WHERE event_id = %s", (event_id,))
    found = cursor.fetchone()
    return found[0] if found else None


def source_name(name: str | None, index: int) -> str:
    """What a source is called, if its run has told; a run's row may be gone."""
    return f"source {index}" if name is None else name


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC; the driver gives it in the time zone of the session, which may be any."""
    return moment.astimezone(timezone.utc)
