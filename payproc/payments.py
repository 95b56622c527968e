"""One payment: its state, its history, its pending reviews, its conflicts and its redeliveries.

Belongs here: queries that answer `payproc show`. Nothing here writes.
"""

from datetime import datetime

import msgspec
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.db.rows import Record, make_struct, read_rows, read_structs
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
    """A person's decision about an event in MANUAL_REVIEW, in the history of its payment."""

    position: int
    event_id: str
    resolution: Resolution
    state_before: State
    state_after: State
    recorded_at: datetime
    note: str
    resolved_by: str


class CorrectionEntry(msgspec.Struct, frozen=True, tag_field="kind", tag="correction"):
    """A person's correction of a payment's state, in the history of the payment."""

    position: int
    state_before: State
    state_after: State
    recorded_at: datetime
    note: str
    corrected_by: str


HistoryEntry = EventEntry | ResolutionEntry | CorrectionEntry


class RecordedFact(msgspec.Struct, frozen=True):
    """The payment and type that an event_id is on record for."""

    payment_id: str
    type: EventType


class Conflict(msgspec.Struct, frozen=True):
    """An event whose event_id was already on record for something else."""

    event_id: str
    payment_id: str
    type: EventType
    recorded: RecordedFact
    recorded_at: datetime
    run_id: int
    source: str
    line: int
    payload: msgspec.Raw


class Redelivery(msgspec.Struct, frozen=True):
    """An event that came again with other content."""

    event_id: str
    type: EventType
    recorded_at: datetime
    run_id: int
    source: str
    line: int
    payload: msgspec.Raw


class Payment(msgspec.Struct, frozen=True):
    """Everything on record about a payment.

    Field for field the object that `show --format json` prints.
    """

    payment_id: str
    state: State
    version: int
    history: list[HistoryEntry]
    open_reviews: list[EventEntry]
    conflicts: list[Conflict]
    redeliveries: list[Redelivery]

    @property
    def rejected(self) -> list[EventEntry]:
        """Return the rejected events of the history."""
        return [entry for entry in self.history if isinstance(entry, EventEntry) and entry.outcome is Outcome.REJECT]

    @property
    def is_correctable(self) -> bool:
        """Return whether anything since the last correction can only be mended by another one.

        A rejected event and a conflict stay refused, and a decision about a review is final.
        """
        if not self.history:
            return False
        final: list[EventEntry | ResolutionEntry] = [*self.rejected]
        final += [entry for entry in self.history if isinstance(entry, ResolutionEntry)]
        conflicts = [conflict for conflict in self.conflicts if conflict.payment_id == self.payment_id]
        corrections = [entry for entry in self.history if isinstance(entry, CorrectionEntry)]
        if not corrections:
            return bool(final or conflicts)
        last = max(corrections, key=lambda entry: entry.position)
        # A clock may go back, and only a conflict has no position.
        return any(entry.position > last.position for entry in final) or any(
            conflict.recorded_at > last.recorded_at for conflict in conflicts
        )


_PAYMENT = "SELECT state, version FROM payproc.payments WHERE payment_id = %s"

# MATERIALIZED makes a step of its own. Citus fetches its rows before it joins them to a table of
# another machine, such as `runs`. A run's row may be gone, and its sources' names with it.
_HISTORY = """
    WITH entry AS MATERIALIZED (SELECT * FROM payproc.events WHERE payment_id = %s)
    SELECT position, event_id, type, outcome, reason, state_before, state_after, recorded_at,
           run_id, COALESCE(runs.sources[entry.source + 1], 'source ' || entry.source::text) AS source, line,
           payload::text
    FROM entry LEFT JOIN payproc.runs USING (run_id)
    ORDER BY position
"""

_RESOLUTIONS = """
    SELECT position, event_id, resolution, state_before, state_after, resolved_at AS recorded_at, note, resolved_by
    FROM payproc.resolutions WHERE payment_id = %s
"""

_CORRECTIONS = """
    SELECT position, state_before, state_after, corrected_at AS recorded_at, note, corrected_by
    FROM payproc.corrections WHERE payment_id = %s
"""

# Conflicts that name the payment, and those under one of its own event_ids that name another.
_CONFLICTS = """
    WITH own AS MATERIALIZED (SELECT event_id, payment_id, type FROM payproc.events WHERE payment_id = %(payment_id)s),
    conflict AS MATERIALIZED (
        SELECT conflict.*, original.payment_id AS original_payment_id, original.type AS original_type
        FROM payproc.event_conflicts AS conflict JOIN payproc.{event_ids} AS original USING (event_id)
        WHERE conflict.payment_id = %(payment_id)s
        UNION ALL
        SELECT conflict.*, own.payment_id, own.type
        FROM own JOIN payproc.event_conflicts AS conflict USING (event_id)
        WHERE conflict.payment_id <> %(payment_id)s
    )
    SELECT event_id, payment_id, type, original_payment_id, original_type, recorded_at,
           run_id, COALESCE(runs.sources[conflict.source + 1], 'source ' || conflict.source::text) AS source, line,
           payload::text
    FROM conflict LEFT JOIN payproc.runs USING (run_id)
    ORDER BY recorded_at, event_id
"""

_REDELIVERIES = """
    WITH own AS MATERIALIZED (SELECT event_id, type FROM payproc.events WHERE payment_id = %s),
    redelivery AS MATERIALIZED (
        SELECT redelivery.*, own.type FROM own JOIN payproc.redeliveries AS redelivery USING (event_id)
    )
    SELECT event_id, type, recorded_at,
           run_id, COALESCE(runs.sources[redelivery.source + 1], 'source ' || redelivery.source::text) AS source, line,
           payload::text
    FROM redelivery LEFT JOIN payproc.runs USING (run_id)
    ORDER BY recorded_at, event_id, digest
"""


# An event_id that is claimed may have no event yet.
_PAYMENT_OF = """
    WITH claim AS MATERIALIZED (SELECT event_id, payment_id FROM payproc.{event_ids} WHERE event_id = %s)
    SELECT payment_id FROM claim JOIN payproc.events USING (payment_id, event_id)
"""


def load_payment(database: Database, cursor: psycopg2.extensions.cursor, payment_id: str) -> Payment | None:
    """Return a payment, or None if nothing is on record about it.

    A payment that only a conflict names is `created`: none of its events is on record.
    """
    cursor.execute(_PAYMENT, (payment_id,))
    stored = cursor.fetchone()
    cursor.execute(_HISTORY, (payment_id,))
    events = list(read_structs(cursor, EventEntry))
    cursor.execute(_RESOLUTIONS, (payment_id,))
    resolutions = list(read_structs(cursor, ResolutionEntry))
    cursor.execute(_CORRECTIONS, (payment_id,))
    corrections = list(read_structs(cursor, CorrectionEntry))
    cursor.execute(database.complete(_CONFLICTS, cursor), {"payment_id": payment_id})
    conflicts = [make_struct(Conflict, {**row, "recorded": _original(row)}) for row in read_rows(cursor)]
    cursor.execute(_REDELIVERIES, (payment_id,))
    redeliveries = list(read_structs(cursor, Redelivery))
    if stored is None and not conflicts:
        return None
    state, version = stored or (State.CREATED, 0)
    history: list[HistoryEntry] = [*events, *resolutions, *corrections]
    history.sort(key=lambda entry: entry.position)
    resolved = {entry.event_id for entry in resolutions}
    open_reviews = [
        entry for entry in events if entry.outcome is Outcome.MANUAL_REVIEW and entry.event_id not in resolved
    ]
    return Payment(payment_id, State(state), version, history, open_reviews, conflicts, redeliveries)


def find_payment_id(database: Database, cursor: psycopg2.extensions.cursor, event_id: str) -> str | None:
    """Return the payment_id of an event, or None. Used to hint when `show` gets an event_id."""
    cursor.execute(database.complete(_PAYMENT_OF, cursor), (event_id,))
    found = cursor.fetchone()
    return found[0] if found else None


def _original(row: Record) -> Record:
    return {"payment_id": row["original_payment_id"], "type": row["original_type"]}
