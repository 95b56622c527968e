"""The flush at the end of a batch, on a server of its own that is stopped as by a power cut."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from payproc.batch import Result
from payproc.db.connection import Database
from payproc.embedded.server import EmbeddedServer, run_server
from payproc.handlers import Recorder
from tests.support.events import input_events, reasons
from tests.support.postgres import wait_for
from tests.support.servers import Pristine, new_folder


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def home(pristine: Pristine) -> Iterator[Path]:
    """A home whose WAL writer leaves asynchronous commits in memory for 10 seconds, the maximum."""
    folder = new_folder()
    try:
        home = folder / "home"
        subprocess.run(["cp", "-a", pristine.home, home], check=True)
        folder.chmod(0o755)
        with (home / "data" / "postgresql.conf").open("a") as config:
            config.write("wal_writer_delay = 10s\nwal_writer_flush_after = 1GB\n")
        yield home
    finally:
        shutil.rmtree(folder)


def pull_the_plug(running: EmbeddedServer) -> None:
    """Stop the server at once, so that all memory is lost."""
    pid = int((running.home / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)


def open_server(running: EmbeddedServer) -> Database:
    """Return its database as the program sees it."""
    return Database(running.connect_args, "the test server")


@pytest.mark.parametrize("is_duplicate", [False, True], ids=["fresh", "duplicate of an event not yet durable"])
def test_reported_event_survives_a_power_cut(home: Path, is_duplicate: bool) -> None:
    """A duplicate repeats an event that may not be durable yet."""
    batch = input_events(("e1", "p1", "authorize"))
    with run_server(home) as running:
        database = open_server(running)
        with closing(database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO payproc.runs (sources) VALUES ('{a}'), ('{b}')")
            if is_duplicate:  # another run's event is visible to all, but only in memory
                cursor.execute("SET synchronous_commit = off")
                cursor.execute(
                    "INSERT INTO payproc.payments (payment_id, state, version) VALUES ('p1', 'authorized', 1)"
                )
                cursor.execute(
                    "INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason, state_before,"
                    " state_after, source, run_id, line, payload) VALUES ('e1', 'p1', 1, 'authorize', 'APPLY',"
                    " 'transition', 'created', 'authorized', 0, 2, 1, '{}')"
                )
        with closing(Recorder(database, 1)) as recorder:
            assert reasons(recorder.handle(batch)) == ["duplicate_event" if is_duplicate else "transition"]
            pull_the_plug(running)
        wait_for(lambda: not (home / "data" / "postmaster.pid").exists())
    with run_server(home) as running, open_server(running).transaction() as after:
        after.execute("SELECT event_id, version FROM payproc.events JOIN payproc.payments USING (payment_id)")
        assert after.fetchall() == [("e1", 1)]


def test_restart_in_mid_batch_loses_nothing_reported(home: Path, background: ThreadPoolExecutor) -> None:
    """An event that was committed in memory only is recorded again."""
    handling: Future[list[Result]]
    with run_server(home) as running:
        database = open_server(running)
        with closing(database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO payproc.runs (sources) VALUES ('{a}')")
        recorder = Recorder(database, 1)
        recorder.handle(input_events(("e0", "slow", "authorize")))
        batch = input_events(
            ("e1", "p1", "authorize"), ("e2", "slow", "capture"), ("e3", "p1", "capture"), first_line=2
        )
        with closing(database.connect()) as holder:
            holder.autocommit = False
            holder.cursor().execute("SELECT 1 FROM payproc.payments WHERE payment_id = 'slow' FOR UPDATE")
            handling = background.submit(recorder.handle, batch)
            with closing(database.connect()) as watcher, watcher.cursor() as cursor:

                def is_blocked() -> bool:
                    cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
                    return cursor.fetchall() == [(1,)]

                wait_for(is_blocked)
                cursor.execute("SELECT count(*) FROM payproc.events")
                assert cursor.fetchall() == [(2,)]  # e1 is committed, in memory only
            pull_the_plug(running)
        wait_for(lambda: not (home / "data" / "postmaster.pid").exists())
    with run_server(home):
        assert reasons(handling.result()) == ["transition", "transition", "transition"]
        recorder.close()
        with database.transaction() as after:
            after.execute("SELECT event_id FROM payproc.events ORDER BY 1")
            found = after.fetchall()
    assert found == [("e0",), ("e1",), ("e2",), ("e3",)]
