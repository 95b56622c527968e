"""The `dbos` library: each event is a durable workflow, its id the event_id, with one transaction
as its only step.

A workflow runs once for its id: that is DBOS's own idempotency, and calling it again gives the
first result. Its transaction, by a `SQLAlchemyDatasource`, moves the payment and enters the event
in payproc's own tables, compare and set, and commits together with DBOS's record of the step.
DBOS's system tables are in the same database. It decides with payproc's own classifier.

DBOS means its workflows to run beside each other, so it is timed on one thread and on several, and
the better counts.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from dbos import DBOS, SetWorkflowID, SQLAlchemyDatasource
from sqlalchemy import text as sql

from harness import BenchDatabase, BenchServer, Dataset, Measured
from one_by_one import Incoming, RecordedEvent, measure_loop
from payproc.logic import Reason, State, classify

LABEL = "the dbos library"

EVENTS = 400
"""Events in a timed run."""

THREADS = (1, 8)

_FIND_PAYMENT = sql("SELECT state, version FROM payproc.payments WHERE payment_id = :payment_id")
_OPEN = sql(
    "INSERT INTO payproc.payments (payment_id, state, version) VALUES (:payment_id, :after, 1) ON CONFLICT DO NOTHING"
)
_MOVE = sql(
    "UPDATE payproc.payments SET state = :after, version = version + 1,"
    " state_since = CASE WHEN state = :after THEN state_since ELSE now() END"
    " WHERE payment_id = :payment_id AND version = :version"
)
_RECORD = sql(
    "INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason,"
    " state_before, state_after, run_id, source, line, payload)"
    " VALUES (:event_id, :payment_id, :version + 1, :type, :outcome, :reason, :before, :after, 1, 0, :line, :payload)"
)


def measure(bench: BenchServer, dataset: Dataset) -> Iterator[Measured]:
    """Fresh events, and the same again."""
    runs = []
    for threads in THREADS:
        with bench.database(with_schema=True) as database:
            runs.append(list(measure_loop(DbosHandler, database, EVENTS, bench, dataset, threads=threads)))
            database.check_books(len(dataset.warm_up) + len(dataset.part(EVENTS)))
    for same_row in zip(*runs, strict=True):
        yield max(same_row, key=lambda measured: measured.rate)


class DbosHandler:
    """DBOS, launched on a database, with its workflow."""

    def __init__(self, database: BenchDatabase) -> None:
        url = database.url("postgresql").render_as_string(hide_password=False)
        DBOS(config={"name": "benchmark", "system_database_url": url, "log_level": "ERROR"})
        self._source = SQLAlchemyDatasource.create(url)
        DBOS.launch()
        self._deliveries = itertools.count(1)
        _current.append(self)

    def close(self) -> None:
        """Stop DBOS."""
        _current.remove(self)
        DBOS.destroy()

    def handle(self, text: str) -> Reason:
        """Process one line."""
        incoming = Incoming(text)
        delivery = next(self._deliveries)
        with SetWorkflowID(incoming.event_id):
            payment_id, event_type, reason, recorded_by = process(text, delivery)
        if recorded_by == delivery:
            return Reason(reason)
        return classify(incoming, RecordedEvent(payment_id, event_type), State.CREATED).reason

    def record(self, text: str, delivery: int) -> tuple[str, str, str, int]:
        """Decide and record in one transaction; return the event recorded under the event_id."""
        return self._source.run_tx_step({"isolation_level": "READ COMMITTED"}, self._record, text, delivery)

    def _record(self, text: str, delivery: int) -> tuple[str, str, str, int]:
        incoming = Incoming(text)
        session = self._source.sql_session()
        found = session.execute(_FIND_PAYMENT, {"payment_id": incoming.payment_id}).first()
        state, version = found or (State.CREATED, 0)
        decision = classify(incoming, None, State(state))
        entry: dict[str, Any] = {
            "event_id": incoming.event_id,
            "payment_id": incoming.payment_id,
            "version": version,
            "type": incoming.type.value,
            "outcome": decision.outcome.value,
            "reason": decision.reason.value,
            "before": decision.state_before.value,
            "after": decision.state_after.value,
            "line": delivery,
            "payload": text,
        }
        moved: Any = session.execute(_MOVE if version else _OPEN, entry)
        if moved.rowcount != 1:
            raise RuntimeError(f"payment {incoming.payment_id} was moved by somebody else")
        session.execute(_RECORD, entry)
        return incoming.payment_id, incoming.type.value, decision.reason.value, delivery


_current: list[DbosHandler] = []
"""Workflows are functions that DBOS calls again by name after a crash, so they find their handler
here."""


@DBOS.workflow()
def process(text: str, delivery: int) -> tuple[str, str, str, int]:
    """The workflow: one transaction."""
    return _current[-1].record(text, delivery)
