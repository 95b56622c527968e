"""The review queue, and the decisions that people take on it.

Belongs here: listing the events that a machine must not decide alone, and recording a person's
decision. A resolution takes a position of its own in the payment's history, under the same compare
and set as an event.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice

import msgspec
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.db.rows import FETCH_LINES, FETCH_ROWS, make_struct, open_stream, read_rows, read_structs
from payproc.errors import CannotFinish
from payproc.escape import unambiguous
from payproc.logic import STATE_NAMED_BY, EventType, Outcome, Reason, Resolution, State
from payproc.moves import MAX_ATTEMPTS, move_payment

# Citus may have distributed events, payments and runs to different machines. It can join rows of
# another machine if a step of its own has fetched them before. MATERIALIZED makes such a step of
# each WITH. A run's row may be gone, and its sources' names with it.
_REVIEWS = """
    WITH event AS MATERIALIZED ({events}),
    review AS MATERIALIZED (
        SELECT event.*, payments.state, payments.version FROM event JOIN payproc.payments USING (payment_id)
    )
    SELECT event_id, payment_id, state, version, type, outcome, reason, state_before AS state_when_flagged, recorded_at,
           run_id, COALESCE(runs.sources[review.source + 1], 'source ' || review.source::text) AS source, line,
           payload::text
    FROM review LEFT JOIN payproc.runs USING (run_id)
    ORDER BY recorded_at, event_id
"""

# Pending reviews are found in steps: stream the flagged ids, drop the resolved ones, and fetch
# details page by page. With one query for each page, the planner could read and sort the whole rest
# for each, because its statistics may be missing or older than a big ingest.
# OPERATOR(pg_catalog.=): a plain = on an ENUM takes an exact match in `public`, whose code would
# run as this role. The condition on the outcome must stay that of the index events_for_review;
# every other one compares as text.
_FLAGGED = """
    SELECT event_id FROM payproc.events
    WHERE outcome OPERATOR(pg_catalog.=) 'MANUAL_REVIEW' AND (%s::text IS NULL OR reason::text = %s)
    ORDER BY recorded_at, event_id
"""

_RESOLVED_OF = "SELECT event_id FROM payproc.resolutions WHERE event_id = ANY (%s)"

_PAGE = _REVIEWS.format(events="SELECT * FROM payproc.events WHERE event_id = ANY (%s)")

_ONE = _REVIEWS.format(events="SELECT * FROM payproc.events WHERE event_id = %s")

_COUNT = """
    SELECT (SELECT count(*) FROM payproc.events WHERE outcome OPERATOR(pg_catalog.=) 'MANUAL_REVIEW')
         - (SELECT count(*) FROM payproc.resolutions)
"""

_RESOLVED = "SELECT resolution, resolved_by, resolved_at, note FROM payproc.resolutions WHERE event_id = %s"

# Only if nobody has decided yet.
_RESOLVE = """
    INSERT INTO payproc.resolutions
        (event_id, payment_id, position, resolution, state_before, state_after, note, resolved_by)
    VALUES (%(event_id)s, %(payment_id)s, %(position)s, %(resolution)s, %(before)s, %(after)s, %(note)s, %(by)s)
    ON CONFLICT (event_id) DO NOTHING
    RETURNING position
"""


class Review(msgspec.Struct, frozen=True):
    """An event that needs review. Field for field the object that `review --format json` prints."""

    event_id: str
    payment_id: str
    state: State
    """The payment's state now; that at the time of the event is `state_when_flagged`."""
    version: int
    type: EventType
    reason: Reason
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

    def state_after(self, review: Review) -> State:
        """Return the payment's state after the decision: an applied event's own, or unchanged."""
        return STATE_NAMED_BY[review.type] if self.resolution is Resolution.APPLY else review.state


def open_reviews(database: Database, reason: Reason | None = None, limit: int | None = None) -> Iterator[Review]:
    """Yield the events that need review, the oldest first; memory stays flat.

    Raises CannotFinish.
    """
    return islice(_read_pages(database, reason, FETCH_LINES if limit is None else min(limit, FETCH_LINES)), limit)


def count_open(database: Database) -> int:
    """Return the number of events that need review. Raises CannotFinish."""
    with database.transaction() as cursor:
        cursor.execute(_COUNT)
        ((count,),) = cursor.fetchall()
    return int(count)


def resolve(
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
            review = _find(cursor, event_id)
        if decision.expected is not None and review.state is not decision.expected:
            raise CannotFinish(
                f'payment "{unambiguous(review.payment_id)}": is {review.state.value}, '
                f"expected {decision.expected.value}; nothing was changed"
            )
        if decision.resolution is Resolution.APPLY and review.type not in STATE_NAMED_BY:
            raise CannotFinish(
                f'event "{unambiguous(event_id)}": is a {review.type.value}, which names no state to apply, '
                "expected --dismiss; nothing was changed"
            )
        if not confirm(review, decision.state_after(review)):
            return None
        if (position := _record(database, event_id, review, decision)) is not None:
            return review, position
    raise CannotFinish(f'payment "{unambiguous(review.payment_id)}": keeps moving; nothing was changed, try again')


def _read_pages(database: Database, reason: Reason | None, rows: int) -> Iterator[Review]:
    """Yield pending reviews as of one moment, reading `rows` of them at a time."""
    with (
        database.snapshot() as connection,
        connection.cursor() as cursor,
        open_stream(connection, _FLAGGED, (reason, reason)) as flagged,
    ):
        while event_ids := [event_id for (event_id,) in islice(flagged, FETCH_ROWS)]:
            cursor.execute(_RESOLVED_OF, (event_ids,))
            resolved = {event_id for (event_id,) in cursor}
            pending = [event_id for event_id in event_ids if event_id not in resolved]
            for start in range(0, len(pending), rows):
                cursor.execute(_PAGE, (pending[start : start + rows],))
                yield from list(read_structs(cursor, Review))


def _record(database: Database, event_id: str, review: Review, decision: ReviewDecision) -> int | None:
    """Move the payment and record the decision, or neither; return the decision's position."""
    before, after = review.state, decision.state_after(review)
    with database.transaction() as cursor:
        position = move_payment(cursor, review.payment_id, version=review.version, before=before, after=after)
        if position is not None:
            values = {
                "event_id": event_id,
                "payment_id": review.payment_id,
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
            # Another decision about it is written but was not visible yet: several machines do not
            # show the writes of a transaction at the same moment.
            cursor.connection.rollback()
    return None


def _find(cursor: psycopg2.extensions.cursor, event_id: str) -> Review:
    """Return an event that can be resolved. Raises CannotFinish with the reason why it cannot."""
    cursor.execute(_ONE, (event_id,))
    row = next(read_rows(cursor), None)
    if row is None:
        cursor.execute("SELECT FROM payproc.payments WHERE payment_id = %s", (event_id,))
        hint = "; it is a payment_id; payproc review lists event_ids" if cursor.rowcount else ""
        raise CannotFinish(f'event "{unambiguous(event_id)}": not found{hint}')
    # In this order, the second query sees a decision that is taken between the two. In the other
    # order, the payment would be read in the state after that decision, and a second decision would
    # seem to fit.
    cursor.execute(_RESOLVED, (event_id,))
    if resolved := cursor.fetchone():
        resolution, by, at, note = resolved
        done = "applied" if resolution == Resolution.APPLY else "dismissed"
        raise CannotFinish(
            f'event "{unambiguous(event_id)}": already resolved: {done} by {unambiguous(by)} on '
            f'{at:%Y-%m-%d at %H:%M:%S} UTC, with the note "{unambiguous(note)}"; nothing was changed'
        )
    review = make_struct(Review, row)
    if (outcome := Outcome(row["outcome"])) is not Outcome.MANUAL_REVIEW:
        raise CannotFinish(
            f'event "{unambiguous(event_id)}": has the outcome {outcome.value} ({review.reason.value}), '
            "expected MANUAL_REVIEW; nothing was changed"
        )
    return review
