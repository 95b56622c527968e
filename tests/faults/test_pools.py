"""Connection pools: a PgBouncer in transaction mode between payproc and its server."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy import URL

from payproc.embedded.initdb import SUPERUSER
from tests.support.command import Payproc
from tests.support.concurrency import assert_each_recorded_once
from tests.support.postgres import SqlOn, contents, wait_for
from tests.support.reports import assert_verified, read_decisions
from tests.support.servers import OwnServer, OwnServers, as_owner_of
from tests.support.workload import expected_day, messy_day

slow = pytest.mark.slow

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed (apt-get install pgbouncer)")

PooledServer = Callable[[int], tuple[OwnServer, URL]]
"""Starts a server behind a pool with this many connections to it.

Returns the server and the pool's URL.
"""


@pytest.fixture
def pooled(own_server: OwnServers) -> Iterator[PooledServer]:
    """Servers behind a pool, for one test."""
    with ExitStack() as started:

        def start(connections: int) -> tuple[OwnServer, URL]:
            server = own_server()
            return server, started.enter_context(pool(server, connections))

        yield start


@contextmanager
def pool(server: OwnServer, connections: int, *more: str) -> Iterator[URL]:
    """Run a PgBouncer in front of a server, with more settings if given."""
    settings = server.home / "pgbouncer.ini"
    settings.write_text(
        f"""
        [databases]
        * = host={server.home} port=5432 user={SUPERUSER}
        [pgbouncer]
        pool_mode = transaction
        default_pool_size = {connections}
        auth_type = any
        unix_socket_dir = {server.home}
        listen_port = 6432
        logfile = {server.home}/pgbouncer.log
        """
        + "\n".join(more)
    )
    process = subprocess.Popen([PGBOUNCER or "", "-q", settings], stderr=subprocess.DEVNULL, **as_owner_of(server.data))
    try:
        wait_for(lambda: is_listening(server.home / ".s.PGSQL.6432"))  # the file exists a moment before
        yield server.url.update_query_dict({"port": "6432"})
    finally:
        process.terminate()
        process.wait()


def is_listening(address: Path) -> bool:
    """Return whether a process accepts connections on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(address)) == 0


SESSION_STATE = {
    "backend": "SELECT pg_backend_pid()",
    # The settings of PL/pgSQL appear with the first call of a procedure.
    "settings": "SELECT name, setting FROM pg_settings WHERE name NOT LIKE 'plpgsql.%' ORDER BY name",
    "users": "SELECT session_user, current_user",
    "cursors": "SELECT name FROM pg_cursors",
    "prepared statements": "SELECT name FROM pg_prepared_statements",
    "advisory locks": "SELECT objid FROM pg_locks WHERE locktype = 'advisory'",
    "temporary tables": "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    "channels": "SELECT pg_listening_channels()",
}
"""Queries for all that one client of a pooled session could leave to the next."""


def session_state(url: URL) -> dict[str, Any]:
    """Return the state of the session that the pool gives to its next client."""
    dsn = url.render_as_string(hide_password=False)
    with closing(psycopg2.connect(dsn, application_name="the next client")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            found = {}
            for name, query in SESSION_STATE.items():
                cursor.execute(query)
                found[name] = cursor.fetchall()
    return found


@slow
@pytest.mark.parametrize("is_thorough", [False, True])
def test_commands_leave_the_pooled_session_unchanged(
    pooled: PooledServer, tmp_path: Path, sql_on: SqlOn, is_thorough: bool
) -> None:
    """The pool has one connection, so each client inherits the session of the client before."""
    server, url = pooled(1)
    payproc = Payproc(tmp_path, url)
    sql_on(server.url).rows("DROP SCHEMA payproc CASCADE")
    before = session_state(url)
    day = expected_day(messy_day(15, 3000 if is_thorough else 800))
    (payproc.folder / "day.jsonl").write_bytes(day.text)

    def run(*command: str, code: int = 0) -> str:
        finished = payproc(*command)
        assert finished.code == code, finished
        assert session_state(url) == before, command
        return finished.stdout

    assert run("init") == "created the schema payproc\n"
    run("ingest", "day.jsonl", "--workers", "8", "--quiet", code=3)
    assert contents(sql_on(server.url)) == day.contents
    pending = [json.loads(row) for row in run("review", "--format", "json").splitlines()]
    dismiss = ("resolve", pending[0]["event_id"], "--dismiss", "--note", "seen", "--yes")
    run(*dismiss)
    run("verify")
    if is_thorough:
        run("init")
        run("ingest", "day.jsonl", "--quiet", code=3)
        run("ingest", "--dry-run", "day.jsonl", "--quiet", code=3)
        run("review")
        run("review", "--limit", "1")
        run("show", pending[0]["payment_id"])
        run("show", "unknown", code=1)
        run(*dismiss, code=1)
        run("resolve", pending[1]["event_id"], "--apply", "--note", "true", "--yes")
        run("runs")


@slow
@pytest.mark.parametrize(("connections", "lines"), [(2, 8000), (1, 2000)])
def test_processes_share_a_pool_smaller_than_they_are(
    pooled: PooledServer, tmp_path: Path, sql_on: SqlOn, connections: int, lines: int
) -> None:
    """Three processes take turns at one or two connections."""
    server, url = pooled(connections)
    payproc = Payproc(tmp_path, url)
    (payproc.folder / "day.jsonl").write_bytes(expected_day(messy_day(16, lines)).text)
    arguments = ("ingest", "--quiet", "day.jsonl", "--decisions")
    processes = [payproc.start(*arguments, f"{number}.decisions") for number in range(3)]
    decisions = []
    for number, process in enumerate(processes):
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 3, stderr.decode()
        decisions += read_decisions(payproc.folder / f"{number}.decisions")
    assert_each_recorded_once([decision for decision in decisions if "event_id" in decision], sql_on(server.url))
    assert_verified(payproc)


@slow
@pytest.mark.parametrize("setting", ["", "ignore_startup_parameters = options"], ids=["refuses", "ignores"])
def test_pool_without_options_is_not_read_only(own_server: OwnServers, tmp_path: Path, setting: str) -> None:
    """So `payproc exec` does not run a program there that believes itself to be harmless."""
    server = own_server()
    with pool(server, 2, setting) as url:
        payproc = Payproc(tmp_path, url)
        refused = payproc("exec", "-q", "psql", "-c", "SELECT 1")
        assert (refused.code, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
        assert refused.stderr.endswith("; connect to the server itself instead of a pool, or add --write\n")
        written = payproc("exec", "-q", "--write", "psql", "-Atc", "SHOW transaction_read_only")
        assert written.stdout == "off\n", written
