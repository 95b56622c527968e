"""The database: which one, how to connect, and what its errors mean to a user.

What belongs here: everything about the server that is not about payments. No message that leaves this module holds a
password or a connection string's query part.

Everything here is plain psycopg2: SQLAlchemy would add a quarter of a second to every command's start. Whether
payproc's schema is there, and of which version, is schema.py's.
"""

import itertools
import os
import re
import select
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errorcodes
import psycopg2.extensions

from payproc.db.errors import _ADVICE, _RUN_NUMBERS_ARE_BEHIND, _one_line, is_about_connection
from payproc.errors import CannotFinish
from payproc.signals import interrupt

if TYPE_CHECKING:
    pass

CONNECT_TIMEOUT_SECONDS = "10"
"""How long to try one address, unless the URL says otherwise. Without it a dropped packet means two minutes."""

LOST_AFTER_SECONDS = 60
"""How long a server may not answer at all, not even that it is still there, until the connection counts as lost.
Without that, a command whose network is cut while it waits for an answer waits for two hours, or for ever."""

FETCH_ROWS = 2_000
"""Rows fetched at a time where a result may be long."""

FETCH_LINES = 100
"""The same where each row has a line as received, of up to 1 MiB: all that are fetched are in memory at once."""

# A query that Citus answers in steps keeps what is between them on disk, at most 1 GB of it unless told.
_LIFT_CITUS_LIMIT = """
    SELECT set_config('citus.max_intermediate_result_size', '-1', true) FROM pg_extension WHERE extname = 'citus'
"""

# A setting of the role or database must not let a commit pass that is not on disk; a stronger one stays. Below a
# warning the server then sends nothing, so a message at the commit is one.
_WAIT_FOR_DISK = """
    SELECT pg_catalog.set_config('client_min_messages', 'warning', true),
           CASE WHEN pg_catalog.current_setting('synchronous_commit') = 'off'
                THEN pg_catalog.set_config('synchronous_commit', 'local', true) END
"""

_cursor_numbers = itertools.count(1)


class Database:
    """A PostgreSQL server and database to work on. `where` names it in messages and never holds a secret.

    Without a name of its own, it is named after its parameters; once connected, after the server connected to.
    """

    def __init__(
        self,
        parameters: Mapping[str, str],
        where: str | None = None,
        *,
        interruptible: bool = False,
        is_embedded: bool = False,
        why_gone: Callable[[], str | None] = lambda: None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Name a database; nothing is opened yet.

        `parameters` are libpq's: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
        `interruptible` lets a signal end a wait for the server, which is the driver's own otherwise and deaf to
        signals. It is a setting of the whole process, for commands with a single thread.
        `is_embedded` tells that it is payproc's own, whose schema may be brought up to date unasked.
        `why_gone` tells more than the driver can where nobody can connect, if the server is known to have ended.
        `note` gets `where` once, at the first attempt to connect.
        """
        self.where = where or _expected_name(parameters)
        self._is_named = where is not None
        self._note: Callable[[str], None] | None = note
        self.is_embedded = is_embedded
        self._why_gone = why_gone
        self._interruptible = interruptible
        self._parameters: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            # The first two are for a wait in silence, the last for what was sent and is not acknowledged.
            "keepalives_idle": str(LOST_AFTER_SECONDS // 2),
            "keepalives_interval": str(LOST_AFTER_SECONDS // 6),
            "keepalives_count": "3",
            "tcp_user_timeout": str(LOST_AFTER_SECONDS * 1000),
            "fallback_application_name": "payproc",
            **parameters,
            "client_encoding": "utf8",
        }

    def connect(self) -> psycopg2.extensions.connection:
        """Open a connection in autocommit, as CALLs that COMMIT need it. Raises CannotFinish if that fails."""
        psycopg2.extensions.set_wait_callback(None)  # with one, connect_timeout would count for nothing
        try:
            connection: psycopg2.extensions.connection = psycopg2.connect(**self._parameters)
            if not self._is_named:
                self.where = _real_name(connection, self._parameters.get("port", ""))
        except psycopg2.Error as error:
            raise self.describe_error(error) from error
        finally:
            if self._note is not None:
                self._note(self.where)
                self._note = None
        if self._interruptible:
            psycopg2.extensions.set_wait_callback(_wait)
        connection.autocommit = True
        return connection

    @contextmanager
    def transaction(self) -> Iterator[psycopg2.extensions.cursor]:
        """One transaction on a connection of its own. Raises CannotFinish for any error of the database."""
        with closing(self.connect()) as connection:
            # Every write here is compare and set or harmless to lose; a stricter default would only make it fail.
            connection.set_session(isolation_level="READ COMMITTED", autocommit=False)
            try:
                with connection.cursor() as cursor:
                    cursor.execute(_WAIT_FOR_DISK)
                    yield cursor
                connection.notices.clear()
                connection.commit()
                self.refuse_warnings(connection, list(connection.notices))
            except psycopg2.Error as error:
                raise self.describe_error(error) from error
            finally:
                _rollback_quietly(connection)

    @contextmanager
    def snapshot(self) -> Iterator[psycopg2.extensions.connection]:
        """One read-only transaction that sees everything as of one moment, however long it takes.

        Raises CannotFinish for any error of the database.
        """
        with closing(self.connect()) as connection:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True, autocommit=False)
            try:
                with connection.cursor() as cursor:
                    cursor.execute(_LIFT_CITUS_LIMIT)
                yield connection
            except psycopg2.Error as error:
                raise self.describe_error(error) from error
            finally:
                _rollback_quietly(connection)

    @staticmethod
    def stream(
        connection: psycopg2.extensions.connection,
        query: str,
        arguments: Sequence[object] | None = None,
        *,
        fetch_rows: int = FETCH_ROWS,
    ) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, fetched some at a time, so that memory stays flat. Inside a transaction."""
        cursor = connection.cursor(f"payproc_{next(_cursor_numbers)}")
        try:
            cursor.itersize = fetch_rows
            cursor.execute(query, arguments)
            # Not `yield from`: where reading ends early, that would close the cursor by itself, and raise its errors.
            for row in cursor:  # noqa: UP028
                yield row
        finally:
            with suppress(psycopg2.Error):  # who stops reading early may have left with the connection already
                cursor.close()

    def refuse_warnings(self, connection: psycopg2.extensions.connection, notices: Sequence[str]) -> None:
        """Raise CannotFinish if the server sent a warning at a commit, as when a wait for a standby was canceled."""
        if not notices:
            return
        said = " ".join(notices[0].split())
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error:
            return  # the message was about the end of the connection, after the commit
        raise CannotFinish(
            f"the database {self.where} has committed, but perhaps not on its standby: {said}; "
            "run it again when the standby is back"
        )

    def describe_error(self, error: psycopg2.Error) -> CannotFinish:
        """Say in one line what a database error means to the user: what the server said, and advice by SQLSTATE."""
        said = self._masked(_one_line(error))
        sqlstate = error.pgcode or ""
        if is_about_connection(error):
            return CannotFinish(f"cannot reach the database {self.where}: {self._why_gone() or said}")
        advice = _ADVICE.get(sqlstate) or _ADVICE.get(sqlstate[:2]) or ""
        if error.diag.constraint_name == "runs_have_one_number":
            advice = _RUN_NUMBERS_ARE_BEHIND
        return CannotFinish(f"the database {self.where} refused: {said}{advice and '; '}{advice}")

    def _masked(self, said: str) -> str:
        """Hide the password where a server or a proxy echoes it: in quotation marks or in a URL. libpq never prints it.

        A mask anywhere else would reveal that an ordinary word is the password; so would one over a name in `where`.
        """
        password = self._parameters.get("password") or os.environ.get("PGPASSWORD")
        if not password or password in re.split("[/:@,?]+", self.where):
            return said
        for before, after in ('""', "''", ":@"):
            said = said.replace(f"{before}{password}{after}", f"{before}***{after}")
        return said


def _wait(connection: psycopg2.extensions.connection) -> None:
    """Wait for the server's answer. A signal raises KeyboardInterrupt, and the driver then closes the connection.

    psycopg2's own wait_select asks the server to cancel instead. That never returns if the server does not answer.
    """
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        waiting = [connection.fileno()]
        reading = waiting if state == psycopg2.extensions.POLL_READ else []
        # Once a signal is noted this stays readable; what waits then is cleaning up.
        wake_up = [interrupt.wake_up] if interrupt.wake_up >= 0 and interrupt.signal is None else []
        select.select(reading + wake_up, [] if reading else waiting, [])


def _rollback_quietly(connection: psycopg2.extensions.connection) -> None:
    """Roll back what is not committed: a pool would throw away a connection that comes back within a transaction.

    Like any statement it waits for the server's answer.
    """
    with suppress(psycopg2.Error):  # of one that is gone: why it is gone has been said
        connection.rollback()


def _expected_name(parameters: Mapping[str, str]) -> str:
    """Return the name of the database that libpq would connect to: of what is not given, PG* variables decide.

    With a service, that is up to its file, which only libpq reads.
    """
    service = parameters.get("service") or os.environ.get("PGSERVICE")
    variables = {} if service else os.environ

    def given(name: str) -> str:
        return parameters.get(name) or variables.get(_VARIABLES[name], "")

    host = given("hostaddr") or given("host") or ("" if service else "local socket")
    name = _name(given("user"), host, given("port"), given("dbname"))
    return f"{name}?service={service}" if service else name


_DEFAULT_PORT = 5432

_VARIABLES = {
    "user": "PGUSER",
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
}
"""Environment variables by the parameter of libpq that they stand in for."""


def _real_name(connection: psycopg2.extensions.connection, given_port: str) -> str:
    """Return the name of the database that this connection is to. A default port is left out unless it was given."""
    info = connection.info
    host = info.host
    if info.dsn_parameters.get("hostaddr"):  # it decides, not the host; of a list, the driver does not tell which one
        with socket.socket(fileno=os.dup(connection.fileno())) as link, suppress(OSError):  # if it is lost already
            host = link.getpeername()[0]
    port = "" if info.port == _DEFAULT_PORT and not given_port else str(info.port)
    return _name(info.user, host, port, info.dbname)


def _name(user: str, host: str, port: str, dbname: str) -> str:
    """Return user, host, port and database: all that a person needs to recognise it, and nothing that is secret."""
    host = f"[{host}]" if ":" in host and not host.startswith("/") else host
    return f"postgresql://{user}{user and '@'}{host}{port and ':'}{port}/{dbname}"
