"""Transactions on a real database: commit, rollback, lost connection."""

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, closing

import psycopg2.extensions
import pytest

from payproc.db.connection import Database
from payproc.errors import CannotFinish
from tests.support.postgres import Sql

Opened = psycopg2.extensions.cursor | psycopg2.extensions.connection

OPEN_RUN = "INSERT INTO payproc.runs (sources) VALUES ('{test}')"


def cut(connection: psycopg2.extensions.connection) -> None:
    """Cut the link as a network does, so neither side can send a last message."""
    with closing(socket.socket(fileno=os.dup(connection.fileno()))) as link:
        link.shutdown(socket.SHUT_RDWR)


def check_lost(message: str, database: Database) -> None:
    """Check for one line without libpq's guesses."""
    assert message.startswith(f"cannot reach the database {database.where}: ")
    assert "closed" in message
    assert "probably" not in message
    assert "\n" not in message


def runs(sql: Sql) -> int:
    return int(sql.value("SELECT count(*) FROM payproc.runs"))


def test_transaction_commits_at_its_end(database: Database, sql: Sql) -> None:
    with database.transaction() as cursor:
        cursor.execute(OPEN_RUN)
    assert runs(sql) == 1


def test_transaction_rolls_back_on_an_error(database: Database, sql: Sql) -> None:
    with pytest.raises(CannotFinish, match="of mine"), database.transaction() as cursor:  # noqa: PT012
        cursor.execute(OPEN_RUN)
        raise CannotFinish("of mine")
    assert runs(sql) == 0


@pytest.mark.parametrize("at_commit", [False, True], ids=["in a statement", "at its commit"])
def test_transaction_on_a_cut_link_cannot_finish(database: Database, sql: Sql, at_commit: bool) -> None:
    with pytest.raises(CannotFinish) as caught, database.transaction() as cursor:  # noqa: PT012
        cursor.execute(OPEN_RUN)
        cut(cursor.connection)
        if not at_commit:
            cursor.execute("SELECT 1")
    check_lost(str(caught.value), database)
    assert runs(sql) == 0


def test_transaction_after_a_lost_link_cannot_finish(database: Database, sql: Sql) -> None:
    """The server ended it right after the last commit, so nothing has failed yet."""
    with closing(database.connect()) as connection:
        sql.value("SELECT pg_terminate_backend(%s, 30000)", connection.info.backend_pid)
        with pytest.raises(psycopg2.OperationalError), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        with (
            pytest.raises(CannotFinish, match=r"cannot reach the database .*: the server closed the connection"),
            database.transaction_on(connection),
        ):
            pass


def test_snapshot_on_a_cut_link_cannot_finish(database: Database) -> None:
    with pytest.raises(CannotFinish) as caught, database.snapshot() as connection:  # noqa: PT012
        cut(connection)
        connection.cursor().execute("SELECT 1")
    check_lost(str(caught.value), database)


@pytest.mark.parametrize("opened", [Database.transaction, Database.snapshot], ids=["transaction", "snapshot"])
def test_early_exit_rolls_back_before_closing(
    database: Database, monkeypatch: pytest.MonkeyPatch, opened: Callable[[Database], AbstractContextManager[Opened]]
) -> None:
    """A pool drops a connection that is closed within a transaction."""
    at_the_end = []

    class Watched(psycopg2.extensions.connection):
        def close(self) -> None:
            at_the_end.append(self.get_transaction_status())
            super().close()

    monkeypatch.setitem(database._parameters, "connection_factory", Watched)
    with pytest.raises(ZeroDivisionError), opened(database) as inside:  # noqa: PT012
        cursor = inside if isinstance(inside, psycopg2.extensions.cursor) else inside.cursor()
        cursor.execute("SELECT 1")
        1 / 0  # noqa: B018
    assert at_the_end == [psycopg2.extensions.TRANSACTION_STATUS_IDLE]
