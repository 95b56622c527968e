"""The database: which one, how to connect, whether its schema is there, and what its errors mean to a user.

What belongs here: everything about the server that is not about payments. No message that leaves this module holds a
password or a connection string's query part.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import cast

import psycopg2
import psycopg2.errorcodes
import psycopg2.extensions
from dotenv import dotenv_values
from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from payproc.errors import CannotFinish, WrongUsage
from payproc.models import SCHEMA, SCHEMA_VERSION, metadata

URL_VARIABLE = "DATABASE_URL"

CONNECT_TIMEOUT_SECONDS = "10"
"""How long to try one address, unless the URL says `connect_timeout`. Without it a dropped packet means two minutes."""

_MARK = f"payproc schema version {SCHEMA_VERSION}"
_MARK_START = "payproc schema version "
_SCHEMA_LOCK = 0x70617970726F63  # "payproc": advisory locks share one number space for a whole database


class Database:
    """A PostgreSQL server and database to work on. `where` names it in messages and never holds a secret."""

    def __init__(self, url: URL, where: str) -> None:
        self.where = where
        self.url = url
        connect_args = {"client_encoding": "utf8"}
        if "connect_timeout" not in url.query:
            connect_args["connect_timeout"] = CONNECT_TIMEOUT_SECONDS
        if "application_name" not in url.query:
            connect_args["application_name"] = "payproc"
        # NullPool: a command needs a handful of connections for its life, and closes each itself.
        self.engine: Engine = create_engine(url, poolclass=NullPool, connect_args=connect_args)

    def connect(self) -> psycopg2.extensions.connection:
        """Open a plain psycopg2 connection in autocommit, as CALLs that COMMIT need it."""
        try:
            fairy = self.engine.raw_connection()
        except (psycopg2.Error, DBAPIError) as error:
            raise self.explained(error) from error
        connection = cast(psycopg2.extensions.connection, fairy.driver_connection)
        fairy.detach()
        connection.autocommit = True
        return connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One SQLAlchemy transaction, with its errors explained."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except (psycopg2.Error, DBAPIError) as error:
            raise self.explained(error) from error

    def explained(self, error: Exception) -> CannotFinish:
        """Say in one line what a database error means to the user. The text is built from the SQLSTATE."""
        original = error.orig if isinstance(error, DBAPIError) else error
        said = _one_line(original, self.url.password)
        sqlstate = sqlstate_of(error)
        if sqlstate is None and isinstance(original, psycopg2.OperationalError):
            return CannotFinish(f"cannot reach the database {self.where}: {said}")
        advice = _ADVICE.get(sqlstate or "") or _ADVICE.get((sqlstate or "")[:2]) or ""
        return CannotFinish(f"the database {self.where} refused: {said}{advice and '; '}{advice}")


_ADVICE = {
    psycopg2.errorcodes.INSUFFICIENT_PRIVILEGE: (
        f"payproc needs its schema once (an owner runs `payproc init`) and, on schema {SCHEMA}, USAGE on the schema, "
        "SELECT, INSERT and UPDATE on its tables, and EXECUTE on its procedure"
    ),
    psycopg2.errorcodes.READ_ONLY_SQL_TRANSACTION: "connect to the primary, with a role that may write",
    psycopg2.errorcodes.QUERY_CANCELED: "raise the statement_timeout of this role or database",
    psycopg2.errorcodes.DISK_FULL: "free some space and run it again",
    psycopg2.errorcodes.TOO_MANY_CONNECTIONS: "use fewer --workers or raise max_connections",
    psycopg2.errorcodes.CLASS_OPERATOR_INTERVENTION: "run it again when the server is back",
}
"""What a user can do, by SQLSTATE or its class."""


def sqlstate_of(error: Exception) -> str | None:
    """The SQLSTATE of a database error; None where the server did not get to say one."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return original.pgcode if isinstance(original, psycopg2.Error) else None


def _one_line(error: BaseException | None, password: str | None) -> str:
    """What the server or libpq said, without repetition, layout or password."""
    primary = error.diag.message_primary if isinstance(error, psycopg2.Error) else None
    said: list[str] = []
    for line in (primary or str(error)).splitlines():
        # libpq: 'connection to server at "db" (10.0.0.1), port 5432 failed: FATAL:  database "x" does not exist'
        reason = line.rpartition(" failed: ")[2].replace("FATAL:  ", "").strip()
        if reason and reason not in said and not reason.startswith(("Is the server running", "DETAIL", "LINE ")):
            said.append(reason)
    result = "; ".join(said)
    return result.replace(password, "***") if password else result


@contextmanager
def open_database(option: str | None, note: Callable[[str], None]) -> Iterator[Database]:
    """Find the database and use it: --database-url, else DATABASE_URL, else that of `.env`, else the embedded one.

    `note` gets one line that says which, and lines worth showing while a person waits for the embedded server.
    """
    found = _chosen_url(option)
    if found is not None:
        url, origin = found
        database = Database(url, _safe_name(url))
        note(f"database {database.where} ({origin})")
        yield database
        return
    if sys.platform == "win32":
        raise CannotFinish("the embedded database needs Linux or macOS; name a PostgreSQL server with --database-url")
    from payproc import embedded  # only where it is needed: other databases do without it

    home = embedded.default_home()
    with embedded.running_server(home, note=note) as server:
        note(f"database: the embedded PostgreSQL {server.version} in {home}")
        arguments = dict(server.connect_args)
        url = URL.create("postgresql+psycopg2", query=arguments)
        yield Database(url, f"in {home}")


def _chosen_url(option: str | None) -> tuple[URL, str] | None:
    if option is not None:
        return _parsed_url(option, "--database-url"), "from --database-url"
    if variable := os.environ.get(URL_VARIABLE):
        return _parsed_url(variable, URL_VARIABLE), f"from {URL_VARIABLE}"
    if entry := _dotenv_url(Path(".env")):
        return _parsed_url(entry, f"{URL_VARIABLE} in .env"), "from .env"
    return None


def _dotenv_url(path: Path) -> str | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        return dotenv_values(path, interpolate=False).get(URL_VARIABLE)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        # Going on would mean another database than the one that the user wrote down.
        raise WrongUsage(
            f".env: cannot be read ({error}); mend it, or name the database with --database-url"
        ) from error


def _parsed_url(given: str, origin: str) -> URL:
    expected = f"{origin}: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    try:
        url = make_url(given.strip())
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise WrongUsage(f"{expected}, found something else") from error
    scheme = url.drivername.split("+")[0]
    if scheme not in ("postgres", "postgresql"):
        raise WrongUsage(f"{expected}, found a URL of {scheme!r}")
    return url.set(drivername="postgresql+psycopg2")


def _safe_name(url: URL) -> str:
    """User, host, port and database of a URL: what a person needs to recognise it, and nothing that is secret."""
    host = url.host or url.query.get("host") or "local socket"
    user = url.username or url.query.get("user") or ""
    port = url.port or url.query.get("port") or ""
    name = url.database or url.query.get("dbname") or ""
    return f"postgresql://{user}{user and '@'}{host}{port and ':'}{port}/{name}"


def has_schema(database: Database) -> bool:
    """Whether payproc's tables are there. Raises CannotFinish if they are somebody else's or of another version."""
    with database.transaction() as connection:
        return _has_schema(connection, database.where)


def _has_schema(connection: Connection, where: str) -> bool:
    mark, relations = connection.execute(
        text(
            "SELECT obj_description(to_regclass(:runs), 'pg_class'),"
            " (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace(:schema))"
        ),
        {"runs": f"{SCHEMA}.runs", "schema": SCHEMA},
    ).one()
    if mark == _MARK:
        return True
    if mark is not None and mark.startswith(_MARK_START):
        raise CannotFinish(
            f"the schema {SCHEMA} of {where} has version {mark.removeprefix(_MARK_START)}, expected {SCHEMA_VERSION}; "
            "use the payproc that made it"
        )
    if relations:
        raise CannotFinish(
            f"the schema {SCHEMA} of {where} is not payproc's: it holds {relations} tables and indexes of something "
            "else; name another database"
        )
    return False


def ensure_schema(database: Database) -> bool:
    """Create payproc's tables and procedure where they are missing; tell whether they were missing.

    In one transaction, and safe against another command that does the same at the same moment.
    """
    if has_schema(database):
        return False
    with database.transaction() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
        if _has_schema(connection, database.where):
            return False
        if connection.execute(text("SELECT to_regnamespace(:schema)"), {"schema": SCHEMA}).scalar_one() is None:
            connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
        metadata.create_all(connection, checkfirst=False)
        connection.exec_driver_sql(resources.files("payproc").joinpath("record_decisions.sql").read_text("utf-8"))
        connection.exec_driver_sql(f"COMMENT ON TABLE {SCHEMA}.runs IS '{_MARK}'")
    return True
