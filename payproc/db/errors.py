"""Errors of the database: the kinds that the code acts on, and their description for a user.

Belongs here: everything that is read from a driver's error. A kind is recognized by SQLSTATE,
by the driver's class or by the name of a constraint, never by the text of a message.
"""

import re

import psycopg2
import psycopg2.errorcodes
import psycopg2.errors

from payproc.errors import CannotFinish

_TRANSIENT = frozenset(
    {
        psycopg2.errorcodes.SERIALIZATION_FAILURE,
        psycopg2.errorcodes.DEADLOCK_DETECTED,
        psycopg2.errorcodes.ADMIN_SHUTDOWN,
        psycopg2.errorcodes.CRASH_SHUTDOWN,
        psycopg2.errorcodes.CANNOT_CONNECT_NOW,
        psycopg2.errorcodes.CONNECTION_FAILURE,  # of a Citus coordinator to another machine
    }
)
"""SQLSTATEs after which the transaction is gone, but the same work may succeed a moment later."""

_CITUS_FILES = frozenset(
    {"connection_management.c", "remote_commands.c", "remote_transaction.c", "placement_connection.c"}
)
"""The files of Citus that report an error of another machine, or its loss. Some of them give a loss
the SQLSTATE of an internal error."""

_CITUS_MACHINE = re.compile(r"^while executing command on (\S+)$", re.MULTILINE)
"""The machine in the context of such an error, for the description only."""

_DATA_EXCEPTION = "22"
"""Class of the SQLSTATEs of content that cannot be stored."""

_RACE_KEYS = ("events_are_recorded_once", "payments_have_one_state")
"""Unique keys that end a CALL if another process was first."""

_SHARD_NUMBER = re.compile(r"_\d+$")
"""The end of the name that Citus gives a key of a shard."""

_ADVICE_BY_SQLSTATE = {
    psycopg2.errorcodes.INSUFFICIENT_PRIVILEGE: (
        "payproc needs its schema once (an owner runs `payproc init`) and, on schema payproc, USAGE on the schema, "
        "SELECT, INSERT and UPDATE on its tables, and EXECUTE on its procedure"
    ),
    psycopg2.errorcodes.READ_ONLY_SQL_TRANSACTION: "connect to the primary, with a role that may write",
    psycopg2.errorcodes.UNIQUE_VIOLATION: (
        "the stored data is inconsistent: the tables were edited manually or restored in part; see `payproc verify`"
    ),
    psycopg2.errorcodes.QUERY_CANCELED: "if it was a timeout, raise statement_timeout for this role",
    psycopg2.errorcodes.DISK_FULL: "free some space and run it again",
    psycopg2.errorcodes.TOO_MANY_CONNECTIONS: "use fewer --workers or raise max_connections",
    psycopg2.errorcodes.CONNECTION_FAILURE: "run it again when that machine runs, and has this database and role",
    psycopg2.errorcodes.CLASS_TRANSACTION_ROLLBACK: "run it again",
    psycopg2.errorcodes.CLASS_OPERATOR_INTERVENTION: "run it again when the server is back",
}
"""Advice for the user, by SQLSTATE or its class."""

_ADVICE_ON_MACHINES = {
    psycopg2.errorcodes.INTERNAL_ERROR: "run it again when that machine runs",
    psycopg2.errorcodes.UNDEFINED_FUNCTION: "run CREATE EXTENSION citus in this database of that machine",
    psycopg2.errorcodes.UNDEFINED_OBJECT: (
        "create it on each machine: CREATE ROLE does that in a database with the extension citus, and in no other"
    ),
}
"""The same for errors of another machine of a cluster."""

_ADVICE_ON_RUN_NUMBERS = (
    "new runs would get the numbers of existing ones, as after a restore; run: "
    "SELECT setval(pg_get_serial_sequence('payproc.runs', 'run_id'), max(run_id)) FROM payproc.runs"
)

_NOISE = ("Is the server running", "This probably means", "before or while processing", "DETAIL", "LINE ")
"""Beginnings of lines that libpq adds, with a guess or a position."""


def describe_error(
    error: psycopg2.Error, where: str, *, password: str | None = None, cause: str | None = None
) -> CannotFinish:
    """Describe an error of the database `where` in one line: the server's words, then advice.

    `cause` replaces the driver's words about a lost connection. `password` is masked.
    """
    message = _mask(_extract_reason(error), password, where)
    if is_about_connection(error):
        return CannotFinish(f"cannot reach the database {where}: {cause or message}")
    sqlstate = error.pgcode or ""
    advice = _ADVICE_BY_SQLSTATE.get(sqlstate) or _ADVICE_BY_SQLSTATE.get(sqlstate[:2]) or ""
    if _is_from_machine(error):
        advice = _ADVICE_ON_MACHINES.get(sqlstate, advice)
        if machine := _CITUS_MACHINE.search(error.diag.context or ""):
            message = f"{message} (machine {machine[1]})"
    if error.diag.constraint_name == "runs_have_one_number":
        advice = _ADVICE_ON_RUN_NUMBERS
    return CannotFinish(f"the database {where} refused: {message}{advice and '; '}{advice}")


def is_about_connection(error: psycopg2.Error) -> bool:
    """Return whether the connection is dead or could not be opened.

    Such errors come from libpq and have no SQLSTATE. The driver may still report a dead connection
    as open.
    """
    return not error.pgcode and type(error) in (psycopg2.OperationalError, psycopg2.DatabaseError)


def is_transient(error: Exception) -> bool:
    """Return whether the same work may succeed a moment later."""
    return isinstance(error, psycopg2.Error) and (
        error.pgcode in _TRANSIENT or (error.pgcode == psycopg2.errorcodes.INTERNAL_ERROR and _is_from_machine(error))
    )


def is_about_content(error: psycopg2.Error) -> bool:
    """Return whether the database refuses to store the content itself."""
    sqlstate = error.pgcode or ""
    return sqlstate[:2] == _DATA_EXCEPTION or sqlstate == psycopg2.errorcodes.STATEMENT_TOO_COMPLEX


def is_lost_race(error: psycopg2.errors.UniqueViolation) -> bool:
    """Return whether another process has recorded the event, or opened the payment, first."""
    # Citus does not pass on the name of the key. On its tables no other key can end a CALL. If it
    # runs the CALL on the coordinator, the name is that of the shard's key.
    key = _SHARD_NUMBER.sub("", error.diag.constraint_name or "")
    return key in _RACE_KEYS or _is_from_machine(error)


def is_about_privileges(error: CannotFinish) -> bool:
    """Return whether the role lacks a privilege for the statement that failed."""
    return isinstance(error.__cause__, psycopg2.errors.InsufficientPrivilege)


def _is_from_machine(error: psycopg2.Error) -> bool:
    """Return whether another machine of a Citus cluster has raised the error, or was lost."""
    return error.diag.source_file in _CITUS_FILES


def _extract_reason(error: psycopg2.Error) -> str:
    """Return the words of the server or of libpq, without repetition or layout."""
    reasons: list[str] = []
    for line in (error.diag.message_primary or str(error)).splitlines():
        # libpq: 'connection to server at "db" (10.0.0.1), port 5432 failed: FATAL:  database "x"
        # does not exist'
        reason = line.rpartition(" failed: ")[2].replace("FATAL:  ", "").strip()
        if reason and reason not in reasons and not reason.startswith(_NOISE):
            reasons.append(reason)
    return "; ".join(reasons)


def _mask(message: str, password: str | None, where: str) -> str:
    """Mask the password if a server or a proxy quotes it, or shows it in a URL.

    libpq never prints it. A mask anywhere else would reveal that an ordinary word is the password.
    So would one over a name in `where`.
    """
    if not password or password in re.split("[/:@,?]+", where):
        return message
    for before, after in ('""', "''", ":@"):
        message = message.replace(f"{before}{password}{after}", f"{before}***{after}")
    return message
