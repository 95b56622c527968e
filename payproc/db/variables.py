"""Variables: the parameters of a connection as the environment of another program.

Belongs here: everything that a program needs to reach the same database through libpq. A URL, a
service file and the caller's variables may each decide a parameter. So libpq's own answer is passed
on, read from an open connection, and never a second guess.
"""

from collections.abc import Mapping
from contextlib import closing
from typing import NamedTuple

import psycopg2

from payproc.db.connection import Database
from payproc.db.names import name_variable
from payproc.errors import CannotFinish, WrongUsage

_SESSION_VARIABLES = frozenset({"PGCLIENTENCODING", "PGDATESTYLE", "PGTZ", "PG_COLOR", "PG_COLORS"})
"""Variables of the caller that lead to no other database. All others are removed."""

_OMITTED = (
    "service",  # resolved already
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
"""Parameters without a variable that change neither the database nor the results."""

_REFUSED = ("sslpassword", "replication")
"""Parameters without a variable that decide whether and how a connection works."""

_READ_ONLY = "-c default_transaction_read_only=on"


class Target(NamedTuple):
    """A database that a connection has reached."""

    parameters: dict[str, str]
    password: str
    version: int
    """The server's major version."""
    uses_tls: bool


def find_target(database: Database) -> Target:
    """Connect, and return what libpq has made of the URL, a service and the variables."""
    with closing(database.connect()) as connection:
        info = connection.info
        parameters = {name: value for name, value in info.dsn_parameters.items() if value}
        del parameters["client_encoding"]  # payproc's own
        if encoding := database.given_parameters.get("client_encoding"):
            parameters["client_encoding"] = encoding
        return Target(parameters, info.password or "", info.server_version // 10_000, info.ssl_in_use)


def make_read_only(target: Target, database: Database) -> Target:
    """Return the target for read-only transactions. Raises CannotFinish if it takes no options."""
    changed = {"options": f"{target.parameters.get('options', '')} {_READ_ONLY}".strip()}
    if target.parameters.get("target_session_attrs") == "read-write":
        changed["target_session_attrs"] = "primary"  # libpq takes a read-only session for a standby
    if not database.is_embedded:
        _check_read_only(Database({**database.given_parameters, **changed}, database.where, interruptible=True))
    return target._replace(parameters={**target.parameters, **changed})


def _check_read_only(database: Database) -> None:
    """Raise CannotFinish if a pool before the server refuses or ignores the option."""
    problem = f"the database {database.where} ignores the option for read-only transactions"
    try:
        with closing(database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.current_setting('transaction_read_only')")
            if cursor.fetchone() == ("on",):
                return
    except CannotFinish as error:  # the same connection without the option works
        problem = str(error)
    except psycopg2.Error as error:  # such as a timeout, which is no pool's
        raise database.translate(error) from error
    raise CannotFinish(f"{problem}; connect to the server itself instead of a pool, or add --write")


def build_environment(before: Mapping[str, str], target: Target) -> dict[str, str]:
    """Return an environment that leads libpq to the target, and nowhere else.

    Raises WrongUsage for a parameter that only a connection string can hold.
    """
    for name in _REFUSED:
        if name in target.parameters:
            raise WrongUsage(
                f"cannot pass on the parameter {name}, which has no environment variable; use a URL without it"
            )
    kept = {name: each for name, each in before.items() if not name.startswith("PG") or name in _SESSION_VARIABLES}
    parameters = {**target.parameters, "password": target.password}
    return kept | {name_variable(name): each for name, each in parameters.items() if each and name not in _OMITTED}
