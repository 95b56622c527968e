"""The review queue, and what a person decides about it.

What belongs here: listing the events that a machine must not decide alone, and recording a person's decision. A
resolution takes a position of its own in the payment's history, under the same compare and set as an event does.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any

import msgspec
import psycopg2.extensions

from payproc.db.connection import FETCH_LINES, FETCH_ROWS, Database
from payproc.errors import CannotFinish
from payproc.escape import unambiguous
from payproc.logic import STATE_NAMED_BY, EventType, Outcome, Reason, Resolution, State
from payproc.payments import in_utc, source_name

ATTEMPTS = 100
"""How often to look again at a payment that keeps moving between the look and the decision."""

# Events, payments and runs may be on different machines, where Citus has distributed the tables. It joins what a step
# of its own has found before, which MATERIALIZED makes of each WITH, to what is somewhere else.
_REVIEWS = """
    WITH event AS MATERIALIZED ({events}),
    review AS MATERIALIZED (
        SELECT event.*, payments.state, payments.version FROM event JOIN payproc.payments USING (payment_id)
    )
    SELECT event_id, payment_id, state, version, type, outcome, reason, state_before, recorded_at,
           run_id, runs.sources[review.source + 1], review.source, line, payload::text
    FROM review LEFT JOIN payproc.runs USING (run_id)
    ORDER BY recorded_at, event_id
"""

# What waits is found in steps: ids by one cursor, without those that are resolved, and then the rest of some at a time.
# A query for each page would leave it to the planner, whose statistics may be older than a big ingest, or missing,
# whether it reads and sorts all that is left for each.
# OPERATOR(pg_catalog.=): a plain = on an ENUM takes an exact match in `public`, whose code would run as this role. The
# condition on the outcome must stay the one of the index events_for_review; any other compares as text.
_FLAGGED = """
    SELECT event_id FROM payproc.events
    WHERE outcome OPERATOR(pg_catalog.=) 'MANUAL_REVIEW' AND (%s::text IS NULL OR reason::text = %s)
    ORDER BY recorded_at, event_id
"""

_RESOLVED_OF = "SELECT event_id FROM payproc.resolutions WHERE event_id = ANY (%s)"

_SOME = _REVIEWS.format(events="SELECT * FROM payproc.events WHERE event_id = ANY (%s)")

_ONE = _REVIEWS.format(events="SELECT * FROM payproc.events WHERE event_id = %s")

_COUNT = """
    SELECT (SELECT count(*) FROM payproc.events WHERE outcome OPERATOR(pg_catalog.=) 'MANUAL_REVIEW')
         - (SELECT count(*) FROM payproc.resolutions)
"""

_RESOLVED = "SELECT resolution, resolved_by, resolved_at, note FROM payproc.resolutions WHERE event_id = %s"

# Like record_decisions.sql: only if version and state are still what the person was shown, and nobody has decided.
_MOVE = """
    UPDATE payproc.payments
    SET state = %(after)s, version = %(version)s + 1,
        state_since = CASE WHEN %(after)s::text = %(before)s::text THEN state_since ELSE now() END
    WHERE payment_id = %(payment_id)s AND version = %(version)s AND state::text = %(before)s
    RETURNING version
"""

_RESOLVE = """
    INSERT INTO payproc.resolutions
        (event_id, payment_id, position, resolution, state_before, state_after, note, resolved_by)
    VALUES (%(event_id)s, %(payment_id)s, %(position)s, %(resolution)s, %(before)s, %(after)s, %(note)s, %(by)s)
    ON CONFLICT (event_id) DO NOTHING
    RETURNING position
"""


class Review(msgspec.Struct, frozen=True):
    """An event that waits for a person. Field for field the object that `review --format json` prints."""

    event_id: str
    payment_id: str
    state: State
    """The payment's state now, not when the event came."""
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
    """A person's decision: what, why, by whom, and the only state of the payment that it is meant for, if any."""

    resolution: Resolution
    note: str
    by: str
    expected: State | None = None

    def state_after(self, review: Review) -> State:
        """Return the state that the decision leaves the payment in: applied, the one that the event names."""
        return STATE_NAMED_BY[review.type] if self.resolution is Resolution.APPLY else review.state


def open_reviews(database: Database, reason: Reason | None = None, limit: int | None = None) -> Iterator[Review]:
    """Events that wait for a person, the oldest first; memory stays flat. Raises CannotFinish."""
    return islice(_in_pages(database, reason, FETCH_LINES if limit is None else min(limit, FETCH_LINES)), limit)


def _in_pages(database: Database, reason: Reason | None, rows: int) -> Iterator[Review]:
    """Read `rows` of them at a time, as of one moment."""
    with database.snapshot() as connection, connection.cursor() as cursor:
        flagged = Database.stream(connection, _FLAGGED, (reason, reason))
        while event_ids := [event_id for (event_id,) in islice(flagged, FETCH_ROWS)]:
            cursor.execute(_RESOLVED_OF, (event_ids,))
            resolved = {event_id for (event_id,) in cursor}
            waiting = [event_id for event_id in event_ids if event_id not in resolved]
            for start in range(0, len(waiting), rows):
                cursor.execute(_SOME, (waiting[start : start + rows],))
                yield from [review for review, _ in map(_review, cursor)]


def count_open(database: Database) -> int:
    """How many events wait for a person. Raises CannotFinish."""
    with database.transaction() as cursor:
        cursor.execute(_COUNT)
        ((count,),) = cursor.fetchall()
    return int(count)


def resolve(
    database: Database, event_id: str, verdict: ReviewDecision, confirm: Callable[[Review, State], bool]
) -> tuple[Review, int] | None:
    """Record a person's decision; give what was decided about, and its position in the payment's history.

    `confirm` is shown the event with its payment's state now, and the state that the decision leads to; where it says
    no, nothing is changed and the result is None. If the payment moves between that and the write, it is asked again.

    Raises CannotFinish if the event is not on record, not in review or already resolved, if the payment's state is not
    the expected one, or if a flag is to be applied; nothing is changed then.
    """
    for _ in range(ATTEMPTS):
        with database.transaction() as cursor:
            review = _find(cursor, event_id)
        if verdict.expected is not None and review.state is not verdict.expected:
            raise CannotFinish(
                f'payment "{unambiguous(review.payment_id)}": is {review.state.value}, '
                f"expected {verdict.expected.value}; nothing was changed"
            )
        if verdict.resolution is Resolution.APPLY and review.type not in STATE_NAMED_BY:
            raise CannotFinish(
                f'event "{unambiguous(event_id)}": is a {review.type.value}, which names no state to apply, '
                "expected --dismiss; nothing was changed"
            )
        if not confirm(review, verdict.state_after(review)):
            return None
        if (position := _record(database, event_id, review, verdict)) is not None:
            return review, position
    raise CannotFinish(f'payment "{unambiguous(review.payment_id)}": keeps moving; nothing was changed, try again')


def _record(database: Database, event_id: str, review: Review, verdict: ReviewDecision) -> int | None:
    """Move the payment and keep the decision, or neither; give the decision's position in the payment's history."""
    values = {
        "event_id": event_id,
        "payment_id": review.payment_id,
        "version": review.version,
        "before": review.state,
        "after": verdict.state_after(review),
        "resolution": verdict.resolution,
        "note": verdict.note,
        "by": verdict.by,
    }
    with database.transaction() as cursor:
        cursor.execute(_MOVE, values)
        if moved := cursor.fetchone():
            cursor.execute(_RESOLVE, {**values, "position": moved[0]})
            if written := cursor.fetchone():
                return int(written[0])
            # Another decision about it has been written, but was not to be seen yet: over several machines, what a
            # transaction writes is not seen everywhere at the same moment.
            cursor.connection.rollback()
    return None


def _find(cursor: psycopg2.extensions.cursor, event_id: str) -> Review:
    """An event that can be resolved. Raises CannotFinish with the reason why it cannot."""
    cursor.execute(_ONE, (event_id,))
    row = cursor.fetchone()
    if row is None:
        cursor.execute("SELECT FROM payproc.payments WHERE payment_id = %s", (event_id,))
        hint = "; it is a payment_id, and payproc review lists the events that wait" if cursor.rowcount else ""
        raise CannotFinish(f'event "{unambiguous(event_id)}": is not on record{hint}')
    # In this order: whoever resolves it between the two queries is seen by the second. The other way round, the
    # payment would be read as the other decision has left it, and a second decision would seem to fit.
    cursor.execute(_RESOLVED, (event_id,))
    if resolved := cursor.fetchone():
        resolution, by, at, note = resolved
        done = "applied" if resolution == Resolution.APPLY else "dismissed"
        raise CannotFinish(
            f'event "{unambiguous(event_id)}": was {done} by {unambiguous(by)} on '
            f'{in_utc(at):%Y-%m-%d at %H:%M:%S} UTC, with the note "{unambiguous(note)}"; nothing was changed'
        )
    review, outcome = _review(row)
    if outcome is not Outcome.MANUAL_REVIEW:
        raise CannotFinish(
            f'event "{unambiguous(event_id)}": came out {outcome.value} ({review.reason.value}), '
            "so there is nothing to decide"
        )
    return review


def _review(row: tuple[Any, ...]) -> tuple[Review, Outcome]:
    (event_id, payment_id, state, version, event_type, outcome, reason, before, recorded_at, run_id, name, source,
     line, payload) = row  # fmt: skip
    review = Review(
        event_id, payment_id, State(state), version, EventType(event_type), Reason(reason), State(before),
        in_utc(recorded_at), run_id, source_name(name, source), line, msgspec.Raw(payload),
    )  # fmt: skip
    return review, Outcome(outcome)
