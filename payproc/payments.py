"""Reads one payment: its state, its whole history, what waits for a person, and conflicts that name it.

What belongs here: queries that answer `payproc show`. Nothing here writes.
"""

from datetime import datetime

import msgspec
from sqlalchemy import Connection, Row, Select, Text, cast, select
from sqlalchemy.sql.elements import ColumnElement

from payproc.logic import EventType, Outcome, Reason, State
from payproc.models import event_conflicts, events, payments, runs


class HistoryEntry(msgspec.Struct, frozen=True):
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
    open_reviews: list[HistoryEntry]
    conflicts: list[Conflict]


def load_payment(connection: Connection, payment_id: str) -> Payment | None:
    """Read a payment; None if nothing at all is on record about it.

    Where only a conflict names it, the payment is still `created`: nobody has heard of it in good order.
    """
    stored = connection.execute(
        select(payments.c.state, payments.c.version).where(payments.c.payment_id == payment_id)
    ).one_or_none()
    history = [_entry(row) for row in connection.execute(_history(payment_id))]
    conflicts = [_conflict(row) for row in connection.execute(_conflicts(payment_id))]
    if stored is None and not conflicts:
        return None
    state, version = (State.CREATED, 0) if stored is None else stored
    open_reviews = [entry for entry in history if entry.outcome is Outcome.MANUAL_REVIEW]
    return Payment(payment_id, state, version, history, open_reviews, conflicts)


def _history(payment_id: str) -> Select[tuple[object, ...]]:
    return (
        select(events, cast(events.c.payload, Text).label("received"), runs.c.sources)
        .outerjoin(runs, runs.c.run_id == events.c.run_id)
        .where(events.c.payment_id == payment_id)
        .order_by(events.c.position)
    )


def _conflicts(payment_id: str) -> Select[tuple[object, ...]]:
    """Conflicts that came under one of the payment's event_ids, or that name it under another's."""
    original = events.alias("original")
    names_it: ColumnElement[bool] = event_conflicts.c.payment_id == payment_id
    return (
        select(
            event_conflicts,
            cast(event_conflicts.c.payload, Text).label("received"),
            original.c.payment_id.label("original_payment_id"),
            original.c.type.label("original_type"),
            runs.c.sources,
        )
        .join(original, original.c.event_id == event_conflicts.c.event_id)
        .outerjoin(runs, runs.c.run_id == event_conflicts.c.run_id)
        .where(names_it | (original.c.payment_id == payment_id))
        .order_by(event_conflicts.c.recorded_at, event_conflicts.c.event_id)
    )


def _entry(row: Row[tuple[object, ...]]) -> HistoryEntry:
    return HistoryEntry(
        position=row.position,
        event_id=row.event_id,
        type=row.type,
        outcome=row.outcome,
        reason=row.reason,
        state_before=row.state_before,
        state_after=row.state_after,
        recorded_at=row.recorded_at,
        run_id=row.run_id,
        source=_source(row),
        line=row.line,
        payload=msgspec.Raw(row.received),
    )


def _conflict(row: Row[tuple[object, ...]]) -> Conflict:
    return Conflict(
        event_id=row.event_id,
        payment_id=row.payment_id,
        type=row.type,
        recorded=RecordedFact(row.original_payment_id, row.original_type),
        recorded_at=row.recorded_at,
        run_id=row.run_id,
        source=_source(row),
        line=row.line,
        payload=msgspec.Raw(row.received),
    )


def _source(row: Row[tuple[object, ...]]) -> str:
    sources = row.sources or []
    return sources[row.source] if row.source < len(sources) else f"source {row.source}"
