"""Errors of the database, in words for a user."""

from typing import TYPE_CHECKING

import psycopg2
import psycopg2.errorcodes
import psycopg2.extensions

if TYPE_CHECKING:
    pass


def is_about_connection(error: psycopg2.Error) -> bool:
    """Whether the connection is lost or was never there, which the client library finds out itself: no SQLSTATE.

    The driver may still take such a connection for open: where sending failed, while there is a last notice to read.
    """
    return not error.pgcode and type(error) in (psycopg2.OperationalError, psycopg2.DatabaseError)


_ADVICE = {
    psycopg2.errorcodes.INSUFFICIENT_PRIVILEGE: (
        "payproc needs its schema once (an owner runs `payproc init`) and, on schema payproc, USAGE on the schema, "
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
