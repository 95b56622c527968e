"""The `eventsourcing` library: a payment is an aggregate, each payment event one of its events, one
save per event.

The tables are the library's own, through its PostgreSQL recorder, with
`POSTGRES_ENABLE_DB_FUNCTIONS`, its faster way to insert. The guarantees are the same: saving checks
that the aggregate has not moved on since it was read (the primary key on aggregate and version),
and saves in the same transaction a second aggregate, whose id is made from the event_id, so that no
event_id can be used twice. A redelivery is found in the payment's own history, which is read
anyway; only after a clash is the second aggregate looked up. So a fresh event costs one read and
one write, which is as few as the library can do without trusting a cache that other processes do
not share.

It decides with payproc's own classifier.
"""

# ruff: noqa: ARG002 - the library stores the arguments of an aggregate's method as its event
from collections.abc import Iterator
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError

from harness import BenchDatabase, BenchServer, Dataset, Measured
from one_by_one import Incoming, RecordedEvent, measure_loop
from payproc.logic import Decision, EventType, Reason, State, classify

LABEL = "the eventsourcing library"

EVENTS = 2_000
"""Events in a timed run."""


def measure(bench: BenchServer, dataset: Dataset) -> Iterator[Measured]:
    """Fresh events, and the same again."""
    with bench.database(with_schema=False) as database:
        yield from measure_loop(Payments, database, EVENTS, bench, dataset)


def payment_key(payment_id: str) -> UUID:
    """The id of a payment's aggregate."""
    return uuid5(NAMESPACE_URL, f"/payments/{payment_id}")


def receipt_key(event_id: str) -> UUID:
    """Return the id of the aggregate that claims an event_id."""
    return uuid5(NAMESPACE_URL, f"/events/{event_id}")


class Payment(Aggregate):
    """A payment: its state, and which events it has had."""

    @staticmethod
    def create_id(payment_id: str) -> UUID:
        """The same payment has the same id in every process."""
        return payment_key(payment_id)

    @event("Opened")
    def __init__(
        self, payment_id: str, event_id: str, event_type: str, outcome: str, reason: str, after: str, payload: str
    ) -> None:
        self.payment_id = payment_id
        self.state = after
        self.types = {event_id: event_type}

    @event("Recorded")
    def record(self, event_id: str, event_type: str, outcome: str, reason: str, after: str, payload: str) -> None:
        """Record the decision about an event."""
        self.state = after
        self.types[event_id] = event_type


class Receipt(Aggregate):
    """The claim of an event on its event_id."""

    @staticmethod
    def create_id(event_id: str) -> UUID:
        """The same event_id has the same id in every process."""
        return receipt_key(event_id)

    @event("Issued")
    def __init__(self, event_id: str, payment_id: str, event_type: str) -> None:
        self.payment_id = payment_id
        self.type = EventType(event_type)


class Payments:
    """The application and its handler."""

    def __init__(self, database: BenchDatabase) -> None:
        parameters = database.parameters
        self._application: Application[UUID] = Application(
            env={
                "PERSISTENCE_MODULE": "eventsourcing.postgres",
                "POSTGRES_DBNAME": parameters["dbname"],
                "POSTGRES_HOST": parameters["host"],
                "POSTGRES_PORT": parameters["port"],
                "POSTGRES_USER": parameters["user"],
                "POSTGRES_PASSWORD": "",
                "POSTGRES_ENABLE_DB_FUNCTIONS": "y",
            }
        )

    def close(self) -> None:
        """Disconnect."""
        self._application.close()

    def handle(self, text: str) -> Reason:
        """Process one line, again if another process was there first."""
        incoming = Incoming(text)
        while True:
            payment = self._find_payment(incoming.payment_id)
            if payment is not None and (event_type := payment.types.get(incoming.event_id)):
                return classify(incoming, RecordedEvent(payment.payment_id, event_type), State(payment.state)).reason
            decision = classify(incoming, None, State.CREATED if payment is None else State(payment.state))
            try:
                self._save(incoming, text, payment, decision)
            except IntegrityError:
                receipt = self._find_receipt(incoming.event_id)
                if receipt is not None and receipt.payment_id != incoming.payment_id:
                    return Reason.EVENT_ID_CONFLICT
            else:
                return decision.reason

    def _save(self, incoming: Incoming, text: str, payment: Payment | None, decision: Decision) -> None:
        entry = {
            "event_id": incoming.event_id,
            "event_type": incoming.type.value,
            "outcome": decision.outcome.value,
            "reason": decision.reason.value,
            "after": decision.state_after.value,
            "payload": text,
        }
        if payment is None:
            payment = Payment(payment_id=incoming.payment_id, **entry)
        else:
            payment.record(**entry)
        self._application.save(payment, Receipt(incoming.event_id, incoming.payment_id, incoming.type.value))

    def _find_payment(self, payment_id: str) -> Payment | None:
        try:
            return self._application.repository.get(payment_key(payment_id))
        except AggregateNotFoundError:
            return None

    def _find_receipt(self, event_id: str) -> Receipt | None:
        try:
            return self._application.repository.get(receipt_key(event_id))
        except AggregateNotFoundError:
            return None
