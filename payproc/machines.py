"""A batch on Citus: its share for each machine, claimed, looked up and recorded there.

Belongs here: the store of a cluster, with the methods of that of one server in store.py. Every step
is one call a machine, which Citus runs on the machine that holds the rows. So a decision is
recorded by a local transaction, without a two-phase commit.

An event is recorded only under a claim of its own, made before the batch is looked up. A claim for
another payment or type is the conflict, even if its event is not on record yet.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple, TypeVar

import psycopg2.extensions

from payproc.batch import EventResult, Known, RecordedEvent
from payproc.content import MAX_LOOKED_UP_BYTES
from payproc.db.citus import has_extension
from payproc.db.connection import Database
from payproc.logic import EventType
from payproc.lookup import SEPARATOR, ThisRun, make_payment, make_recorded
from payproc.recording import record
from payproc.schemas import PaymentEvent

PART_SEPARATOR = "\x1e"
"""Separates the parts of a machine's share, one a shard. Like SEPARATOR, no id holds it."""

_CLAIM = "SELECT * FROM payproc.claim_event_ids(%s, %s, %s, %s, %s)"

_LOOK_UP = "SELECT * FROM payproc.look_up_payments(%s, %s, %s, %s, %s, %s, %s)"

# worker_hash is the hash that create_distributed_table spreads rows by.
_ROUTE = """
    SELECT machines[shard], shard
    FROM (
        SELECT pg_catalog.array_agg(groupid ORDER BY shardminvalue::integer) AS machines,
               pg_catalog.array_agg(shardminvalue::integer ORDER BY shardminvalue::integer) AS starts
        FROM pg_catalog.pg_dist_shard JOIN pg_catalog.pg_dist_placement USING (shardid)
        WHERE logicalrelid::oid = %s::regclass::oid
    ) AS shards, pg_catalog.unnest(string_to_array(%s, chr(31))) WITH ORDINALITY AS each(id, number),
    LATERAL pg_catalog.width_bucket(pg_catalog.worker_hash(each.id), starts) AS shard
    ORDER BY number
"""

Item = TypeVar("Item")


class Claim(NamedTuple):
    """The payment and type that an event_id belongs to."""

    payment_id: str
    type: EventType


class Machines:
    """The tables of a cluster. Not for two batches at once."""

    max_clock_skew = timedelta(minutes=1)
    """Largest lead of a run's start, by the coordinator's clock, over the times of its own events,
    by the clocks of their machines."""

    def __init__(self, database: Database, *, claims: bool) -> None:
        """Store the database. `claims` lets `look_up` claim event_ids, which `record` needs."""
        self._database = database
        self._claims = claims
        self._machine_of_event_id: Mapping[str, int] = {}
        self._machine_of_payment: Mapping[str, int] = {}
        self._payment_on: Mapping[int, str] = {}
        """A payment of the batch for each machine, by which Citus routes a call there."""

    def look_up(
        self, connection: psycopg2.extensions.connection, run: ThisRun, events: Sequence[PaymentEvent]
    ) -> Known:
        """Return the facts that the events are decided on, and claim their event_ids first."""
        claims = self._claim(connection, events)
        pairs = [(claim.payment_id, event_id) for event_id, claim in claims.items()]
        payment_ids = {event.payment_id for event in events}
        places = route(connection, "payments", sorted({*payment_ids, *(payment_id for payment_id, _ in pairs)}))
        self._machine_of_payment = {payment_id: machine for payment_id, (machine, _) in places.items()}
        self._payment_on = {machine: payment_id for payment_id, machine in self._machine_of_payment.items()}
        known = Known({}, {}, {})
        pairs_on = _group(pairs, [places[payment_id] for payment_id, _ in pairs])
        payments_on = _group(payment_ids, [places[payment_id] for payment_id in payment_ids])
        for machine, payment_id in self._payment_on.items():
            parts = pairs_on[machine]
            arguments = (
                payment_id,
                *run,
                MAX_LOOKED_UP_BYTES,
                _join([event_id for _, event_id in part] for part in parts),
                _join([payment_id for payment_id, _ in part] for part in parts),
                _join(payments_on[machine]),
            )
            _look_up_share(connection, arguments, known)
        for event in events:
            claim = claims.get(event.event_id)
            if claim is not None and claim != (event.payment_id, event.type):
                known.recorded.setdefault(event.event_id, RecordedEvent(*claim, None, ""))
        return known

    def record(self, connection: psycopg2.extensions.connection, run_id: int, new: Sequence[EventResult]) -> list[int]:
        """Write the new results of the batch that was looked up last, and flush them.

        Return the places of contested ones, from 1.
        """
        # A machine without new results flushes as well: the original of a duplicate may be there.
        events: dict[int, list[int]] = {machine: [] for machine in self._payment_on}
        evidence: dict[int, list[int]] = defaultdict(list)
        for place, result in enumerate(new):
            event = result.input_event.event
            if result.recorded is None:
                events[self._machine_of_payment[event.payment_id]].append(place)
            else:
                evidence[self._machine_of_event_id[event.event_id]].append(place)
        contested = self._record_shares(connection, run_id, new, events)
        # Evidence is on the machine of its claim, and comes last: without its event it would be
        # evidence of nothing. That of a contested event is decided again.
        lost = {new[place - 1].input_event.event.event_id for place in contested}
        shares = {
            machine: [place for place in share if new[place].input_event.event.event_id not in lost]
            for machine, share in evidence.items()
        }
        return contested + self._record_shares(connection, run_id, new, shares)

    def _record_shares(
        self,
        connection: psycopg2.extensions.connection,
        run_id: int,
        new: Sequence[EventResult],
        shares: Mapping[int, Sequence[int]],
    ) -> list[int]:
        """Write the results at these places of each machine; return the contested ones, from 1."""
        contested = []
        for machine, share in shares.items():
            # Without a payment of the batch on that machine, another one does it over the network.
            payment_id = self._payment_on.get(machine) or next(iter(self._payment_on.values()))
            answer = record(self._database, connection, run_id, [new[place] for place in share], payment_id)
            contested += [share[number - 1] + 1 for number in answer]
        return contested

    def _claim(self, connection: psycopg2.extensions.connection, events: Sequence[PaymentEvent]) -> dict[str, Claim]:
        """Claim the event_ids, unless in a dry run; return the claims that were there before.

        Of two events of the batch with one event_id, the first one claims it.
        """
        firsts = {event.event_id: event for event in reversed(events)}
        # In order, so that two processes with the same event_ids wait for each other in one order.
        event_ids = sorted(firsts)
        places = route(connection, "event_ids", event_ids)
        self._machine_of_event_id = {event_id: machine for event_id, (machine, _) in places.items()}
        claims: dict[str, Claim] = {}
        for parts in _group(event_ids, places.values()).values():
            first = [firsts[event_id] for part in parts for event_id in part]
            arguments = (
                first[0].event_id,
                self._claims,
                _join(parts),
                SEPARATOR.join(event.payment_id for event in first),
                SEPARATOR.join(event.type for event in first),
            )
            with connection.cursor() as cursor:
                cursor.execute(_CLAIM, arguments)
                claims.update(
                    (event_id, Claim(payment_id, EventType(event_type))) for event_id, payment_id, event_type in cursor
                )
        return claims


def route(connection: psycopg2.extensions.connection, table: str, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the machine of each id, and its shard of a table.

    Shards may move at any time. A call that went to the wrong machine is slower, and right.
    """
    with connection.cursor() as cursor:
        if not has_extension(cursor):  # tables for Citus, on one server
            return dict.fromkeys(ids, (0, 0))
        cursor.execute(_ROUTE, (f"payproc.{table}", SEPARATOR.join(ids)))
        return dict(zip(ids, cursor.fetchall(), strict=True))


def _look_up_share(connection: psycopg2.extensions.connection, arguments: Sequence[object], known: Known) -> None:
    """Add the facts on one machine to `known`."""
    with connection.cursor() as cursor:
        cursor.execute(_LOOK_UP, arguments)
        for event_id, payment_id, event_type, outcome, own, line, state, version in cursor:
            if event_id is None:
                known.payments[payment_id] = make_payment(state, version)
            else:
                known.recorded[event_id] = make_recorded(payment_id, event_type, outcome, own, line)


def _group(items: Iterable[Item], places: Iterable[tuple[int, int]]) -> Mapping[int, list[list[Item]]]:
    """Return the items of each machine, in parts of one shard. A machine without items has none."""
    shards: dict[tuple[int, int], list[Item]] = defaultdict(list)
    for item, place in zip(items, places, strict=True):
        shards[place].append(item)
    machines: dict[int, list[list[Item]]] = defaultdict(list)
    for machine, shard in sorted(shards):
        machines[machine].append(shards[machine, shard])
    return machines


def _join(parts: Iterable[Iterable[str]]) -> str:
    return PART_SEPARATOR.join(map(SEPARATOR.join, parts))
