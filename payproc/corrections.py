"""Corrections: a person sets a payment's state, because no event and no review leads there.

Belongs here: recording a correction. It is the way out of every dead end: a wrong decision about a
review, a rejected event that was real money, a refund that bounced. A correction takes a position
of its own in the payment's history, under the same compare and set as an event. It may lead to any
state but the present one.
"""

from collections.abc import Callable
from datetime import datetime

import msgspec
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.db.rows import read_structs
from payproc.errors import CannotFinish
from payproc.escape import unambiguous
from payproc.logic import State
from payproc.moves import MAX_ATTEMPTS, move_payment
from payproc.payments import find_payment_id

# The casts avoid an operator for the enum in `public`, whose code would run as this role.
_STANDING = """
    SELECT payment_id, state, version, state_since,
           (SELECT count(*) FROM payproc.events WHERE payment_id = %(id)s AND outcome::text = 'REJECT') AS rejected,
           (SELECT count(*) FROM payproc.events WHERE payment_id = %(id)s AND outcome::text = 'MANUAL_REVIEW')
           - (SELECT count(*) FROM payproc.resolutions WHERE payment_id = %(id)s) AS waiting
    FROM payproc.payments WHERE payment_id = %(id)s
"""

_CORRECT = """
    INSERT INTO payproc.corrections (payment_id, position, state_before, state_after, note, corrected_by)
    VALUES (%(payment_id)s, %(position)s, %(before)s, %(after)s, %(note)s, %(by)s)
"""


class Standing(msgspec.Struct, frozen=True):
    """A payment as it is now, with the counts that matter for a correction."""

    payment_id: str
    state: State
    version: int
    state_since: datetime
    rejected: int
    """Rejected events of its history."""
    waiting: int
    """Events that still need review."""


class Correction(msgspec.Struct, frozen=True):
    """A person's correction: the state, its reason and author, and the state it expects, if any."""

    state: State
    note: str
    by: str
    expected: State | None = None


def correct(
    database: Database, payment_id: str, correction: Correction, confirm: Callable[[Standing], bool]
) -> tuple[Standing, int] | None:
    """Record a correction; return the payment as it was, and the correction's position.

    `confirm` gets the payment as it is now. If it returns False, nothing is changed and the result
    is None. If the payment moves between that and the write, it is called again.

    Raises CannotFinish if the payment is not on record, if its state is not the expected one, or if
    it has the new state already; nothing is changed then.
    """
    for _ in range(MAX_ATTEMPTS):
        with database.transaction() as cursor:
            standing = _find(database, cursor, payment_id)
        check_correction(standing, correction)
        if not confirm(standing):
            return None
        if (position := _record(database, standing, correction)) is not None:
            return standing, position
    raise CannotFinish(f'payment "{unambiguous(payment_id)}": keeps moving; nothing was changed, try again')


def check_correction(standing: Standing, correction: Correction) -> None:
    """Raise CannotFinish if the correction does not fit the payment as it is now."""
    name = f'payment "{unambiguous(standing.payment_id)}"'
    if correction.expected is not None and standing.state is not correction.expected:
        raise CannotFinish(
            f"{name}: is {standing.state.value}, expected {correction.expected.value}; nothing was changed"
        )
    if standing.state is correction.state:
        raise CannotFinish(f"{name}: is already {standing.state.value}, expected another state; nothing was changed")


def _find(database: Database, cursor: psycopg2.extensions.cursor, payment_id: str) -> Standing:
    """Return the payment as it is now. Raises CannotFinish if it has no history."""
    cursor.execute(_STANDING, {"id": payment_id})
    if standing := next(read_structs(cursor, Standing), None):
        return standing
    hint = ""
    if its_payment := find_payment_id(database, cursor, payment_id):
        hint = f'; it is an event_id of payment "{unambiguous(its_payment)}"'
    else:
        cursor.execute("SELECT FROM payproc.event_conflicts WHERE payment_id = %s LIMIT 1", (payment_id,))
        if cursor.rowcount:
            hint = "; only a conflict names it, and none of its events is on record"
    raise CannotFinish(f'payment "{unambiguous(payment_id)}": not found{hint}')


def _record(database: Database, standing: Standing, correction: Correction) -> int | None:
    """Move the payment and record the correction, or neither; return the correction's position."""
    with database.transaction() as cursor:
        position = move_payment(
            cursor, standing.payment_id, version=standing.version, before=standing.state, after=correction.state
        )
        if position is not None:
            values = {
                "payment_id": standing.payment_id,
                "position": position,
                "before": standing.state,
                "after": correction.state,
                "note": correction.note,
                "by": correction.by,
            }
            cursor.execute(_CORRECT, values)
    return position
