"""The tables that a batch is decided on and recorded in, on one server or on a cluster.

Belongs here: the choice between the two, made once at connect. Everything else about a batch is the
same for both.
"""

from collections.abc import Sequence
from datetime import timedelta

import psycopg2.extensions

from payproc.batch import EventResult, Known
from payproc.db.connection import Database
from payproc.lookup import ThisRun, look_up
from payproc.machines import Machines
from payproc.recording import record
from payproc.schemas import PaymentEvent


class OneServer:
    """The tables of one server."""

    clocks_differ_by = timedelta(0)
    """How much earlier than a run's start the times of its own events may be."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def look_up(
        self,
        connection: psycopg2.extensions.connection,
        run: ThisRun,
        events: Sequence[PaymentEvent],
        *,
        claim: bool,  # noqa: ARG002
    ) -> Known:
        """Return the facts that the events are decided on. There is nothing to claim."""
        return look_up(connection, run, [event.event_id for event in events], {event.payment_id for event in events})

    def record(self, connection: psycopg2.extensions.connection, run_id: int, new: Sequence[EventResult]) -> list[int]:
        """Write the new results, flush everything looked up, return the contested ones from 1."""
        return record(self._database, connection, run_id, new)


def choose_tables(database: Database, connection: psycopg2.extensions.connection) -> OneServer | Machines:
    """Return the tables that the database has."""
    with connection.cursor() as cursor:
        is_for_citus = database.has_claims(cursor)
    return Machines(database) if is_for_citus else OneServer(database)
