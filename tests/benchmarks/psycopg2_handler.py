"""The same handler in plain psycopg2: one transaction per event, five statements in it, called in a
loop.

Same tables, same guarantees and same omissions as in orm_handler.py. The payment's version is
compared and set explicitly.
"""

from collections.abc import Iterator

from harness import BenchDatabase, BenchServer, Dataset, Measured
from one_by_one import Incoming, RecordedEvent, measure_handler
from payproc.logic import Decision, Outcome, Reason, State, classify

LABEL = "the same handler in plain psycopg2"

EVENTS = 5_000
"""Events in a timed run."""

_FIND_EVENT = "SELECT payment_id, type FROM payproc.events WHERE event_id = %s"
_FIND_PAYMENT = "SELECT state, version FROM payproc.payments WHERE payment_id = %s"
_OPEN = "INSERT INTO payproc.payments (payment_id, state, version) VALUES (%s, %s, 1) ON CONFLICT DO NOTHING"
_MOVE = """
    UPDATE payproc.payments SET state = %s, version = version + 1,
        state_since = CASE WHEN %s THEN now() ELSE state_since END
    WHERE payment_id = %s AND version = %s
"""
_RECORD = """
    INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason,
                                state_before, state_after, run_id, source, line, payload)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 1, 0, %s, %s)
    ON CONFLICT DO NOTHING
"""


def measure(bench: BenchServer, dataset: Dataset) -> Iterator[Measured]:
    """All rows."""
    return measure_handler(Psycopg2Handler, EVENTS, bench, dataset)


class Psycopg2Handler:
    """The handler, with its connection."""

    def __init__(self, database: BenchDatabase) -> None:
        self._connection = database.connect()
        self._connection.autocommit = False
        self._line = 0

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def handle(self, text: str) -> Reason:
        """Process one line, again if another process was there first."""
        incoming = Incoming(text)
        self._line += 1
        while True:
            decision, is_recorded = self._record(incoming, text)
            if is_recorded:
                self._connection.commit()
                return decision.reason
            self._connection.rollback()

    def _record(self, incoming: Incoming, text: str) -> tuple[Decision, bool]:
        with self._connection.cursor() as cursor:
            cursor.execute(_FIND_EVENT, (incoming.event_id,))
            found = cursor.fetchone()
            cursor.execute(_FIND_PAYMENT, (incoming.payment_id,))
            state, version = cursor.fetchone() or (State.CREATED, 0)
            decision = classify(incoming, RecordedEvent(*found) if found else None, State(state))
            if found:
                return decision, True
            after = decision.state_after.value
            if version == 0:
                cursor.execute(_OPEN, (incoming.payment_id, after))
            else:
                cursor.execute(_MOVE, (after, decision.outcome is Outcome.APPLY, incoming.payment_id, version))
            if cursor.rowcount == 0:
                return decision, False
            entry = (
                incoming.event_id,
                incoming.payment_id,
                version + 1,
                incoming.type.value,
                decision.outcome.value,
                decision.reason.value,
                decision.state_before.value,
                after,
                self._line,
                text,
            )
            cursor.execute(_RECORD, entry)
            return decision, cursor.rowcount == 1
