"""COPY of precomputed rows, in one transaction, without any check: the bound that no tool reaches.

The same rows as payproc would write, payload included, go into payproc's own tables with all their
constraints and indexes. What they are was computed before the clock starts. Nothing is looked up or
decided, there is one transaction for all events and one flush, and a single event_id that is on
record already would undo everything.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import closing

from datasets import Line
from harness import BenchServer, Dataset, Measured, Row
from one_by_one import Incoming
from payproc.logic import State, classify

LABEL = "COPY of finished rows, no checks, one transaction"

BLOCK_BYTES = 1 << 20
"""Bytes sent to the server at a time."""


def measure(bench: BenchServer, dataset: Dataset) -> Iterator[Measured]:
    """Fresh events; it could not take anything else."""
    payments, events = _rows(dataset.fresh)
    with bench.database(with_schema=True) as database, closing(database.connect()) as connection:
        connection.autocommit = False
        with bench.timed(Row.FRESH, len(dataset.fresh)) as result, connection.cursor() as cursor:
            cursor.copy_expert("COPY payproc.payments (payment_id, state, version) FROM STDIN", payments, BLOCK_BYTES)
            cursor.copy_expert(
                "COPY payproc.events (event_id, payment_id, position, type, outcome, reason,"
                " state_before, state_after, run_id, source, line, payload) FROM STDIN",
                events,
                BLOCK_BYTES,
            )
            connection.commit()
        database.check_books(len(dataset.fresh))
        yield from result


def _rows(lines: Sequence[Line]) -> tuple[io.BytesIO, io.BytesIO]:
    """The rows of both tables, as COPY takes them."""
    payments: dict[str, tuple[State, int]] = {}
    events = []
    for number, line in enumerate(lines, 1):
        state, version = payments.get(line.payment_id, (State.CREATED, 0))
        decision = classify(Incoming(line.text), None, state)
        payments[line.payment_id] = decision.state_after, version + 1
        events.append(
            f"{line.event_id}\t{line.payment_id}\t{version + 1}\t{line.type}\t{decision.outcome.value}\t"
            f"{decision.reason.value}\t{state.value}\t{decision.state_after.value}\t1\t0\t{number}\t"
            + line.text.replace("\\", "\\\\")
        )
    rows = (f"{payment_id}\t{state.value}\t{version}" for payment_id, (state, version) in payments.items())
    return tuple(io.BytesIO("".join(f"{row}\n" for row in table).encode()) for table in (rows, events))  # type: ignore[return-value]
