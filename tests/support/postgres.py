"""SQL on a test's database: reading records, blocking commands, and checking every history."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any, Protocol

import psycopg2
import psycopg2.extensions
from sqlalchemy import URL

from payproc.db.citus import DISTRIBUTED_BY
from payproc.db.connection import Database
from payproc.db.location import parse_url
from payproc.db.schema import list_creation_statements
from payproc.logic import STATE_NAMED_BY, TABLE, EventType, Outcome, Resolution, State

MAX_WAIT_SECONDS = 30
"""Seconds to wait for a condition that is due at once; a loaded machine needs some."""


IS_ON_CLUSTER = bool(os.environ.get("PAYPROC_TEST_CITUS"))
"""True if the tests' databases are on all machines of a Citus cluster."""

IS_FOR_CITUS = IS_ON_CLUSTER or os.environ.get("PAYPROC_TEST_SCHEMA") == "citus"
"""True if the template has the tables for Citus."""

TABLES = ", ".join(f"payproc.{table}" for table in (*DISTRIBUTED_BY, "runs") if table != "event_ids" or IS_FOR_CITUS)
"""All tables, for TRUNCATE."""


def wait_for(condition: Callable[[], Any]) -> Any:
    """Poll until the condition is true; return its value."""
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"not true after {MAX_WAIT_SECONDS} seconds")


class Server:
    """A PostgreSQL server to make databases on."""

    def __init__(self, url: URL) -> None:
        self.url = url

    @cached_property
    def _connection(self) -> psycopg2.extensions.connection:
        """The connection that creates and drops. One for each database would take as long."""
        return self.connect()

    def close(self) -> None:
        self._connection.close()

    def connect(self, name: str | None = None) -> psycopg2.extensions.connection:
        """Connect to one of its databases, in autocommit."""
        url = self.url if name is None else self.url.set(database=name)
        connection = psycopg2.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
        connection.autocommit = True
        return connection

    def execute(self, statement: str) -> None:
        """Run one statement on the server's own database."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    @contextmanager
    def new_template(self) -> Iterator[URL]:
        """Create an empty database for the session, to be filled and copied."""
        name = f"payproc_template_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8'")
        yield self.url.set(database=name)
        self.drop_database(name)

    def create_database(self, template: str, encoding: str | None = None) -> URL:
        """Create a database from a template, in its encoding or another.

        Its files are copied, because writing them through the log takes twice the time.
        """
        name = f"payproc_test_{uuid.uuid4().hex[:12]}"
        options = f" ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'" if encoding else ""
        if self._connection.server_version >= 150000:  # PostgreSQL 14 always copies
            options += " STRATEGY FILE_COPY"
        with self._connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"{options}')
        return self.url.set(database=name)

    def drop_database(self, name: str | None) -> None:
        """Drop a database, and end its sessions."""
        with self._connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def create_schema(cursor: psycopg2.extensions.cursor, *, for_citus: bool = False) -> None:
    """Create payproc's schema on one server. The tables for Citus are not distributed."""
    for statement in list_creation_statements(cursor, for_citus=for_citus):
        cursor.execute(statement)


def as_database(url: URL, name: str) -> Database:
    """Return a database as the program sees it."""
    return Database(parse_url(url.render_as_string(hide_password=False), name), name)


class Sql:
    """Plain SQL on a database, in autocommit."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self._dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection = self.connect()

    def connect(self) -> psycopg2.extensions.connection:
        """Open another connection, in autocommit."""
        connection = psycopg2.connect(self._dsn)
        connection.autocommit = True
        return connection

    def close(self) -> None:
        self._connection.close()

    def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Run a query or a statement; return its rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(query, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *arguments: object) -> Any:
        """Return the only value of a query."""
        ((value,),) = self.rows(query, *arguments)
        return value

    @contextmanager
    def locked_payment(self, payment_id: str) -> Iterator[None]:
        """Lock a payment's row, so that every writer to it waits."""
        with closing(self.connect()) as holder:
            holder.autocommit = False
            with holder.cursor() as cursor:
                cursor.execute("SELECT 1 FROM payproc.payments WHERE payment_id = %s FOR UPDATE", (payment_id,))
                assert cursor.fetchall(), f"no payment {payment_id}"
            yield
            holder.rollback()

    def find_blocked(self) -> list[int]:
        """Return the backends whose statement waits for a lock, on whichever machine it waits."""
        column, view = "pid", "pg_stat_activity"
        if self.value("SELECT to_regclass('citus_stat_activity') IS NOT NULL"):
            # A worker's backend has the global_pid of the coordinator's, which ends with its pid.
            column, view = "global_pid % 10000000000", "citus_stat_activity"
        where = "datname = current_database() AND wait_event_type = 'Lock'"
        return [int(pid) for (pid,) in self.rows(f"SELECT DISTINCT {column} FROM {view} WHERE {where}")]

    def wait_for_blocked(self, count: int = 1) -> int:
        """Wait until so many backends wait for a lock; return the process id of one."""
        return int(wait_for(lambda: len(found := self.find_blocked()) >= count and found)[0])


SqlOn = Callable[[URL], Sql]
"""Opens SQL on any database, for as long as the test runs."""


class NewDatabase(Protocol):
    """Makes a database from a template, for as long as the test runs."""

    def __call__(self, template: str, encoding: str | None = None) -> URL: ...


def fill_queue(sql: Sql, first: int, last: int, size: int = 0) -> None:
    """Add pending events `first` to `last`, one a payment, with payloads of this size."""
    sql.rows(
        "WITH new AS (INSERT INTO payproc.payments (payment_id, state, version)"
        " SELECT 'p' || n, 'created', 1 FROM generate_series(%s, %s) AS n RETURNING payment_id)"
        " INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason, state_before,"
        " state_after, source, run_id, line, payload) SELECT 'e' || payment_id, payment_id, 1, 'capture',"
        " 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 0, 1, 1,"
        " json_build_object('event_id', 'e' || payment_id, 'payment_id', payment_id, 'type', 'capture',"
        " 'x', repeat('x', %s)) FROM new",
        first,
        last,
        size,
    )
    claim_events(sql)


def claim_events(sql: Sql) -> None:
    """Claim the event_ids of events that a test has inserted, which Citus needs to find them."""
    if IS_FOR_CITUS:
        sql.rows(
            "INSERT INTO payproc.event_ids SELECT event_id, payment_id, type FROM payproc.events ON CONFLICT DO NOTHING"
        )


Contents = dict[str, list[tuple[Any, ...]]]
"""Rows by table."""


def contents(sql: Sql) -> Contents:
    """Return all rows without run numbers and times, for comparing two runs over the same input."""
    return {
        "payments": sql.rows("SELECT payment_id, state, version FROM payproc.payments ORDER BY 1"),
        "events": sql.rows(
            "SELECT payment_id, position, event_id, type, outcome, reason, state_before, state_after, source, line,"
            " payload::text FROM payproc.events ORDER BY 1, 2"
        ),
        "conflicts": sql.rows(
            "SELECT event_id, payment_id, type, source, line, payload::text"
            " FROM payproc.event_conflicts ORDER BY 1, 2, 3"
        ),
        "redeliveries": sql.rows(
            'SELECT event_id, source, line, payload::text COLLATE "C" FROM payproc.redeliveries ORDER BY 1, 4'
        ),
    }


def assert_books_right(sql: Sql) -> None:
    """Fold every history again: it must be gapless, follow the rules, and end as stored.

    The entries of one run and one payment must be in the order of the input.
    """
    folded: dict[str, tuple[str, int]] = {}
    query = """
        SELECT payment_id, position, type, outcome::text, reason::text, state_before, state_after FROM payproc.events
        UNION ALL
        SELECT payment_id, resolutions.position, type, resolution::text, NULL,
               resolutions.state_before, resolutions.state_after
        FROM payproc.resolutions JOIN payproc.events USING (event_id, payment_id)
        UNION ALL
        SELECT payment_id, position, NULL, NULL, NULL, state_before, state_after FROM payproc.corrections
        ORDER BY payment_id, position
    """
    for payment_id, position, event_type, outcome, reason, before, after in sql.rows(query):
        state, version = folded.get(payment_id, ("created", 0))
        assert position == version + 1, f"{payment_id}: a gap before {position}"
        assert before == state, f"{payment_id}: entry {position} does not start where the one before ended"
        if event_type is None:
            assert after != before, f"{payment_id}: correction {position} changes nothing"
        elif reason is None:
            assert after == (STATE_NAMED_BY[EventType(event_type)] if outcome == Resolution.APPLY else before)
        else:
            decided = TABLE[State(before)][EventType(event_type)]
            assert (outcome, reason, after) == (decided.outcome, decided.reason, decided.state_after)
            assert after == before or outcome == Outcome.APPLY
        folded[payment_id] = (after, position)
    stored = {
        payment_id: (state, version)
        for payment_id, state, version in sql.rows("SELECT payment_id, state, version FROM payproc.payments")
    }
    assert stored == folded
    assert not sql.rows("""
        SELECT payment_id, position FROM (
            SELECT payment_id, position, source, line, lag(source) OVER run AS source_before,
                   lag(line) OVER run AS line_before
            FROM payproc.events WINDOW run AS (PARTITION BY payment_id, run_id ORDER BY position)
        ) AS entry WHERE (source, line) < (source_before, line_before)
    """), "a run recorded events out of order"
