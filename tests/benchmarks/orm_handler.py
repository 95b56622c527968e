"""The plain way to write this tool: a handler with one ORM session and one commit per event, called
in a loop.

It works on payproc's own tables, with all their constraints and indexes, decides with payproc's own
classifier, and gives the same guarantees: the event_id is looked up first, and its primary key
decides in the end; the version of the payment is compared and set (SQLAlchemy's own
`version_id_col`); entry and state are committed together, and each commit waits for the disk. A
handler that loses a race looks again.

It does less than payproc in that it hardly checks a line, and keeps no evidence of reused ids.
"""

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.orm.attributes import flag_modified
from sqlalchemy.orm.exc import StaleDataError

from harness import BenchDatabase, BenchServer, Dataset, Measured
from one_by_one import Incoming, measure_handler
from payproc import models
from payproc.logic import EventType, Reason, State, classify

LABEL = "a handler with one ORM session per event"

EVENTS = 2_000
"""Events in a timed run."""


class Base(DeclarativeBase):
    """payproc's tables as classes."""

    metadata = models.metadata


class Payment(Base):
    """A payment and its state."""

    __table__ = models.payments
    if TYPE_CHECKING:  # the columns are the table's
        state: State
        version: int
        state_since: object
    # Reading back defaults that nobody looks at would only cost time.
    __mapper_args__ = {"version_id_col": models.payments.c.version, "eager_defaults": False}  # noqa: RUF012


class Entry(Base):
    """An event on record."""

    __table__ = models.events
    if TYPE_CHECKING:
        payment_id: str
        type: EventType
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012


def measure(bench: BenchServer, dataset: Dataset) -> Iterator[Measured]:
    """All rows."""
    return measure_handler(OrmHandler, EVENTS, bench, dataset)


class OrmHandler:
    """The handler, with its engine."""

    def __init__(self, database: BenchDatabase) -> None:
        # A payload is a line of JSON as it came. Encoding it would make it a string in JSON, and
        # decoding it is no use.
        self._engine = create_engine(database.url("postgresql+psycopg2"), json_serializer=str, json_deserializer=str)
        self._line = 0

    def close(self) -> None:
        """Disconnect."""
        self._engine.dispose()

    def handle(self, text: str) -> Reason:
        """Process one line, again if another process was there first."""
        incoming = Incoming(text)
        self._line += 1
        while True:
            try:
                with Session(self._engine) as session:
                    reason = self._record(session, incoming, text)
                    session.commit()
                    return reason
            except (IntegrityError, StaleDataError):
                continue

    def _record(self, session: Session, incoming: Incoming, text: str) -> Reason:
        recorded = session.get(Entry, incoming.event_id)
        payment = session.get(Payment, incoming.payment_id)
        decision = classify(incoming, recorded, State.CREATED if payment is None else payment.state)
        if recorded is not None:
            return decision.reason
        if payment is None:
            position = 1
            session.add(Payment(payment_id=incoming.payment_id, state=decision.state_after))
        else:
            position = payment.version + 1
            if payment.state is not decision.state_after:
                payment.state_since = datetime.now(timezone.utc)
            payment.state = decision.state_after
            flag_modified(payment, "state")  # also where it stays: the version counts every entry
        entry = Entry(
            event_id=incoming.event_id,
            payment_id=incoming.payment_id,
            position=position,
            type=incoming.type,
            outcome=decision.outcome,
            reason=decision.reason,
            state_before=decision.state_before,
            state_after=decision.state_after,
            run_id=1,
            source=0,
            line=self._line,
            payload=text,
        )
        session.add(entry)
        return decision.reason
