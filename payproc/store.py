"""The store that batches are decided on and recorded in: one server, or a Citus cluster.

Belongs here: the choice between the two. Everything else about a batch is the same for both.
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

    max_clock_skew = timedelta(0)
    """Largest lead of a run's start over the times of its own events: one server has one clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def look_up(
        self, connection: psycopg2.extensions.connection, run: ThisRun, events: Sequence[PaymentEvent]
    ) -> Known:
        """Return the facts that the events are decided on."""
        return look_up(connection, run, events)

    def record(self, connection: psycopg2.extensions.connection, run_id: int, new: Sequence[EventResult]) -> list[int]:
        """Write the new results, and flush them; return the places of contested ones, from 1."""
        return record(self._database, connection, run_id, new)


def choose_store(
    database: Database, connection: psycopg2.extensions.connection, *, dry_run: bool
) -> OneServer | Machines:
    """Return the store of a database. For a dry run its `look_up` writes nothing."""
    with connection.cursor() as cursor:
        is_for_citus = database.is_for_citus(cursor)
    return Machines(database, claims=not dry_run) if is_for_citus else OneServer(database)
