"""Payments by state and age, each with the number of its pending reviews.

Belongs here: the queries that answer `payproc payments`. One payment with its history is in
payments.py.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import msgspec

from payproc.db.connection import Database
from payproc.db.rows import open_stream, read_structs
from payproc.db.views import PENDING
from payproc.logic import State

# The planner may believe that nothing is pending, because its statistics may be older than a big
# ingest. A nested loop would then read all pending reviews once for each payment.
_NO_NESTED_LOOPS = "SELECT pg_catalog.set_config('enable_nestloop', 'off', true)"

# MATERIALIZED counts the pending reviews first, however old the planner's statistics are.
_PAYMENTS = """
    WITH pending AS MATERIALIZED (
        SELECT events.payment_id, count(*) AS waiting
        FROM {pending}
        GROUP BY events.payment_id
    )
    SELECT payment_id, state::text AS state, state_since, version, created_at, COALESCE(waiting, 0) AS waiting
    FROM payproc.payments {join} pending USING (payment_id)
    {where}
    ORDER BY state_since, payment_id
    {limit}
"""


_COUNT = "SELECT count(*) FROM payproc.payments {where}"


class ListedPayment(msgspec.Struct, frozen=True):
    """A payment. Field for field the object that `payments --format json` prints."""

    payment_id: str
    state: State
    state_since: datetime
    """Time of the last change of its state."""
    version: int
    created_at: datetime
    waiting: int
    """Number of its pending reviews."""


class PaymentFilter(NamedTuple):
    """Conditions on payments; None and False pick all."""

    state: State | None = None
    moved_before: datetime | None = None
    """Moment before which the state last changed."""
    waiting: bool = False
    """Only payments with pending reviews."""


def list_payments(database: Database, picked: PaymentFilter, limit: int | None = None) -> Iterator[ListedPayment]:
    """Yield payments, those longest in their state first; memory stays flat.

    Raises CannotFinish if the database cannot be read.
    """
    where, arguments = _choose_conditions(picked)
    query = _PAYMENTS.format(
        pending=PENDING,
        join="JOIN" if picked.waiting else "LEFT JOIN",
        where=where,
        limit="" if limit is None else "LIMIT %s",
    )
    arguments += [] if limit is None else [limit]
    with database.snapshot() as connection:
        with connection.cursor() as cursor:
            cursor.execute(_NO_NESTED_LOOPS)
        with open_stream(connection, query, arguments) as stream:
            yield from read_structs(stream, ListedPayment)


def count_payments(database: Database, picked: PaymentFilter, limit: int | None = None) -> int:
    """Return the number of payments, for a progress bar; those without reviews count as well.

    Raises CannotFinish.
    """
    where, arguments = _choose_conditions(picked)
    with database.snapshot() as connection, connection.cursor() as cursor:
        cursor.execute(_COUNT.format(where=where), arguments)
        ((count,),) = cursor.fetchall()
    return int(count) if limit is None else min(int(count), limit)


def _choose_conditions(picked: PaymentFilter) -> tuple[str, list[object]]:
    """Return the WHERE of a query for payments, and its arguments."""
    conditions = {
        "state OPERATOR(pg_catalog.=) %s": None if picked.state is None else picked.state.value,
        "state_since < %s": picked.moved_before,
    }
    wanted = {condition: value for condition, value in conditions.items() if value is not None}
    return f"WHERE {' AND '.join(wanted)}" if wanted else "", list(wanted.values())
