"""The way up with several processes at once, or with a crash in a step: whole or not at all."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.support.old_schemas import BROUGHT_UP, UP_TO_DATE, NewCatalog, NewOldDatabase, catalog
from tests.support.postgres import Sql, wait_for


@contextmanager
def in_use(sql: Sql) -> Iterator[None]:
    """Read from runs in a transaction that stays open, which blocks a step in its middle."""
    with closing(sql.connect()) as reader:
        reader.autocommit = False
        with reader.cursor() as cursor:
            cursor.execute("SELECT run_id FROM payproc.runs")
        yield
        reader.rollback()


def wait_for_blocked(sql: Sql, count: int) -> list[int]:
    """Wait until this many sessions wait for a lock; return their process ids."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    def found() -> list[tuple[int]] | None:
        rows = sql.rows(query)
        return rows if len(rows) == count else None

    return [pid for (pid,) in wait_for(found)]


def test_concurrent_inits_bring_it_up_once(old: NewOldDatabase) -> None:
    """One takes a step; the others wait for it, and take the next or find the schema up to date."""
    database = old()
    with in_use(database.sql):
        processes = [database.run.process.start("init") for _ in range(3)]
        wait_for_blocked(database.sql, 3)
    lines = [line for process in processes for line in process.communicate()[0].decode().splitlines()]
    assert [process.returncode for process in processes] == [0] * 3
    assert sorted(line for line in lines if line != UP_TO_DATE) == BROUGHT_UP
    assert database.run("verify").code == 0


@pytest.mark.parametrize("ends", ["backend", "client"])
def test_crash_in_mid_step_leaves_the_old_version(old: NewOldDatabase, new_catalog: NewCatalog, ends: str) -> None:
    """A step is one transaction, and the next init takes it."""
    database = old()
    before = database.state()
    with in_use(database.sql):
        process = database.run.process.start("init", "--quiet")
        (backend,) = wait_for_blocked(database.sql, 1)
        if ends == "backend":
            assert database.sql.value("SELECT pg_terminate_backend(%s, 30000)", backend)
        else:
            process.kill()
        stdout, stderr = process.communicate()
    if ends == "backend":
        assert (process.returncode, stdout, stderr.count(b"\n")) == (1, b"", 1), stderr.decode()
    # The backend of a dead client finishes its statement, finds the client gone, and rolls back.
    wait_for(lambda: not database.sql.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s", backend))
    assert database.state() == before
    assert database.bring_up() == BROUGHT_UP
    assert catalog(database.sql) == new_catalog()
