"""Events that need review, and the decisions that people take on them.

Belongs here: looking one up, and recording a person's decision. A resolution takes a position of
its own in the payment's history, under the same compare and set as an event. The list of them is in
review_queue.py, and bulk.py takes many decisions.
"""

from collections.abc import Callable
from datetime import datetime

import msgspec
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.db.rows import Record, make_struct, read_rows
from payproc.errors import CannotFinish
from payproc.escape import shorten, unambiguous
from payproc.logic import STATE_NAMED_BY, EventType, Outcome, Reason, Resolution, State, is_legal
from payproc.moves import MAX_ATTEMPTS, move_payment

# MATERIALIZED makes a step of its own. Citus fetches its rows before it joins them to `runs`, which
# is on another machine; one server's planner reads only these events, however old its statistics
# are. A run's row may be gone, and its sources' names with it.
REVIEWS = """
    WITH event AS MATERIALIZED (SELECT * FROM payproc.events WHERE {events}),
    review AS MATERIALIZED (
        SELECT event.*, payments.state, payments.version FROM event JOIN payproc.payments USING (payment_id)
    )
    SELECT event_id, payment_id, state, version, type, outcome, reason, state_before AS state_when_flagged, recorded_at,
           run_id, COALESCE(runs.sources[review.source + 1], 'source ' || review.source::text) AS source, line,
           payload::text
    FROM review LEFT JOIN payproc.runs USING (run_id)
    ORDER BY recorded_at, event_id
"""
"""Query for reviews, to be completed by the condition on their events."""

_WHOSE = "SELECT payment_id FROM payproc.{event_ids} WHERE event_id = %s"

# Only with the payment_id does Citus ask one machine alone, and use the key of events.
_THIS = "events.payment_id = %(payment_id)s AND events.event_id = %(event_id)s"

_ONE = REVIEWS.format(events=_THIS)

# The same without the line, for decisions that nobody looks at. Compare and set also
# finds a decision that this does not see yet.
_BRIEF = """
    SELECT event_id, payment_id, state, version, type, outcome, reason, resolutions.event_id IS NOT NULL AS is_resolved
    FROM payproc.events JOIN payproc.payments USING (payment_id)
         LEFT JOIN payproc.resolutions USING (payment_id, event_id)
    WHERE {this}
""".replace("{this}", _THIS)

_COUNT = """
    SELECT (SELECT count(*) FROM payproc.events WHERE outcome OPERATOR(pg_catalog.=) 'MANUAL_REVIEW')
         - (SELECT count(*) FROM payproc.resolutions)
"""

_RESOLVED = """
    SELECT payment_id, position, resolution, state_before, state_after, note, resolved_by, resolved_at
    FROM payproc.resolutions WHERE payment_id = %(payment_id)s AND event_id = %(event_id)s
"""

# Only if nobody has decided yet.
_RESOLVE = """
    INSERT INTO payproc.resolutions
        (event_id, payment_id, position, resolution, state_before, state_after, note, resolved_by)
    VALUES (%(event_id)s, %(payment_id)s, %(position)s, %(resolution)s, %(before)s, %(after)s, %(note)s, %(by)s)
    ON CONFLICT ON CONSTRAINT reviews_are_resolved_once DO NOTHING
    RETURNING position
"""


class PendingEvent(msgspec.Struct, frozen=True):
    """An event that needs review, with its payment's present state."""

    event_id: str
    payment_id: str
    state: State
    """The payment's state now; that at the time of the event is `state_when_flagged`."""
    version: int
    type: EventType
    reason: Reason


class Review(PendingEvent, frozen=True):
    """A pending event in full. Field for field the object that `review --format json` prints."""

    legal_now: bool
    """The table would apply the event to the payment's state now."""
    state_when_flagged: State
    recorded_at: datetime
    run_id: int
    source: str
    line: int
    payload: msgspec.Raw


class ReviewDecision(msgspec.Struct, frozen=True):
    """A person's decision, its reason and author, and the payment state it expects, if any."""

    resolution: Resolution
    note: str
    by: str
    expected: State | None = None

    def state_after(self, review: PendingEvent) -> State:
        """Return the payment's state after the decision: an applied event's own, or unchanged."""
        return STATE_NAMED_BY[review.type] if self.resolution is Resolution.APPLY else review.state


class Resolved(msgspec.Struct, frozen=True):
    """A recorded resolution."""

    payment_id: str
    position: int
    resolution: Resolution
    state_before: State
    state_after: State
    note: str
    resolved_by: str
    resolved_at: datetime


class Refused(CannotFinish):
    """A decision that cannot be recorded. Nothing was changed."""

    def __init__(self, message: str, payment_id: str | None = None) -> None:
        super().__init__(message)
        self.payment_id = payment_id


class AlreadyResolved(Refused):
    """A decision about an event that has one already."""

    def __init__(self, event_id: str, resolved: Resolved) -> None:
        self.resolved = resolved
        done = "applied" if resolved.resolution is Resolution.APPLY else "dismissed"
        by, note = shorten(resolved.resolved_by), shorten(resolved.note)
        super().__init__(
            f'event "{unambiguous(event_id)}": already resolved: {done} by {by} on '
            f'{resolved.resolved_at:%Y-%m-%d at %H:%M:%S} UTC, with the note "{note}"; nothing was changed',
            resolved.payment_id,
        )


def count_open(database: Database) -> int:
    """Return the number of events that need review. Raises CannotFinish."""
    with database.transaction() as cursor:
        cursor.execute(_COUNT)
        ((count,),) = cursor.fetchall()
    return int(count)


def resolve_review(
    database: Database, event_id: str, decision: ReviewDecision, confirm: Callable[[Review, State], bool]
) -> tuple[Review, int] | None:
    """Record a person's decision; return the event and the decision's position in the history.

    `confirm` gets the event with its payment's state now, and the state after the decision. If it
    returns False, nothing is changed and the result is None. If the payment moves between that and
    the write, it is called again.

    Raises CannotFinish if the event is not on record, not in review or already resolved, if the
    payment's state is not the expected one, or if a flag is to be applied; nothing is changed then.
    """
    for _ in range(MAX_ATTEMPTS):
        with database.transaction() as cursor:
            review = find_review(database, cursor, event_id)
        if decision.expected is not None and review.state is not decision.expected:
            raise Refused(
                f'payment "{unambiguous(review.payment_id)}": is {review.state.value}, '
                f"expected {decision.expected.value}; nothing was changed",
                review.payment_id,
            )
        refuse_applied_flag(review, decision.resolution)
        if not confirm(review, decision.state_after(review)):
            return None
        with database.transaction() as cursor:
            position = record(cursor, review, decision)
        if position is not None:
            return review, position
    raise keeps_moving(review)


def find_review(database: Database, cursor: psycopg2.extensions.cursor, event_id: str) -> Review:
    """Return a pending event in full. Raises Refused if it cannot be resolved."""
    return make_review(_find(database, cursor, _ONE, event_id))


def find_pending(database: Database, cursor: psycopg2.extensions.cursor, event_id: str) -> PendingEvent:
    """Return a pending event. Raises Refused if it cannot be resolved."""
    return make_struct(PendingEvent, _find(database, cursor, _BRIEF, event_id))


def refuse_applied_flag(event: PendingEvent, resolution: Resolution) -> None:
    """Raise Refused if the event names no state to apply."""
    if resolution is Resolution.APPLY and event.type not in STATE_NAMED_BY:
        raise Refused(
            f'event "{unambiguous(event.event_id)}": is a {event.type.value}, which names no state to apply, '
            "expected --dismiss; nothing was changed",
            event.payment_id,
        )


def keeps_moving(event: PendingEvent) -> Refused:
    """Return the error for a payment that moved before each attempt to record."""
    return Refused(
        f'payment "{unambiguous(event.payment_id)}": keeps moving; nothing was changed, try again', event.payment_id
    )


def record(cursor: psycopg2.extensions.cursor, event: PendingEvent, decision: ReviewDecision) -> int | None:
    """Move the payment and record the decision; return the decision's position in the history.

    None, and a transaction that is rolled back, if the payment has moved or somebody has decided.
    """
    before, after = event.state, decision.state_after(event)
    position = move_payment(cursor, event.payment_id, version=event.version, before=before, after=after)
    if position is not None:
        values = {
            "event_id": event.event_id,
            "payment_id": event.payment_id,
            "position": position,
            "before": before,
            "after": after,
            "resolution": decision.resolution,
            "note": decision.note,
            "by": decision.by,
        }
        cursor.execute(_RESOLVE, values)
        if cursor.fetchone():
            return position
    # The payment has moved, or somebody has decided without moving it, as by an edit of the tables.
    cursor.connection.rollback()
    return None


def make_review(row: Record) -> Review:
    """Return a row of REVIEWS."""
    is_legal_now = is_legal(State(row["state"]), EventType(row["type"]))
    return make_struct(Review, {**row, "legal_now": is_legal_now})


def _find(database: Database, cursor: psycopg2.extensions.cursor, query: str, event_id: str) -> Record:
    """Return the row of an event that can be resolved. Raises Refused if it cannot."""
    cursor.execute(database.complete(_WHOSE, cursor), (event_id,))
    row = None
    if whose := cursor.fetchone():
        this = {"payment_id": whose[0], "event_id": event_id}
        cursor.execute(query, this)
        row = next(read_rows(cursor), None)
    if row is None:
        cursor.execute("SELECT FROM payproc.payments WHERE payment_id = %s", (event_id,))
        hint = "; it is a payment_id; payproc review lists event_ids" if cursor.rowcount else ""
        raise Refused(f'event "{unambiguous(event_id)}": not found{hint}')
    # In this order, the second query sees a decision that is taken between the two. In the other
    # order, the payment would be read in the state after that decision, and a second decision would
    # seem to fit.
    if row.get("is_resolved", True):
        cursor.execute(_RESOLVED, this)
        if resolved := next(read_rows(cursor), None):
            raise AlreadyResolved(event_id, make_struct(Resolved, resolved))
    if (outcome := Outcome(row["outcome"])) is not Outcome.MANUAL_REVIEW:
        raise Refused(
            f'event "{unambiguous(event_id)}": has the outcome {outcome.value} ({row["reason"]}), '
            "expected MANUAL_REVIEW; nothing was changed",
            row["payment_id"],
        )
    return row
