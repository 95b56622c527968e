"""The move that a person's decision makes: compare and set on the payment, as for an event.

Belongs here: the one statement with which resolutions and corrections change `payments`.
"""

from typing import Any

import psycopg2.extensions

from payproc.logic import State

MAX_ATTEMPTS = 100
"""Attempts at a decision whose payment keeps moving between read and write."""

# As in record_decisions.sql: only if version and state are still those shown to the person. Citus
# takes no now() inside CASE.
_MOVE = """
    UPDATE payproc.payments
    SET state = %(after)s, version = %(version)s + 1,
        state_since = {since}
    WHERE payment_id = %(payment_id)s AND version = %(version)s AND state OPERATOR(pg_catalog.=) %(before)s
    RETURNING version
"""


def move_payment(
    cursor: psycopg2.extensions.cursor, payment_id: str, *, version: int, before: State, after: State
) -> int | None:
    """Move a payment, and return the position of the decision's entry.

    None if it has moved meanwhile.
    """
    values: dict[str, Any] = {"payment_id": payment_id, "version": version, "before": before, "after": after}
    cursor.execute(_MOVE.format(since="state_since" if before is after else "now()"), values)
    moved = cursor.fetchone()
    return int(moved[0]) if moved else None
