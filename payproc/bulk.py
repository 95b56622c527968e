"""Many decisions of people: planned, and recorded one by one.

Belongs here: the fate of each decision of a batch. Each has a transaction of its own, under the
same compare and set as a single one, and waits for the disk. So a result that is returned is
durable, and a batch may run beside an ingest or another batch.
"""

from collections import Counter
from collections.abc import Iterator
from enum import Enum
from itertools import islice

import msgspec
import psycopg2
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.db.errors import is_about_content
from payproc.errors import CannotFinish
from payproc.escape import unambiguous
from payproc.logic import Reason, Resolution, State
from payproc.moves import MAX_ATTEMPTS
from payproc.review import (
    AlreadyResolved,
    PendingEvent,
    Refused,
    ReviewDecision,
    find_pending,
    keeps_moving,
    record,
    refuse_applied_flag,
)
from payproc.review_queue import ReviewFilter, read_by_payment

# Entries of a batch at the end of a history. A resolution that the batch took has its author, and
# is no older than the batch.
_OWN_RESOLUTIONS = """
    SELECT position, state_before FROM payproc.resolutions
    WHERE payment_id = %s AND resolved_by = %s AND resolved_at >= %s
    ORDER BY position DESC
"""


class Fate(str, Enum):
    """The fate of one decision. Summaries list fates in this order."""

    RESOLVED = "resolved"
    ALREADY = "already"
    REFUSED = "refused"
    MALFORMED = "malformed"


class Order(msgspec.Struct, frozen=True):
    """A decision to record, with its premises: the version, and conditions on the state."""

    event_id: str
    decision: ReviewDecision
    version: int | None = None
    source: str | None = None
    line: int | None = None
    filters: ReviewFilter | None = None


class BulkResult(msgspec.Struct, frozen=True):
    """The fate of a decision. Field for field an object of `resolve --decisions`."""

    source: str | None
    line: int | None
    event_id: str | None
    payment_id: str | None
    resolution: Resolution | None
    result: Fate
    state_before: State | None
    state_after: State | None
    position: int | None
    error: str | None


class BulkSummary(msgspec.Struct):
    """The counts of a batch. Field for field the object that `resolve --format json` prints."""

    resolved: int = 0
    already: int = 0
    refused: int = 0
    malformed: int = 0
    reasons: Counter[Reason] = msgspec.field(default_factory=Counter)
    """The resolved events by the reason why they needed review."""
    dry_run: bool = False
    elapsed_seconds: float = 0.0

    def add(self, result: BulkResult, reason: Reason | None) -> None:
        """Count a result."""
        name = result.result.value
        setattr(self, name, getattr(self, name) + 1)
        if result.result is Fate.RESOLVED and reason is not None:
            self.reasons[reason] += 1


Settled = tuple[BulkResult, Reason | None]
"""A result, and the reason why its event needed review."""


def plan(
    database: Database, filters: ReviewFilter, decision: ReviewDecision, limit: int | None = None
) -> Iterator[Settled]:
    """Yield the results that deciding all picked events would have now, one payment at a time.

    Each event is judged with the state that the decisions before it would leave. Writes nothing.
    Raises CannotFinish.
    """
    return islice(_plan(read_by_payment(database, filters), filters, decision), limit)


def _plan(events: Iterator[PendingEvent], filters: ReviewFilter, decision: ReviewDecision) -> Iterator[Settled]:
    before: PendingEvent | None = None
    for each in events:
        event = each
        if before is not None and before.payment_id == each.payment_id:
            event = msgspec.structs.replace(each, state=before.state, version=before.version)
        before = event
        if not filters.fits(event.state, event.type):
            continue
        order = Order(event.event_id, decision)
        try:
            refuse_applied_flag(event, decision.resolution)
        except Refused as error:
            yield _refuse(order, error), event.reason
            continue
        after = decision.state_after(event)
        before = msgspec.structs.replace(event, state=after, version=event.version + 1)
        yield _make_result(order, Fate.RESOLVED, event.payment_id, event.state, after, before.version), event.reason


class Resolver:
    """Records the decisions of one batch over one connection."""

    def __init__(self, database: Database) -> None:
        """Connect. Raises CannotFinish if that fails."""
        self._database = database
        self._connection = database.connect()
        with database.transaction_on(self._connection) as cursor:
            cursor.execute("SELECT pg_catalog.clock_timestamp()")
            ((self._began_at,),) = cursor.fetchall()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def resolve(self, order: Order) -> Settled:
        """Record a decision, or return its refusal; the result is durable.

        Raises CannotFinish if the database cannot be worked with.
        """
        try:
            event, position = self._resolve(order)
        except AlreadyResolved as error:
            return self._compare(order, error), None
        except Refused as error:
            return _refuse(order, error), None
        except CannotFinish as error:
            cause = error.__cause__
            if not isinstance(cause, psycopg2.Error) or not is_about_content(cause):
                raise
            return _refuse(order, error), None  # such as a note that the encoding of the database lacks
        after = order.decision.state_after(event)
        return _make_result(order, Fate.RESOLVED, event.payment_id, event.state, after, position), event.reason

    def _resolve(self, order: Order) -> tuple[PendingEvent, int]:
        """Look the event up, and record the decision about it; repeat both if the payment moves."""
        for _ in range(MAX_ATTEMPTS):
            with self._database.transaction_on(self._connection) as cursor:
                event = find_pending(cursor, order.event_id)
                self._check_premises(cursor, order, event)
                refuse_applied_flag(event, order.decision.resolution)
                position = record(cursor, event, order.decision)
            if position is not None:
                return event, position
        raise keeps_moving(event)

    def _check_premises(self, cursor: psycopg2.extensions.cursor, order: Order, event: PendingEvent) -> None:
        """Raise Refused if the payment differs from the premises, except by this batch's doing."""
        if order.filters is not None and not order.filters.fits(event.state, event.type):
            raise Refused(
                f'payment "{unambiguous(event.payment_id)}": is {event.state.value} by now, so the filters do not pick '
                f'its event "{unambiguous(event.event_id)}" any more; nothing was changed',
                event.payment_id,
            )
        if _fits(order, event.version, event.state):
            return
        cursor.execute(_OWN_RESOLUTIONS, (event.payment_id, order.decision.by, self._began_at))
        own = ((position, State(state)) for position, state in cursor.fetchall())
        for number, (position, state) in enumerate(own):
            if position != event.version - number:
                break
            if _fits(order, position - 1, state):
                return
        raise Refused(
            f'payment "{unambiguous(event.payment_id)}": is {event.state.value} at version {event.version}, '
            f"expected {_describe_premises(order)}; nothing was changed",
            event.payment_id,
        )

    def _compare(self, order: Order, error: AlreadyResolved) -> BulkResult:
        """Return the result for a resolved event: `already` if the decision is the same."""
        resolved, decision = error.resolved, order.decision
        if (resolved.resolution, resolved.note, resolved.resolved_by) != (
            decision.resolution,
            decision.note,
            decision.by,
        ):
            return _refuse(order, error)
        # A rerun continues the batch that took this decision, whatever interrupted it.
        self._began_at = min(self._began_at, resolved.resolved_at)
        return _make_result(
            order,
            Fate.ALREADY,
            resolved.payment_id,
            resolved.state_before,
            resolved.state_after,
            resolved.position,
        )


def _fits(order: Order, version: int, state: State) -> bool:
    return order.version in (None, version) and order.decision.expected in (None, state)


def _describe_premises(order: Order) -> str:
    expected = order.decision.expected
    premises = [] if expected is None else [expected.value]
    if order.version is not None:
        premises.append(f"version {order.version}")
    return " at ".join(premises)


def _make_result(order: Order, fate: Fate, payment_id: str, before: State, after: State, position: int) -> BulkResult:
    return BulkResult(
        order.source,
        order.line,
        order.event_id,
        payment_id,
        order.decision.resolution,
        fate,
        before,
        after,
        position,
        None,
    )


def _refuse(order: Order, error: CannotFinish) -> BulkResult:
    return BulkResult(
        order.source,
        order.line,
        order.event_id,
        error.payment_id if isinstance(error, Refused) else None,
        order.decision.resolution,
        Fate.REFUSED,
        None,
        None,
        None,
        str(error),
    )
