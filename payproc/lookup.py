"""Look up the facts that a batch is decided on.

Belongs here: the queries between a batch and `Known`. The decisions are batch.py's.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import psycopg2.extensions

from payproc.batch import InputEvent, Known, RecordedByThisRun, RecordedEvent
from payproc.content import MAX_LOOKED_UP_BYTES
from payproc.logic import Decision, EventType, Outcome, Reason, State, classify
from payproc.schemas import PaymentEvent

SEPARATOR = "\x1f"
"""Separates the items of a list for the server. Neither an id nor a line of JSON can hold it."""

_LOOK_UP_EVENTS = """
    SELECT event_id, payment_id, type, outcome, CASE WHEN run_id = %s AND recorded_at >= %s
           THEN ARRAY[source::text, line::text, reason::text, state_before::text, state_after::text] END,
           CASE WHEN pg_catalog.pg_column_size(payload) <= %s THEN payload::text
           ELSE pg_catalog.encode(sha256(pg_catalog.convert_to(payload::text, 'UTF8')), 'hex') END
    FROM payproc.events WHERE event_id = ANY (string_to_array(%s, chr(31)))
"""

_LOOK_UP_PAYMENTS = """
    SELECT payment_id, state, version
    FROM payproc.payments WHERE payment_id = ANY (string_to_array(%s, chr(31)))
"""

_LOOK_UP_CONFLICTS = """
    SELECT event_id, payment_id, type, run_id = %s AND recorded_at >= %s, source, line
    FROM payproc.event_conflicts
    WHERE event_id = ANY (string_to_array(%s, chr(31))) AND payment_id = ANY (string_to_array(%s, chr(31)))
"""

# Members by their text, because a lookup is several times as fast as a call of the enum.
_TYPES = {each.value: each for each in EventType}
_OUTCOMES = {each.value: each for each in Outcome}
_STATES = {each.value: each for each in State}


class ThisRun(NamedTuple):
    """Identity of a run, to recognize its own events.

    A number alone does not suffice, because numbers may start again.
    """

    run_id: int
    since: datetime | str
    """Time of its start by the server's clock. Nothing older is the run's own."""


NO_RUN = ThisRun(0, "infinity")
"""A run without events: numbers start at 1."""


def look_up(connection: psycopg2.extensions.connection, run: ThisRun, events: Sequence[PaymentEvent]) -> Known:
    """Return the records under the event_ids, and the state and version of the payments."""
    with connection.cursor() as cursor:
        # Events first. An event recorded between the queries is then contested on writing. In the
        # other order it could pass for new.
        cursor.execute(_LOOK_UP_EVENTS, (*run, MAX_LOOKED_UP_BYTES, SEPARATOR.join(event.event_id for event in events)))
        recorded = {
            event_id: make_recorded(payment_id, event_type, outcome, own, line)
            for event_id, payment_id, event_type, outcome, own, line in cursor
        }
        cursor.execute(_LOOK_UP_PAYMENTS, (SEPARATOR.join({event.payment_id for event in events}),))
        payments = {payment_id: make_payment(state, version) for payment_id, state, version in cursor}
    return Known(recorded, payments, {})


def look_up_conflicts(
    connection: psycopg2.extensions.connection, run: ThisRun, batch: Iterable[InputEvent], known: Known
) -> None:
    """Add the recorded conflicts of the batch's event_ids and payments to `known`.

    A batch without conflicts costs no query. An event_id may have any number of conflicts.
    """
    recorded = known.recorded
    conflicts = {
        (event.event_id, event.payment_id)
        for event in (input_event.event for input_event in (batch if recorded else ()))
        if (original := recorded.get(event.event_id)) is not None
        # Most are duplicates, for which classify would cost several times as much as this.
        and (original.payment_id != event.payment_id or original.type is not event.type)
        and classify(event, original, State.CREATED).reason is Reason.EVENT_ID_CONFLICT
        and (event.event_id, event.payment_id, event.type) not in known.conflicts
    }
    if not conflicts:
        return
    event_ids, payment_ids = (SEPARATOR.join(set(ids)) for ids in zip(*conflicts, strict=True))
    with connection.cursor() as cursor:
        cursor.execute(_LOOK_UP_CONFLICTS, (*run, event_ids, payment_ids))
        for event_id, payment_id, event_type, is_own, source, line in cursor:
            conflict = (event_id, payment_id, _TYPES[event_type])
            known.conflicts.setdefault(conflict, (source, line) if is_own else None)


def make_recorded(
    payment_id: str, event_type: str, outcome: str, own: Sequence[str] | None, line: str
) -> RecordedEvent:
    """Return an event on record; `own` is the rest of its decision if this run recorded it."""
    by_this_run = _make_recorded_by_this_run(outcome, *own) if own else None
    return RecordedEvent(payment_id, _TYPES[event_type], _OUTCOMES[outcome], line, by_this_run)


def make_payment(state: str, version: int) -> tuple[State, int]:
    """Return the state and version of a payment."""
    return _STATES[state], version


def _make_recorded_by_this_run(
    outcome: str, source: str, line: str, reason: str, before: str, after: str
) -> RecordedByThisRun:
    decision = Decision(_OUTCOMES[outcome], Reason(reason), _STATES[before], _STATES[after])
    return RecordedByThisRun(int(source), int(line), decision)
