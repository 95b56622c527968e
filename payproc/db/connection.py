"""Connections to the database: opening one, its transactions and its snapshots.

Belongs here: everything that holds for each connection, such as its time-outs and the wait of its
commits for the disk. It is plain psycopg2, because SQLAlchemy would add a quarter of a second to
the start of every command.
"""

import os
import select
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from typing import Any

import psycopg2
import psycopg2.extensions

from payproc.db.citus import LIFT_RESULT_LIMIT, WAIT_ON_MACHINES, is_for_citus, name_event_ids, narrow_to_machines
from payproc.db.errors import describe_error, is_about_connection
from payproc.db.names import guess_name, read_name
from payproc.errors import CannotFinish
from payproc.signals import interrupt

CONNECT_TIMEOUT_SECONDS = "10"
"""Seconds to try one address, unless the URL sets others. By default it would be two minutes."""

LOST_AFTER_SECONDS = 60
"""Seconds of silence after which a connection is considered dead. TCP alone waits two hours."""

# A setting of the role or database must not let a commit return before the disk has it; a stronger
# one stays. The server then sends nothing below a warning, so a message at the commit is a warning.
_WAIT_FOR_DISK = """
    SELECT pg_catalog.set_config('client_min_messages', 'warning', true),
           CASE WHEN pg_catalog.current_setting('synchronous_commit') = 'off'
                THEN pg_catalog.set_config('synchronous_commit', 'local', true) END
"""


class Database:
    """A PostgreSQL server and database to work on.

    `where` names it in messages and never holds a secret. Without a given name it is made of the
    parameters, and of the server's own answers once it is connected.
    """

    def __init__(
        self,
        parameters: Mapping[str, str],
        where: str | None = None,
        *,
        interruptible: bool = False,
        is_embedded: bool = False,
        explain_end: Callable[[], str | None] = lambda: None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Store the parameters; open nothing.

        `parameters` are libpq's:
        https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
        `interruptible` lets a signal end a wait for the server; the driver's own wait is deaf to
        signals. It is a setting of the whole process, for commands with a single thread.
        `is_embedded` marks payproc's own database, whose schema may be brought up to date unasked.
        `explain_end` explains a dead connection if the server has ended; the driver knows less.
        `note` gets `where` once, at the first attempt to connect.
        """
        self.given_parameters = parameters
        self.where = where or guess_name(parameters)
        self._is_named = where is not None
        self._note: Callable[[str], None] | None = note
        self.is_embedded = is_embedded
        self._explain_end = explain_end
        self._interruptible = interruptible
        self.for_citus: bool | None = None
        """True for the tables for Citus, None before the schema is read."""
        self._parameters: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            # Three settings limit a silent wait, the fourth a wait for an acknowledgement.
            "keepalives_idle": str(LOST_AFTER_SECONDS // 2),
            "keepalives_interval": str(LOST_AFTER_SECONDS // 6),
            "keepalives_count": "3",
            "tcp_user_timeout": str(LOST_AFTER_SECONDS * 1000),
            "fallback_application_name": "payproc",
            **parameters,
            "client_encoding": "utf8",
        }

    def connect(self) -> psycopg2.extensions.connection:
        """Open a connection in autocommit, as CALLs that COMMIT need it. Its times are in UTC.

        Raises CannotFinish if that fails.
        """
        psycopg2.extensions.set_wait_callback(None)  # with one, the driver would ignore connect_timeout
        try:
            connection: psycopg2.extensions.connection = psycopg2.connect(**self._parameters)
            if not self._is_named:
                self.where = read_name(connection, self._parameters.get("port", ""))
        except psycopg2.Error as error:
            raise self.translate(error) from error
        finally:
            if self._note is not None:
                self._note(self.where)
                self._note = None
        if self._interruptible:
            psycopg2.extensions.set_wait_callback(_wait)
        psycopg2.extensions.register_type(_UTC_TIMES, connection)
        connection.autocommit = True
        return connection

    @contextmanager
    def transaction(self) -> Iterator[psycopg2.extensions.cursor]:
        """Open a transaction on a connection of its own.

        Raises CannotFinish for any error of the database.
        """
        with closing(self.connect()) as connection, self.transaction_on(connection) as cursor:
            yield cursor

    @contextmanager
    def transaction_on(self, connection: psycopg2.extensions.connection) -> Iterator[psycopg2.extensions.cursor]:
        """Open a transaction on an open connection of this database, for many short ones in a row.

        Raises CannotFinish for any error of the database.
        """
        if connection.closed:  # by the server, since the last commit
            raise self.translate(psycopg2.OperationalError("the server closed the connection"))
        # Every write here is compare and set or harmless to lose; a stricter default would only
        # make it fail.
        connection.set_session(isolation_level="READ COMMITTED", autocommit=False)
        try:
            with connection.cursor() as cursor:
                cursor.execute(_WAIT_FOR_DISK)
                if self.for_citus:
                    cursor.execute(WAIT_ON_MACHINES)
                yield cursor
            connection.notices.clear()
            connection.commit()
            self.refuse_warnings(connection, list(connection.notices))
        except psycopg2.Error as error:
            raise self.translate(error) from error
        finally:
            _rollback_quietly(connection)

    @contextmanager
    def snapshot(self) -> Iterator[psycopg2.extensions.connection]:
        """Open a read-only transaction that sees everything as of one moment.

        Raises CannotFinish for any error of the database.
        """
        with closing(self.connect()) as connection:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True, autocommit=False)
            try:
                if self.for_citus:
                    with connection.cursor() as cursor:
                        cursor.execute(LIFT_RESULT_LIMIT)
                yield connection
            except psycopg2.Error as error:
                raise self.translate(error) from error
            finally:
                _rollback_quietly(connection)

    def complete(self, query: str, cursor: psycopg2.extensions.cursor) -> str:
        """Return a query that fits the tables: those of one server, or those for Citus.

        {event_ids} stands for the table that says whose an event_id is, {of_payments} for the
        condition by which Citus finds the machines of payments.
        """
        for_citus = self.is_for_citus(cursor)
        query = query.replace("{of_payments}", narrow_to_machines(for_citus=for_citus))
        return query.replace("{event_ids}", name_event_ids(for_citus=for_citus))

    def is_for_citus(self, cursor: psycopg2.extensions.cursor) -> bool:
        """Return whether the tables are those for Citus. Asks the database once."""
        if self.for_citus is None:
            self.for_citus = is_for_citus(cursor)
        return self.for_citus

    def refuse_warnings(self, connection: psycopg2.extensions.connection, notices: Sequence[str]) -> None:
        """Raise CannotFinish for a warning at a commit, as after a canceled wait for a standby."""
        if not notices:
            return
        warning = " ".join(notices[0].split())
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error:
            return  # the message was about the end of the connection, after the commit
        raise CannotFinish(
            f"the database {self.where} has committed, but perhaps not on its standby: {warning}; "
            "run it again when the standby is back"
        )

    def translate(self, error: psycopg2.Error) -> CannotFinish:
        """Return the CannotFinish for an error of this database."""
        password = self._parameters.get("password") or os.environ.get("PGPASSWORD")
        cause = self._explain_end() if is_about_connection(error) else None
        return describe_error(error, self.where, password=password, cause=cause)


def _read_utc(text: str | bytes | None, cursor: psycopg2.extensions.cursor) -> datetime | None:
    """Parse a time into UTC; the server writes it in the session's time zone, which may be any."""
    moment: datetime | None = psycopg2.extensions.PYDATETIMETZ(text, cursor)
    return None if moment is None else moment.astimezone(timezone.utc)


_UTC_TIMES = psycopg2.extensions.new_type(psycopg2.extensions.PYDATETIMETZ.values, "UTC_TIMES", _read_utc)
"""The driver's type for TIMESTAMP WITH TIME ZONE."""


def _wait(connection: psycopg2.extensions.connection) -> None:
    """Wait for the server's answer.

    A signal raises KeyboardInterrupt, and the driver then closes the connection.

    psycopg2's own wait_select asks the server to cancel instead. That never returns if the server
    does not answer.
    """
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        waiting = [connection.fileno()]
        reading = waiting if state == psycopg2.extensions.POLL_READ else []
        # This stays readable once a signal is noted. A wait after that belongs to cleaning up.
        wake_up = [interrupt.wake_up] if interrupt.wake_up >= 0 and interrupt.signal is None else []
        select.select(reading + wake_up, [] if reading else waiting, [])


def _rollback_quietly(connection: psycopg2.extensions.connection) -> None:
    """Roll back, ignoring errors. A pool discards a connection that returns inside a transaction.

    Like any statement it waits for the server's answer.
    """
    with suppress(psycopg2.Error):  # a dead connection, whose cause is reported already
        connection.rollback()
