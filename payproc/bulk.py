"""Many decisions of people: planned, and recorded one by one.

Belongs here: the fate of each decision of a batch. Each has a transaction of its own, under the
same compare and set as a single one, and waits for the disk. So a result that is returned is
durable, and a batch may run beside an ingest or another batch.
"""

from collections import Counter
from collections.abc import Iterator
from enum import Enum
from itertools import groupby, islice
from operator import attrgetter

import msgspec
import psycopg2
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.db.errors import is_about_content
from payproc.errors import CannotFinish
from payproc.escape import unambiguous
from payproc.logic import Reason, Resolution, State, is_legal
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

# The last entries of people in a payment's history, behind a position.
_ENTRIES_OF_PEOPLE = """
    SELECT position, state_before FROM payproc.resolutions WHERE payment_id = %(id)s AND position > %(behind)s
    UNION ALL
    SELECT position, state_before FROM payproc.corrections WHERE payment_id = %(id)s AND position > %(behind)s
    ORDER BY 1 DESC
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
    planned_version: int | None = None
    """The version that a plan foresaw. Only a decision of another person since then refuses it."""


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
    legal: bool | None = None
    """For an applied event: True if the table would apply it to that state as well."""


class BulkSummary(msgspec.Struct):
    """The counts of a batch. Field for field the object that `resolve --format json` prints."""

    resolved: int = 0
    already: int = 0
    refused: int = 0
    malformed: int = 0
    against_table: int = 0
    """Applied events that the table would not apply to the state of their payment."""
    reasons: Counter[Reason] = msgspec.field(default_factory=Counter)
    """The resolved events by the reason why they needed review."""
    dry_run: bool = False
    elapsed_seconds: float = 0.0

    def add(self, result: BulkResult, reason: Reason | None) -> None:
        """Count a result."""
        name = result.result.value
        setattr(self, name, getattr(self, name) + 1)
        self.against_table += result.legal is False
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
    for _, group in groupby(events, attrgetter("payment_id")):
        pending = list(group)
        state, version = pending[0].state, pending[0].version
        has_moved = True
        while pending and has_moved:
            left = []
            has_moved = False
            for each in pending:
                event = msgspec.structs.replace(each, state=state, version=version)
                if not filters.fits(state, event.type):
                    left.append(each)
                    continue
                order = Order(event.event_id, decision)
                try:
                    refuse_applied_flag(event, decision.resolution)
                except Refused as error:
                    yield _refuse(order, error), event.reason
                    continue
                state, version = decision.state_after(event), version + 1
                # A refund before its capture in the history is legal only after it.
                has_moved = filters.legal_now
                yield _resolve_event(order, event, version)
            pending = left


class Resolver:
    """Records the decisions of one batch over one connection."""

    def __init__(self, database: Database) -> None:
        """Connect. Raises CannotFinish if that fails."""
        self._database = database
        self._connection = database.connect()
        # Hashes of payment and position of the batch's own entries. An entry of another batch is no
        # premise of this one, even under the same name. A hash takes 80 bytes.
        self._own: set[int] = set()

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
        self._own.add(hash((event.payment_id, position)))
        return _resolve_event(order, event, position)

    def _resolve(self, order: Order) -> tuple[PendingEvent, int]:
        """Look the event up, and record the decision about it; repeat both if the payment moves."""
        for _ in range(MAX_ATTEMPTS):
            with self._database.transaction_on(self._connection) as cursor:
                event = find_pending(self._database, cursor, order.event_id)
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
        if order.planned_version is not None:
            self._refuse_changed_mind(cursor, order.planned_version, event)
        if _fits(order, event.version, event.state):
            return
        for number, (position, state) in enumerate(self._read_entries_of_people(cursor, event, order.version or 0)):
            if position != event.version - number or hash((event.payment_id, position)) not in self._own:
                break
            if _fits(order, position - 1, state):
                return
        raise Refused(
            f'payment "{unambiguous(event.payment_id)}": is {event.state.value} at version {event.version}, '
            f"expected {_describe_premises(order)}; nothing was changed",
            event.payment_id,
        )

    def _refuse_changed_mind(self, cursor: psycopg2.extensions.cursor, planned: int, event: PendingEvent) -> None:
        """Raise Refused if somebody else has decided about the payment since the plan."""
        for position, _ in self._read_entries_of_people(cursor, event, planned):
            if hash((event.payment_id, position)) not in self._own:
                raise Refused(
                    f'payment "{unambiguous(event.payment_id)}": a person decided about it since the plan (entry '
                    f"{position}); nothing was changed, look at it and run it again",
                    event.payment_id,
                )

    @staticmethod
    def _read_entries_of_people(
        cursor: psycopg2.extensions.cursor, event: PendingEvent, behind: int
    ) -> list[tuple[int, State]]:
        """Return position and state before of entries behind a position, the last one first."""
        cursor.execute(_ENTRIES_OF_PEOPLE, {"id": event.payment_id, "behind": behind})
        return [(position, State(state)) for position, state in cursor.fetchall()]

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
        self._own.add(hash((resolved.payment_id, resolved.position)))
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


def _resolve_event(order: Order, event: PendingEvent, position: int) -> Settled:
    """Return the result of a resolved event, given with the state before its decision."""
    decision = order.decision
    result = _make_result(order, Fate.RESOLVED, event.payment_id, event.state, decision.state_after(event), position)
    if decision.resolution is Resolution.APPLY:
        result = msgspec.structs.replace(result, legal=is_legal(event.state, event.type))
    return result, event.reason


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
