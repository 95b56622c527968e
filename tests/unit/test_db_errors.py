"""Errors of the database: their kind, and the line that a user gets.

Belongs here: anything about `payproc.db.errors`, with errors made here instead of by a server.
"""

from types import SimpleNamespace
from typing import NamedTuple, cast

import psycopg2
import psycopg2.errors
import pytest

from payproc.db.errors import (
    describe_error,
    is_about_connection,
    is_about_content,
    is_about_privileges,
    is_lost_race,
    is_transient,
)
from payproc.errors import CannotFinish

WHERE = "postgresql://alice@db/payments"


def make_error(sqlstate: str | None, message: str = "no") -> psycopg2.Error:
    """Return the driver's error for a SQLSTATE; None makes one of the client library's own."""
    kind = psycopg2.errors.lookup(sqlstate) if sqlstate else psycopg2.OperationalError
    error = kind(message)
    error.__setstate__({"pgcode": sqlstate})  # type: ignore[no-untyped-call]
    return error


def describe(sqlstate: str | None, message: str, **more: str) -> str:
    return str(describe_error(make_error(sqlstate, message), WHERE, **more))


@pytest.mark.parametrize(
    ("sqlstate", "advice"),
    [
        (
            "42501",
            "payproc needs its schema once (an owner runs `payproc init`) and, on schema payproc, USAGE on the "
            "schema, SELECT, INSERT and UPDATE on its tables, and EXECUTE on its procedure",
        ),
        ("25006", "connect to the primary, with a role that may write"),
        (
            "23505",
            "the stored data is inconsistent: the tables were edited manually or restored "
            "in part; see `payproc verify`",
        ),
        ("57014", "if it was a timeout, raise statement_timeout for this role"),
        ("53100", "free some space and run it again"),
        ("53300", "use fewer --workers or raise max_connections"),
        ("08006", "run it again when that machine runs, and has this database and role"),
        ("40001", "run it again"),
        ("40P01", "run it again"),
        ("57P01", "run it again when the server is back"),
    ],
)
def test_describe_error_gives_advice(sqlstate: str, advice: str) -> None:
    assert describe(sqlstate, "no") == f"the database {WHERE} refused: no; {advice}"


def test_describe_error_without_advice() -> None:
    assert describe("42601", "syntax error") == f"the database {WHERE} refused: syntax error"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('connection to server at "db" (10.0.0.1), port 5432 failed: FATAL:  no such database\n', "no such database"),
        (
            "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally\n"
            "\tbefore or while processing the request.\n",
            "server closed the connection unexpectedly",
        ),
        (
            'connection to server at "a", port 1 failed: Connection refused\n\tIs the server running on that host?\n'
            'connection to server at "b", port 1 failed: Connection refused\n\tIs the server running on that host?\n',
            "Connection refused",
        ),
        (
            'connection to server at "a", port 1 failed: Connection refused\n'
            'connection to server at "b", port 1 failed: timeout expired\n',
            "Connection refused; timeout expired",
        ),
    ],
    ids=["prefix", "guess", "repetition", "two reasons"],
)
def test_describe_lost_connection(message: str, reason: str) -> None:
    assert describe(None, message) == f"cannot reach the database {WHERE}: {reason}"


def test_describe_lost_connection_with_a_known_cause() -> None:
    assert describe(None, "server closed", cause="out of memory") == f"cannot reach the database {WHERE}: out of memory"


def test_describe_other_error_without_the_cause() -> None:
    assert describe("42601", "syntax error", cause="out of memory").endswith("refused: syntax error")


@pytest.mark.parametrize(
    ("message", "masked"),
    [
        ('no "s3cret" here', 'no "***" here'),
        ("no 's3cret' here", "no '***' here"),
        ("at postgresql://u:s3cret@h", "at postgresql://u:***@h"),
        ("the word s3cret", "the word s3cret"),  # a mask would tell that it is the password
    ],
)
def test_describe_error_masks_the_password(message: str, masked: str) -> None:
    assert describe("42601", message, password="s3cret").endswith(f"refused: {masked}")


def test_describe_error_masks_no_part_of_the_name() -> None:
    assert describe("42601", 'database "payments"', password="payments").endswith('refused: database "payments"')


# --- errors of another machine of a Citus cluster -------------------------------------------------


class MachineDiag(NamedTuple):
    """The fields of an error that Citus reports for another machine."""

    message_primary: str
    context: str = "while executing command on 10.0.0.2:5432\nSQL statement"
    source_file: str = "remote_commands.c"
    constraint_name: None = None


def make_machine_error(sqlstate: str, message: str) -> psycopg2.Error:
    """Return the driver's error for an error of another machine."""
    kind = psycopg2.errors.lookup(sqlstate)
    error: psycopg2.Error = type(kind.__name__, (kind,), {"diag": MachineDiag(message)})(message)
    error.__setstate__({"pgcode": sqlstate})  # type: ignore[no-untyped-call]
    return error


@pytest.mark.parametrize(
    ("sqlstate", "message", "advice"),
    [
        ("XX000", "server closed the connection unexpectedly", "run it again when that machine runs"),
        (
            "42704",
            'role "alice" does not exist',
            "create it on each machine: CREATE ROLE does that in a database with the extension citus, and in no other",
        ),
        (
            "42883",
            "function assign_distributed_transaction_id(integer) does not exist",
            "run CREATE EXTENSION citus in this database of that machine",
        ),
        ("53100", "no space left on device", "free some space and run it again"),
    ],
)
def test_describe_error_names_the_machine(sqlstate: str, message: str, advice: str) -> None:
    assert str(describe_error(make_machine_error(sqlstate, message), WHERE)) == (
        f"the database {WHERE} refused: {message} (machine 10.0.0.2:5432); {advice}"
    )


def test_unique_violation_of_a_machine_is_a_lost_race() -> None:
    """Citus does not pass on the name of the key."""
    error = make_machine_error("23505", 'duplicate key value violates unique constraint "payments_have_one_state_17"')
    assert isinstance(error, psycopg2.errors.UniqueViolation)
    assert is_lost_race(error)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("payments_have_one_state", True),
        ("payments_have_one_state_102008", True),  # of a shard, on a coordinator that holds shards
        ("events_are_recorded_once_102040", True),
        ("runs_have_one_number", False),
        (None, False),
    ],
)
def test_lost_race_is_told_by_its_key(key: str | None, expected: bool) -> None:
    error = SimpleNamespace(diag=SimpleNamespace(constraint_name=key, source_file="nbtinsert.c"))
    assert is_lost_race(cast("psycopg2.errors.UniqueViolation", error)) is expected


def test_lost_machine_is_transient() -> None:
    """An internal error of the server itself is not, because it would not pass."""
    assert is_transient(make_machine_error("XX000", "server closed the connection unexpectedly"))
    assert not is_transient(make_machine_error("42704", "no role"))
    assert not is_transient(make_error("XX000"))


# --- kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("40001", {"transient"}),
        ("40P01", {"transient"}),
        ("57P01", {"transient"}),
        ("57P02", {"transient"}),
        ("57P03", {"transient"}),
        ("08006", {"transient"}),
        ("22P05", {"content"}),
        ("22021", {"content"}),
        ("54001", {"content"}),
        (None, {"connection"}),
        ("53100", set()),
        ("57014", set()),
        ("23505", set()),
        ("25006", set()),
        ("42501", set()),
    ],
)
def test_kind_of_error(sqlstate: str | None, expected: set[str]) -> None:
    error = make_error(sqlstate)
    kinds = {"transient": is_transient, "content": is_about_content, "connection": is_about_connection}
    assert {kind for kind, is_kind in kinds.items() if is_kind(error)} == expected


def test_drivers_own_error_is_no_connection_error() -> None:
    assert not is_about_connection(psycopg2.InterfaceError("cursor already closed"))
    assert not is_about_connection(psycopg2.ProgrammingError("no results to fetch"))


def test_cannot_finish_is_not_transient() -> None:
    assert not is_transient(CannotFinish("no"))


def test_unique_violation_without_key_is_no_lost_race() -> None:
    error = make_error("23505")
    assert isinstance(error, psycopg2.errors.UniqueViolation)
    assert not is_lost_race(error)


@pytest.mark.parametrize(("sqlstate", "expected"), [("42501", True), ("40001", False), (None, False)])
def test_is_about_privileges_looks_at_the_cause(sqlstate: str | None, expected: bool) -> None:
    failure = CannotFinish("no")
    failure.__cause__ = make_error(sqlstate)
    assert is_about_privileges(failure) is expected
    assert not is_about_privileges(CannotFinish("no"))
