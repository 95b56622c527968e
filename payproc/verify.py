"""The fold: every history replayed from its start, and compared with the stored states.

Belongs here: reading everything in payment order, and naming each contradiction. The books are
right if:

* each entry starts in the state where the one before ended;
* positions have no gaps;
* only APPLY and people move a payment;
* the stored state and version equal the fold;
* on Citus, each event's claim names its payment and type.

A decision that differs from today's table is no fault, because rules change.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from enum import Enum
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Any, cast

import msgspec
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.db.rows import FETCH_ROWS, open_stream
from payproc.escape import unambiguous
from payproc.logic import STATE_NAMED_BY, TABLE, Decision, EventType, Outcome, Resolution, State

PROGRESS_ENTRIES = 5_000
"""Entries between two reports of progress."""

_TABLE = cast("Mapping[str, Mapping[str | None, Decision]]", TABLE)
"""The decision table. Plain text finds the members that are its keys, because they hash and compare
as their text."""

# Each payment's entries in order, then its own row: the one without a position, which sorts last.
_HISTORIES = """
    SELECT payment_id, position, type, outcome::text, reason::text, state_before, state_after
    FROM payproc.events
    UNION ALL
    SELECT resolutions.payment_id, resolutions.position, events.type, resolution::text,
           CASE WHEN events.outcome::text = 'MANUAL_REVIEW' AND events.position < resolutions.position
                THEN 'resolution' ELSE 'nothing to resolve' END,
           resolutions.state_before, resolutions.state_after
    FROM payproc.resolutions LEFT JOIN payproc.events USING (payment_id, event_id)
    UNION ALL
    SELECT payment_id, position, NULL, 'state', 'correction', state_before, state_after FROM payproc.corrections
    UNION ALL
    SELECT payment_id, NULL, NULL, NULL, version::text, NULL, state FROM payproc.payments
    ORDER BY 1, 2
"""

# Events without a claim that equals them. A claim without an event is right: its run has died, or
# is still to record it. On one server events are their own claims.
_UNCLAIMED = """
    SELECT event_id, payment_id, type, min(position)
    FROM (
        SELECT event_id, payment_id, type::text AS type, position FROM payproc.events
        UNION ALL
        SELECT event_id, payment_id, type::text, NULL FROM payproc.event_ids
    ) AS fact
    GROUP BY event_id, payment_id, type
    HAVING bool_and(position IS NOT NULL)
"""

_CLAIMS = "SELECT event_id, payment_id, type::text FROM payproc.event_ids WHERE event_id = ANY (%s)"

_COUNT = """
    SELECT (SELECT count(*) FROM payproc.events) + (SELECT count(*) FROM payproc.resolutions)
         + (SELECT count(*) FROM payproc.corrections)
"""

FoldRow = tuple[str, int | None, str | None, str, str, str, str]
"""Payment, position, type, outcome or resolution, reason, state before, state after. A correction
has no type. A payment's own row has its version in place of the reason. Rows stay tuples, because
there may be millions."""


class Problem(str, Enum):
    """A kind of contradiction. All but the last mean that the books are wrong."""

    GAP = "gap"
    BROKEN_CHAIN = "broken_chain"
    ILLEGAL_MOVE = "illegal_move"
    WRONG_STATE = "wrong_state"
    WRONG_VERSION = "wrong_version"
    NO_PAYMENT = "no_payment"
    NO_HISTORY = "no_history"
    WRONG_CLAIM = "wrong_claim"
    RULES_CHANGED = "rules_changed"


class Finding(msgspec.Struct, frozen=True):
    """One contradiction, at the `position` of an entry or in a payment as a whole."""

    payment_id: str
    problem: Problem
    position: int | None
    found: str
    expected: str


class VerifySummary(msgspec.Struct):
    """Counts of everything that was read, and of the findings of each kind."""

    payments: int = 0
    entries: int = 0
    problems: dict[Problem, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Problem, 0))

    @property
    def wrong(self) -> int:
        """Return the number of findings that mean that the books are wrong."""
        return sum(count for problem, count in self.problems.items() if problem is not Problem.RULES_CHANGED)


def verify_histories(
    database: Database, summary: VerifySummary, on_progress: Callable[[int], None] = lambda _: None
) -> Iterator[Finding]:
    """Fold every history as of one moment; yield findings, count in `summary`. Memory stays flat.

    Raises CannotFinish if the database cannot be read.
    """
    with database.snapshot() as connection:
        for finding in chain(_check_histories(connection, summary, on_progress), _check_claims(database, connection)):
            summary.problems[finding.problem] += 1
            yield finding


def _check_histories(
    connection: psycopg2.extensions.connection, summary: VerifySummary, on_progress: Callable[[int], None]
) -> Iterator[Finding]:
    with open_stream(connection, _HISTORIES) as cursor:
        rows = _count_rows(cursor, summary, on_progress)
        for payment_id, history in groupby(rows, key=itemgetter(0)):
            yield from check_history(payment_id, history)


def _check_claims(database: Database, connection: psycopg2.extensions.connection) -> Iterator[Finding]:
    """Yield the events on Citus whose claim is missing, or names another payment or type."""
    with connection.cursor() as cursor:
        if not database.is_for_citus(cursor):
            return
    with (
        open_stream(connection, _UNCLAIMED) as events,
        closing(database.connect()) as later,
        later.cursor() as cursor,
    ):
        while page := list(islice(events, FETCH_ROWS)):
            # An event may have been claimed after the snapshot of the machine that has the claim.
            cursor.execute(_CLAIMS, ([event_id for event_id, *_ in page],))
            claims = {event_id: tuple(claim) for event_id, *claim in cursor}
            for event_id, payment_id, event_type, position in page:
                claim = claims.get(event_id)
                if claim != (payment_id, event_type):
                    found = f"claimed for {claim[1]} of payment {unambiguous(claim[0])}" if claim else "not claimed"
                    found = f"event {unambiguous(event_id)} {found}"
                    yield Finding(payment_id, Problem.WRONG_CLAIM, position, found, f"a claim for {event_type}")


def count_entries(database: Database) -> int:
    """Return the number of entries to read."""
    with database.transaction() as cursor:
        cursor.execute(_COUNT)
        ((count,),) = cursor.fetchall()
    return int(count)


def check_history(payment_id: str, history: Iterable[FoldRow]) -> Iterator[Finding]:
    """Fold one payment's history; compare the end with the payment's own row, the last one."""
    state, version = State.CREATED.value, 0
    for _, position, event_type, outcome, reason, before, after in history:
        if position is None:
            if not version:
                yield Finding(payment_id, Problem.NO_HISTORY, None, f"{after} and no history", "at least one entry")
                return
            if after != state:
                yield Finding(payment_id, Problem.WRONG_STATE, None, after, state)
            if reason != str(version):
                yield Finding(payment_id, Problem.WRONG_VERSION, None, reason, str(version))
            return
        version += 1
        if position != version:
            yield Finding(payment_id, Problem.GAP, position, str(position), str(version))
            version = position
        if before != state:
            yield Finding(payment_id, Problem.BROKEN_CHAIN, position, before, state)
        if (outcome, reason, before, after) != _TABLE[before].get(event_type):
            problem, expected = _judge(event_type, outcome, reason, before, after)
            if problem is not None:
                yield Finding(payment_id, problem, position, f"{outcome} {reason}, {before} to {after}", expected)
        state = after
    yield Finding(payment_id, Problem.NO_PAYMENT, None, f"{version} entries and no payment", state)


def _count_rows(
    rows: Iterable[tuple[Any, ...]], summary: VerifySummary, on_progress: Callable[[int], None]
) -> Iterator[FoldRow]:
    """Yield the rows, counting them in `summary`."""
    for row in rows:
        if row[1] is None:
            summary.payments += 1
        else:
            summary.entries += 1
            if summary.entries % PROGRESS_ENTRIES == 0:
                on_progress(summary.entries)
        yield row


def _judge(event_type: str | None, outcome: str, reason: str, before: str, after: str) -> tuple[Problem | None, str]:
    """Return the problem, if any, of an entry that differs from the table, and the expected one."""
    if reason == "correction":
        return (Problem.ILLEGAL_MOVE if after == before else None), f"{before} to another state"
    if reason == "nothing to resolve":
        return Problem.ILLEGAL_MOVE, "an earlier event of this payment in MANUAL_REVIEW"
    is_applied = outcome in (Outcome.APPLY, Resolution.APPLY)
    if is_applied and event_type == EventType.FLAG and reason == "resolution":
        return Problem.ILLEGAL_MOVE, "a flag dismissed"
    named = STATE_NAMED_BY.get(EventType(event_type), State(before)).value  # a flag names no state
    expected = named if is_applied else before
    if after != expected:
        return Problem.ILLEGAL_MOVE, f"{before} to {expected}"
    if reason == "resolution":
        return None, ""
    decided = TABLE[State(before)][EventType(event_type)]
    return Problem.RULES_CHANGED, (
        f"{decided.outcome.value} {decided.reason.value}, {before} to {decided.state_after.value}"
    )
