"""The database: which one, how to connect, whether its schema is there, and what its errors mean to a user.

What belongs here: everything about the server that is not about payments. No message that leaves this module holds a
password or a connection string's query part.

SQLAlchemy is imported only to create the schema. Everything else is plain psycopg2: it needs a quarter of a second less
of every command's start.
"""

import io
import itertools
import logging
import os
import re
import select
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errorcodes
import psycopg2.extensions
from dotenv import dotenv_values

from payproc.errors import CannotFinish, WrongUsage
from payproc.signals import interrupt

URL_VARIABLE = "DATABASE_URL"

SCHEMA = "payproc"

SCHEMA_VERSION = 1
"""Raised with every change to what models.py or record_decisions.sql creates that another payproc could not work with;
stands in a comment on the table runs."""

CONNECT_TIMEOUT_SECONDS = "10"
"""How long to try one address, unless the URL says otherwise. Without it a dropped packet means two minutes."""

ASYNCHRONOUS_COMMIT = "SET LOCAL synchronous_commit = off;"
"""What record_decisions.sql says to have one flush for many commits."""

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

_cursor_numbers = itertools.count(1)

_MARK_START = "payproc schema version "
_MARK = f"{_MARK_START}{SCHEMA_VERSION}"
_CITUS_MARK = f"{_MARK} for Citus"
_SCHEMA_LOCK = 0x70617970726F63  # "payproc": advisory locks share one number space for a whole database


class Database:
    """A PostgreSQL server and database to work on. `where` names it in messages and never holds a secret."""

    def __init__(
        self,
        parameters: Mapping[str, str],
        where: str,
        *,
        interruptible: bool = False,
        why_gone: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Name a database; nothing is opened yet.

        `parameters` are libpq's: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
        `interruptible` lets a signal end a wait for the server, which is the driver's own otherwise and deaf to
        signals. It is a setting of the whole process, for commands with a single thread.
        `why_gone` tells more than the driver can where nobody can connect, if the server is known to have ended.
        """
        self.where = where
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
        except psycopg2.Error as error:
            raise self.explained(error) from error
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
                    yield cursor
                connection.commit()
            except psycopg2.Error as error:
                raise self.explained(error) from error
            finally:
                _leave(connection)

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
                raise self.explained(error) from error
            finally:
                _leave(connection)

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

    def explained(self, error: psycopg2.Error) -> CannotFinish:
        """Say in one line what a database error means to the user: what the server said, and advice by SQLSTATE."""
        password = self._parameters.get("password") or os.environ.get("PGPASSWORD")
        said = _one_line(error, password)
        sqlstate = error.pgcode or ""
        if is_about_connection(error):
            return CannotFinish(f"cannot reach the database {self.where}: {self._why_gone() or said}")
        advice = _ADVICE.get(sqlstate) or _ADVICE.get(sqlstate[:2]) or ""
        return CannotFinish(f"the database {self.where} refused: {said}{advice and '; '}{advice}")


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


def _leave(connection: psycopg2.extensions.connection) -> None:
    """Roll back what is not committed: a pool would throw away a connection that comes back within a transaction.

    Like any statement it waits for the server's answer.
    """
    with suppress(psycopg2.Error):  # of one that is gone: why it is gone has been said
        connection.rollback()


def is_about_connection(error: psycopg2.Error) -> bool:
    """Whether the connection is lost or was never there, which the client library finds out itself: no SQLSTATE.

    The driver may still take such a connection for open: where sending failed, while there is a last notice to read.
    """
    return not error.pgcode and type(error) in (psycopg2.OperationalError, psycopg2.DatabaseError)


_ADVICE = {
    psycopg2.errorcodes.INSUFFICIENT_PRIVILEGE: (
        f"payproc needs its schema once (an owner runs `payproc init`) and, on schema {SCHEMA}, USAGE on the schema, "
        "SELECT, INSERT and UPDATE on its tables, and EXECUTE on its procedure"
    ),
    psycopg2.errorcodes.READ_ONLY_SQL_TRANSACTION: "connect to the primary, with a role that may write",
    psycopg2.errorcodes.UNIQUE_VIOLATION: (
        "what is stored contradicts itself: somebody has changed the tables by hand, or restored a part of them; "
        "see `payproc verify`"
    ),
    psycopg2.errorcodes.QUERY_CANCELED: "if it was a timeout, raise statement_timeout for this role",
    psycopg2.errorcodes.DISK_FULL: "free some space and run it again",
    psycopg2.errorcodes.TOO_MANY_CONNECTIONS: "use fewer --workers or raise max_connections",
    psycopg2.errorcodes.CONNECTION_FAILURE: "run it again when the server reaches all its machines",
    psycopg2.errorcodes.CLASS_TRANSACTION_ROLLBACK: "run it again",
    psycopg2.errorcodes.CLASS_OPERATOR_INTERVENTION: "run it again when the server is back",
}
"""What a user can do, by SQLSTATE or its class."""


_SAYS_NOTHING = ("Is the server running", "This probably means", "before or while processing", "DETAIL", "LINE ")
"""How lines begin that libpq adds to guess, or to show where."""


def _one_line(error: psycopg2.Error, password: str | None) -> str:
    """What the server or libpq said, without repetition, layout or password."""
    said: list[str] = []
    for line in (error.diag.message_primary or str(error)).splitlines():
        # libpq: 'connection to server at "db" (10.0.0.1), port 5432 failed: FATAL:  database "x" does not exist'
        reason = line.rpartition(" failed: ")[2].replace("FATAL:  ", "").strip()
        if reason and reason not in said and not reason.startswith(_SAYS_NOTHING):
            said.append(reason)
    result = "; ".join(said)
    return result.replace(password, "***") if password else result


@contextmanager
def open_database(option: str | None, note: Callable[[str], None], *, interruptible: bool = True) -> Iterator[Database]:
    """Find the database and use it: --database-url, else DATABASE_URL, else that of `.env`, else the embedded one.

    `note` gets one line that says which, and lines worth showing while a person waits for the embedded server.
    """
    found = _chosen_url(option)
    if found is not None:
        parameters, origin = found
        database = Database(parameters, _safe_name(parameters), interruptible=interruptible)
        note(f"database {database.where} ({origin})")
        yield database
        return
    if sys.platform == "win32":
        raise CannotFinish("the embedded database needs Linux or macOS; name a PostgreSQL server with --database-url")
    from payproc import embedded  # only where it is needed: other databases do without it

    home = embedded.default_home()
    with embedded.running_server(home, note=note) as server:
        note(f"database: the embedded PostgreSQL {server.version} in {home}")
        yield Database(server.connect_args, f"in {home}", interruptible=interruptible, why_gone=server.why_gone)


def _chosen_url(option: str | None) -> tuple[dict[str, str], str] | None:
    if option is not None:
        return parse_url(option, "--database-url"), "from --database-url"
    if variable := os.environ.get(URL_VARIABLE):
        return parse_url(variable, URL_VARIABLE), f"from {URL_VARIABLE}"
    if entry := _dotenv_url(Path(".env")):
        return parse_url(entry, f"{URL_VARIABLE} in .env"), "from .env"
    return None


def _dotenv_url(path: Path) -> str | None:
    """What a .env file names, if it names one.

    Raises WrongUsage where that cannot be told: going on would mean another database than the user wrote down.
    """
    advice = "mend it, or name the database with --database-url"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise WrongUsage(f".env: is not UTF-8, expected UTF-8 text; {advice}") from error
    except OSError as error:
        raise WrongUsage(f".env: cannot be read: {error.strerror}; {advice}") from error
    logging.getLogger("dotenv").setLevel(logging.ERROR)  # it warns of any line it cannot parse, other settings' too
    url = dotenv_values(stream=io.StringIO(text), interpolate=False).get(URL_VARIABLE)
    if url is None and (entry := re.search(rf"^[ \t]*(export[ \t]+)?{URL_VARIABLE}\b", text, re.MULTILINE)):
        number = text.count("\n", 0, entry.start()) + 1
        raise WrongUsage(f".env:{number}: cannot be parsed, expected {URL_VARIABLE}=URL; {advice}")
    return url


def parse_url(given: str, origin: str) -> dict[str, str]:
    """The libpq parameters that a URL stands for; `postgresql+driver://`, as SQLAlchemy has it, will do too.

    Raises WrongUsage, naming `origin` and never the URL, which may hold a password.
    """
    expected = f"{origin}: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    scheme, is_url, rest = given.strip().partition("://")
    if not given.strip():
        raise WrongUsage(f"{expected}, found nothing")
    if not is_url:
        raise WrongUsage(f"{expected}, found no postgresql:// at its start")
    if scheme[:1] in ("'", '"'):
        raise WrongUsage(f"{expected}, found quotation marks around it")
    if not re.fullmatch(r"postgres(ql)?(\+\w+)?", scheme):
        kind = scheme if re.fullmatch(r"[\w+.-]+", scheme) else "another kind"
        raise WrongUsage(f"{expected}, found a URL of {kind}")
    # A character of a password that is not escaped, or one around it that is, would move part of it into the user,
    # host, port or database, which are shown.
    authority, _, path = rest.partition("?")[0].partition("/")
    try:
        parameters: dict[str, str] = psycopg2.extensions.parse_dsn(f"postgresql://{rest}")
    except (psycopg2.Error, ValueError) as error:  # the latter for what is not UTF-8, escaped or not, and for NUL
        found = "a URL"
        unknown = re.search(r'invalid URI query parameter: "(\w+)"', str(error))
        if unknown and "@" not in rest.partition("?")[2]:  # after an @ it would be part of a password with a ? in it
            found = f'the parameter "{unknown[1]}"'
        raise WrongUsage(f"{expected}, found {found} that PostgreSQL's client library does not accept") from error
    if (
        authority.count("@") > 1
        or "@" in path
        or re.search("[:/@]", parameters.get("user", ""))
        or not re.fullmatch("[0-9,]*", parameters.get("port", ""))
        or re.search(r"[^,]@|[=\s]", parameters.get("hostaddr", "") + _host_names(parameters))
        or re.search(r":.*@|://|(password|passwd|pwd)\s*=", parameters.get("dbname", ""), re.IGNORECASE)
    ):
        found = "" if re.fullmatch("[0-9,]*", parameters.get("port", "")) else ", found a port that is not a number"
        raise WrongUsage(f"{expected}{found}; in a user or password write @ : / ? # as %40 %3A %2F %3F %23")
    return parameters


def _host_names(parameters: Mapping[str, str]) -> str:
    """The hosts, without folders of sockets, whose names may hold anything."""
    return ",".join(host for host in parameters.get("host", "").split(",") if not host.startswith("/"))


def _safe_name(parameters: Mapping[str, str]) -> str:
    """User, host, port and database: what a person needs to recognise it, and nothing that is secret."""
    user, port = parameters.get("user", ""), parameters.get("port", "")
    host = parameters.get("host") or parameters.get("hostaddr") or "local socket"
    return f"postgresql://{user}{user and '@'}{host}{port and ':'}{port}/{parameters.get('dbname', '')}"


def has_schema(database: Database) -> bool:
    """Whether payproc's tables are there. Raises CannotFinish if they are somebody else's or of another version."""
    with database.transaction() as cursor:
        return _mark(cursor, database.where) is not None


def _mark(cursor: psycopg2.extensions.cursor, where: str) -> str | None:
    """Which variant of payproc's tables is there, if any. Raises CannotFinish as has_schema does."""
    cursor.execute(
        "SELECT obj_description(to_regclass(%s), 'pg_class'),"
        " (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace(%s))",
        (f"{SCHEMA}.runs", SCHEMA),
    )
    ((mark, relations),) = cursor.fetchall()
    if mark in (_MARK, _CITUS_MARK):
        return str(mark)
    if mark is not None and mark.startswith(_MARK_START):
        raise CannotFinish(
            f"the schema {SCHEMA} of the database {where} has version {mark.removeprefix(_MARK_START)}, expected "
            f"{SCHEMA_VERSION}; use the payproc that made it"
        )
    if relations:
        raise CannotFinish(
            f"the schema {SCHEMA} of the database {where} is not payproc's: it holds {relations} tables and indexes of "
            "something else; name another database"
        )
    return None


def ensure_schema(database: Database) -> bool:
    """Create payproc's tables and procedure where they are missing; tell whether they were missing.

    In one transaction, and safe against another command that does the same at the same moment. Tables that Citus has
    distributed will do as well.
    """
    if has_schema(database):
        return False
    with database.transaction() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
        if _mark(cursor, database.where) is not None:
            return False
        create_schema(cursor)
    return True


def ensure_citus_schema(database: Database) -> bool:
    """The same, with the tables distributed by Citus over its machines; in one transaction and as safe.

    Raises CannotFinish if the database does not have the extension, or has the tables for one server.
    """
    with database.transaction() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
        mark = _mark(cursor, database.where)
        if mark == _CITUS_MARK:
            return False
        if mark is not None:
            raise CannotFinish(
                f"the schema {SCHEMA} of the database {database.where} was made for one server and cannot be "
                "distributed any more; name another database, or go on with this one as it is"
            )
        _check_citus(cursor, database.where)
        # One connection to each machine: the types are created there by the same transaction as the tables.
        cursor.execute("SET LOCAL citus.multi_shard_modify_mode TO 'sequential'")
        # Where this is on, CREATE SCHEMA would put all tables of the schema on one machine.
        cursor.execute("SET LOCAL citus.enable_schema_based_sharding TO off")
        create_schema(cursor, for_citus=True)
        from payproc.models import distribute_tables

        for statement in distribute_tables():
            cursor.execute(statement)
    return True


def _check_citus(cursor: psycopg2.extensions.cursor, where: str) -> None:
    cursor.execute("SELECT installed_version FROM pg_available_extensions WHERE name = 'citus'")
    available = cursor.fetchall()
    if not available:
        raise CannotFinish(
            f"the server of the database {where} does not have the extension citus, which --citus needs; name a Citus "
            "coordinator, or leave out --citus for one server"
        )
    if available == [(None,)]:
        raise CannotFinish(
            f"the database {where} does not have the extension citus, though its server does; run "
            "`CREATE EXTENSION citus` in it, on each machine, and then this command again"
        )


def create_schema(cursor: psycopg2.extensions.cursor, *, for_citus: bool = False) -> None:
    """Create the tables and the procedure, in the variant that is asked for. Nothing is distributed by that."""
    from payproc.models import create_tables

    cursor.execute("SELECT to_regnamespace(%s)", (SCHEMA,))
    if cursor.fetchall() == [(None,)]:
        cursor.execute(f"CREATE SCHEMA {SCHEMA}")
    for statement in create_tables(for_citus=for_citus):
        cursor.execute(statement)
    cursor.execute(procedure(for_citus=for_citus))
    cursor.execute(f"COMMENT ON TABLE {SCHEMA}.runs IS '{_CITUS_MARK if for_citus else _MARK}'")


def procedure(*, for_citus: bool) -> str:
    """The statement of record_decisions.sql; for Citus without its asynchronous commits.

    There the coordinator's commit is the decision that the other machines follow. If it could be lost after one of
    them has followed it, a payment would be left without its event, or an event without its payment.
    """
    procedure = resources.files("payproc").joinpath("record_decisions.sql").read_text("utf-8")
    return procedure.replace(ASYNCHRONOUS_COMMIT, "") if for_citus else procedure
