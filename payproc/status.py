"""The database at a glance: payments, pending reviews, and runs.

Belongs here: the queries that answer `payproc status`, all as of one moment. Nothing here writes.
"""

from collections import Counter
from datetime import datetime

import msgspec
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.db.mark import VERSION
from payproc.db.rows import read_structs
from payproc.db.views import PENDING
from payproc.logic import EventType, Reason, State, is_legal
from payproc.runs import Run, read_last_run

_SERVER = "SELECT pg_catalog.current_setting('server_version')"

_STATES = "SELECT state::text, count(*) FROM payproc.payments GROUP BY 1"

# MATERIALIZED reads the pending reviews first, however old the planner's statistics are.
_PENDING = """
    WITH pending AS MATERIALIZED (
        SELECT events.payment_id, events.type::text AS type, events.reason::text AS reason
        FROM {pending}
    )
    SELECT pending.reason, pending.type, payments.state::text, count(*)
    FROM pending JOIN payproc.payments USING (payment_id)
    GROUP BY 1, 2, 3
""".replace("{pending}", PENDING)

_OLDEST = """
    SELECT events.event_id, events.payment_id, events.recorded_at
    FROM {pending}
    ORDER BY events.recorded_at, events.event_id
    LIMIT 1
""".replace("{pending}", PENDING)

# A known conflict is on record under an earlier run, so it is not counted.
_REJECTED = """
    SELECT (SELECT count(*) FROM payproc.events
            WHERE run_id = %(run_id)s AND outcome OPERATOR(pg_catalog.=) 'REJECT')
         + (SELECT count(*) FROM payproc.event_conflicts WHERE run_id = %(run_id)s)
"""

_UNFINISHED = "SELECT run_id FROM payproc.runs WHERE finished_at IS NULL ORDER BY run_id DESC LIMIT %s"

MAX_UNFINISHED = 20
"""Unfinished runs that are listed by number, the newest ones."""


class Waiting(msgspec.Struct):
    """Number of pending reviews, and of those that the table would apply now."""

    events: int = 0
    legal_now: int = 0


class OldestReview(msgspec.Struct, frozen=True):
    """The event that has waited longest for a review."""

    event_id: str
    payment_id: str
    recorded_at: datetime


class Status(msgspec.Struct):
    """The database at a glance. Field for field the object that `status --format json` prints."""

    database: str
    server: str
    """Version of PostgreSQL."""
    schema: int
    """Version of payproc's schema."""
    payments: dict[State, int]
    waiting: Waiting
    waiting_by_reason: dict[Reason, Waiting]
    oldest_waiting: OldestReview | None
    last_run: Run | None
    rejected_in_last_run: int
    """Events and conflicts that the last run has recorded as rejected."""
    unfinished_runs: list[int]
    """Runs that were interrupted, crashed or are still active, the newest first."""


def read_status(database: Database) -> Status:
    """Return the database at a glance, as of one moment.

    Raises CannotFinish if it cannot be read.
    """
    with database.snapshot() as connection, connection.cursor() as cursor:
        cursor.execute(_SERVER)
        ((server,),) = cursor.fetchall()
        payments, waiting = _count_payments(cursor), _count_waiting(cursor)
        cursor.execute(_OLDEST)
        oldest = next(read_structs(cursor, OldestReview), None)
        last_run = read_last_run(cursor)
        cursor.execute(_UNFINISHED, (MAX_UNFINISHED,))
        unfinished = [run_id for (run_id,) in cursor]
        return Status(
            database=database.where,
            server=server.partition(" ")[0],
            schema=VERSION,
            payments=payments,
            waiting=Waiting(
                sum(each.events for each in waiting.values()), sum(each.legal_now for each in waiting.values())
            ),
            waiting_by_reason=waiting,
            oldest_waiting=oldest,
            last_run=last_run,
            rejected_in_last_run=_count_rejected(cursor, last_run),
            unfinished_runs=unfinished,
        )


def _count_payments(cursor: psycopg2.extensions.cursor) -> dict[State, int]:
    cursor.execute(_STATES)
    counts = Counter({State(state): count for state, count in cursor})
    return {state: counts[state] for state in State}


def _count_waiting(cursor: psycopg2.extensions.cursor) -> dict[Reason, Waiting]:
    """Return the pending reviews by reason, in the order of the reasons."""
    cursor.execute(_PENDING)
    found: dict[Reason, Waiting] = {}
    for reason, event_type, state, count in cursor:
        waiting = found.setdefault(Reason(reason), Waiting())
        waiting.events += count
        if is_legal(State(state), EventType(event_type)):
            waiting.legal_now += count
    return {reason: found[reason] for reason in Reason if reason in found}


def _count_rejected(cursor: psycopg2.extensions.cursor, run: Run | None) -> int:
    if run is None:
        return 0
    cursor.execute(_REJECTED, {"run_id": run.run_id})
    ((count,),) = cursor.fetchall()
    return int(count)
