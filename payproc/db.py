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
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errorcodes
import psycopg2.extensions

from payproc.errors import CannotFinish, WrongUsage
from payproc.signals import interrupt

if TYPE_CHECKING:
    from payproc.embedded import Note

URL_VARIABLE = "DATABASE_URL"

EMBEDDED_VARIABLE = "PAYPROC_EMBEDDED"

SCHEMA = "payproc"

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
            raise self.explained(error) from error
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

    def explained(self, error: psycopg2.Error) -> CannotFinish:
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

_RUN_NUMBERS_ARE_BEHIND = (
    "new runs would get the numbers of existing ones, as after a restore; run: "
    "SELECT setval(pg_get_serial_sequence('payproc.runs', 'run_id'), max(run_id)) FROM payproc.runs"
)

_SAYS_NOTHING = ("Is the server running", "This probably means", "before or while processing", "DETAIL", "LINE ")
"""How lines begin that libpq adds to guess, or to show where."""


def _one_line(error: psycopg2.Error) -> str:
    """What the server or libpq said, without repetition or layout."""
    said: list[str] = []
    for line in (error.diag.message_primary or str(error)).splitlines():
        # libpq: 'connection to server at "db" (10.0.0.1), port 5432 failed: FATAL:  database "x" does not exist'
        reason = line.rpartition(" failed: ")[2].replace("FATAL:  ", "").strip()
        if reason and reason not in said and not reason.startswith(_SAYS_NOTHING):
            said.append(reason)
    return "; ".join(said)


@contextmanager
def open_database(option: str | None, note: "Note", *, interruptible: bool = True) -> Iterator[Database]:
    """Find the database and use it: --database-url, else DATABASE_URL, else that of `.env`, else the embedded one.

    `note` gets one line that says which, and lines worth showing while a person waits for the embedded server.
    """
    found = _chosen_url(option)
    if found is not None:
        parameters, origin = found
        yield Database(parameters, interruptible=interruptible, note=lambda where: note(f"database {where} ({origin})"))
        return
    _check_embedded_is_allowed()
    if sys.platform == "win32":
        raise CannotFinish("the embedded database needs Linux or macOS; name a PostgreSQL server with --database-url")
    from payproc import embedded  # only where it is needed: other databases do without it

    home = embedded.default_home()
    with embedded.running_server(home, note=note) as server:
        note(f"database: the embedded PostgreSQL {server.version} in {home}")
        # libpq takes from the environment all that the parameters leave open, such as PGHOSTADDR, which has precedence
        # over the host. Nothing else in this process uses libpq.
        for variable in [each for each in os.environ if each.startswith("PG")]:
            del os.environ[variable]
        # Without this libpq would look for ~/.pgpass, and may complain about its permissions.
        parameters = {**server.connect_args, "passfile": str(server.socket_folder / "no-passwords")}
        where = os.fsencode(home).decode(errors="backslashreplace")  # a path may hold bytes that no text can
        yield Database(parameters, where, interruptible=interruptible, is_embedded=True, why_gone=server.why_gone)


def _check_embedded_is_allowed() -> None:
    """Raise WrongUsage if PAYPROC_EMBEDDED forbids the embedded database."""
    setting = os.environ.get(EMBEDDED_VARIABLE, "")
    if setting == "never":
        raise WrongUsage(
            f"no database is named, and {EMBEDDED_VARIABLE}=never forbids the embedded one; name one with "
            f"--database-url, {URL_VARIABLE}, or {URL_VARIABLE} in .env"
        )
    if setting:
        raise WrongUsage(f'{EMBEDDED_VARIABLE}: unknown "{setting}", expected never or nothing')


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
    import io
    import logging

    from dotenv import dotenv_values  # only where there is such a file

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
