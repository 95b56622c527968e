"""The review queue: the events that a machine must not decide alone, as a list.

Belongs here: the filters, and reading the queue in the two orders that it is needed in.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.db.rows import FETCH_LINES, FETCH_ROWS, make_struct, open_stream, read_rows, read_structs
from payproc.logic import EventType, Reason, State, is_legal
from payproc.review import REVIEWS, PendingEvent, Review, make_review

# Pending reviews are found in steps: stream the flagged events, drop the resolved ones and those
# whose payment's state does not fit, and fetch details page by page. With one query for each page,
# the planner could read and sort the whole rest for each, because its statistics may be missing or
# older than a big ingest.
# OPERATOR(pg_catalog.=): a plain = on an ENUM takes an exact match in `public`, whose code would
# run as this role. The condition on the outcome must stay that of the index events_for_review;
# every other one compares as text.
_FLAGGED = """
    SELECT event_id, payment_id, position, type, reason, recorded_at FROM payproc.events
    WHERE outcome OPERATOR(pg_catalog.=) 'MANUAL_REVIEW'
      AND (%(reason)s::text IS NULL OR reason::text = %(reason)s)
      AND (%(type)s::text IS NULL OR type::text = %(type)s)
      AND (%(payment_id)s::text IS NULL OR payment_id = %(payment_id)s)
      AND (%(run_id)s::bigint IS NULL OR run_id = %(run_id)s)
"""

_OLDEST_FIRST = _FLAGGED + "ORDER BY recorded_at, event_id"

_BY_PAYMENT = """
    WITH event AS MATERIALIZED ({flagged} AND NOT EXISTS (
        SELECT FROM payproc.resolutions AS resolution
        WHERE resolution.payment_id = events.payment_id AND resolution.event_id = events.event_id
    ))
    SELECT event_id, payment_id, state, version, type, reason FROM event JOIN payproc.payments USING (payment_id)
    ORDER BY pg_catalog.min(recorded_at) OVER (PARTITION BY payment_id), payment_id, position
"""

_RESOLVED_OF = """
    SELECT payment_id, event_id FROM payproc.resolutions
    WHERE {of_payments} event_id = ANY (%(event_ids)s)
"""

_STATES_OF = "SELECT payment_id, state, version FROM payproc.payments WHERE payment_id = ANY (%(payment_ids)s)"

_PAGE = REVIEWS.format(events="{of_payments} event_id = ANY (%(event_ids)s)")


class ReviewFilter(msgspec.Struct, frozen=True):
    """The conditions that pick pending events. None and False pick all."""

    reason: Reason | None = None
    type: EventType | None = None
    payment_id: str | None = None
    run_id: int | None = None
    state: State | None = None
    legal_now: bool = False

    def fits(self, state: State, event_type: EventType) -> bool:
        """Return whether a payment's state fits; _FLAGGED checks the other conditions."""
        return self.state in (None, state) and (not self.legal_now or is_legal(state, event_type))


class QueueCounts(NamedTuple):
    """Numbers of pending events by reason: all of them, and those that are legal now."""

    waiting: Counter[Reason]
    legal: Counter[Reason]


def open_reviews(
    database: Database,
    filters: ReviewFilter | None = None,
    limit: int | None = None,
    counts: QueueCounts | None = None,
) -> Iterator[Review]:
    """Yield the pending events that the filters pick, the oldest first; memory stays flat.

    With `counts`, events beyond the limit are counted as well. Raises CannotFinish.
    """
    with database.snapshot() as connection:
        left = limit
        for page in _read_pages(database, connection, filters or ReviewFilter()):
            if counts is not None:
                counts.waiting.update(each.reason for each in page)
                counts.legal.update(each.reason for each in page if is_legal(each.state, each.type))
            elif left == 0:
                return
            shown = page[:left]
            left = None if left is None else left - len(shown)
            yield from _read_details(database, connection, shown)


def read_by_payment(database: Database, filters: ReviewFilter) -> Iterator[PendingEvent]:
    """Yield pending events payment by payment, each in the order of its history; memory stays flat.

    The payment with the oldest one comes first. The conditions on the state are left to the caller,
    because decisions may change it from event to event. Raises CannotFinish.
    """
    with (
        database.snapshot() as connection,
        open_stream(connection, _BY_PAYMENT.format(flagged=_FLAGGED), msgspec.structs.asdict(filters)) as events,
    ):
        yield from read_structs(events, PendingEvent)


def _read_details(
    database: Database, connection: psycopg2.extensions.connection, shown: Sequence[PendingEvent]
) -> Iterator[Review]:
    """Yield the reviews of a page.

    On Citus one query fetches all of them, because it goes to every machine. On one server many
    ids in one query could make the planner read all events.
    """
    with connection.cursor() as cursor:
        rows = FETCH_ROWS if database.is_for_citus(cursor) else FETCH_LINES
        query = database.complete(_PAGE, cursor)
    for first in range(0, len(shown), rows):
        some = shown[first : first + rows]
        ids = {"payment_ids": list({each.payment_id for each in some}), "event_ids": [each.event_id for each in some]}
        with open_stream(connection, query, ids, fetch_rows=FETCH_LINES) as reviews:
            yield from map(make_review, read_rows(reviews))


def _read_pages(
    database: Database, connection: psycopg2.extensions.connection, filters: ReviewFilter
) -> Iterator[Sequence[PendingEvent]]:
    """Yield pages of the pending events that the filters pick."""
    with (
        connection.cursor() as cursor,
        open_stream(connection, _OLDEST_FIRST, msgspec.structs.asdict(filters)) as flagged,
    ):
        rows = read_rows(flagged)
        while page := list(islice(rows, FETCH_ROWS)):
            ids = {
                "payment_ids": list({row["payment_id"] for row in page}),
                "event_ids": [row["event_id"] for row in page],
            }
            cursor.execute(database.complete(_RESOLVED_OF, cursor), ids)
            resolved = {*cursor}
            cursor.execute(_STATES_OF, ids)
            payments = {row.pop("payment_id"): row for row in read_rows(cursor)}
            pending = [
                make_struct(PendingEvent, {**row, **payments[row["payment_id"]]})
                for row in page
                if (row["payment_id"], row["event_id"]) not in resolved and row["payment_id"] in payments
            ]
            yield [event for event in pending if filters.fits(event.state, event.type)]
