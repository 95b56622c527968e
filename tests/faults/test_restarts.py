"""Connections lost during a run: terminated backends, restarts, and a server that stays down.

A run reconnects and reports the decisions of an undisturbed run, or ends with one line and exit
code 1. In the second case all that it has reported is recorded, and a rerun completes the job.
"""

import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Payproc, RunningCommand
from tests.support.model import Fact
from tests.support.postgres import Sql, SqlOn, contents, wait_for
from tests.support.reports import DECISIONS, assert_decisions_recorded, assert_verified, error_of, read_decisions
from tests.support.servers import POSTGRES_VERSION, OwnServers
from tests.support.tally import count
from tests.support.workload import Day, expected_day, good_line, messy_day

slow = pytest.mark.slow


class FedIngest:
    """An ingest that gets its lines piece by piece, and has to end well."""

    def __init__(self, payproc: Payproc, sql: Sql) -> None:
        self.payproc = payproc
        self.sql = sql
        self.process: RunningCommand

    def __enter__(self) -> "FedIngest":
        arguments = ("ingest", "-", "--quiet", "--decisions", DECISIONS)
        self.process = self.payproc.start(*arguments, stdin=subprocess.PIPE)
        return self

    def feed(self, lines: Sequence[bytes]) -> None:
        """Write lines, and return when the process has begun to record them."""
        before = self._progress()
        self.process.stdin.write(b"".join(line + b"\n" for line in lines))
        self.process.stdin.flush()
        wait_for(lambda: self._progress() > before or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.stderr.read()

    def _progress(self) -> tuple[Any, ...]:
        """Return a value that grows during each batch, and not before the first.

        It grows with the first new event, or at the end of a batch without one.
        """
        ((events, active_at),) = self.sql.rows(
            "SELECT (SELECT count(*) FROM payproc.events),"
            " (SELECT max(active_at) FROM payproc.runs WHERE active_at > started_at)"
        )
        return events, active_at or datetime.min.replace(tzinfo=timezone.utc)

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is not None:
            self.process.kill()
        stderr = self.process.communicate(timeout=120)[1].decode()
        if failure is None:
            assert self.process.returncode == 3, stderr  # some lines are malformed
            assert all(re.match("<stdin>:|… and ", row) for row in stderr.splitlines()[1:]), stderr

    def decisions(self) -> list[dict[str, Any]]:
        """Return the decisions reported so far."""
        return read_decisions(self.payproc.folder / DECISIONS)

    def assert_equals(self, day: Day) -> None:
        """Compare decisions and records with those of an undisturbed run."""
        assert self.decisions() == day.decisions
        assert contents(self.sql) == day.contents


@slow
def test_terminated_backends_change_nothing(own_server: OwnServers, tmp_path: Path, sql_on: SqlOn) -> None:
    """Backends are terminated in mid-batch, again and again. There they wait for a payment."""
    server = own_server()
    sql = sql_on(server.url)
    lines = messy_day(12, 20_000)
    pieces = []
    for start in range(0, len(lines), 2000):
        flag = good_line(Fact(f"evt_locked_{start}", "pay_locked", "flag"))
        pieces.append([*lines[start : start + 1000], flag, *lines[start + 1000 : start + 2000]])
    day = expected_day([line for piece in pieces for line in piece])
    terminate = (
        "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
        " WHERE application_name = 'payproc' AND state = 'active'"
    )
    terminated = 0
    with FedIngest(Payproc(tmp_path, server.url), sql) as run, ThreadPoolExecutor() as pool:
        run.feed([line.raw for line in pieces[0]])
        wait_for(lambda: sql.rows("SELECT 1 FROM payproc.payments WHERE payment_id = 'pay_locked'"))
        for piece in pieces[1:]:
            with sql.locked_payment("pay_locked"):
                feeding = pool.submit(run.feed, [line.raw for line in piece])  # they may not fit into the pipe
                sql.wait_for_blocked()
                terminated += len(sql.rows(terminate))
            feeding.result()
    run.assert_equals(day)
    count("backends terminated in mid-batch", terminated)


@pytest.mark.parametrize(
    ("modes", "lines"), [(("immediate",), 2000), pytest.param(("fast", "immediate") * 3, 30_000, marks=slow)]
)
def test_restarts_in_mid_run_change_nothing(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn, modes: Sequence[str], lines: int
) -> None:
    """An immediate stop is a crash: unflushed commits are lost, and none of them was reported."""
    server = own_server()
    payproc = Payproc(tmp_path, server.url)
    day = expected_day(messy_day(13, lines))
    part = len(day.raw) // len(modes) + 1
    with FedIngest(payproc, sql_on(server.url)) as run:
        for number, mode in enumerate(modes):
            run.feed(day.raw[number * part : (number + 1) * part])
            server.stop(mode)
            reported = run.decisions()
            server.start()
            run.sql = sql_on(server.url)
            assert_decisions_recorded(reported, run.sql)
            count(f"server restarts in mid-run ({mode})", 1)
    run.assert_equals(day)
    assert_verified(payproc)


@pytest.mark.parametrize("mode", [pytest.param("fast", marks=slow), "immediate"])
def test_restart_while_waiting_for_input_is_noticed(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn, mode: str
) -> None:
    """The client first reads a notice, which it takes for the beginning of an answer."""
    server = own_server()
    day = expected_day(messy_day(22, 400))
    with FedIngest(Payproc(tmp_path, server.url), sql_on(server.url)) as run:
        run.feed(day.raw[:200])
        wait_for(lambda: len(run.decisions()) == sum(not line.is_blank for line in day.lines[:200]))
        server.restart(mode)
        run.sql = sql_on(server.url)
        run.feed(day.raw[200:])
    run.assert_equals(day)
    count(f"server restarts in mid-run ({mode})", 1)


@slow
def test_server_that_stays_down_ends_the_run(own_server: OwnServers, tmp_path: Path, sql_on: SqlOn) -> None:
    """Every command ends with one line; once the server is back, a rerun completes the job."""
    server = own_server()
    payproc, sql = Payproc(tmp_path, server.url), sql_on(server.url)
    day = expected_day(messy_day(14, 30_000))
    process = payproc.start("ingest", "-", "-q", "--decisions", DECISIONS, stdin=subprocess.PIPE)
    process.stdin.write(day.text)
    wait_for(lambda: sql.value("SELECT count(*) FROM payproc.events") > 5000)
    server.stop("immediate")
    _, stderr = process.communicate()
    assert error_of(process.returncode, stderr.decode()).startswith("cannot reach the database postgresql://")
    for command in (["show", "pay_1"], ["ingest", "-"]):
        assert error_of(*payproc(*command)[::2]).startswith("cannot reach the database postgresql://")
    server.start()
    sql = sql_on(server.url)
    assert_decisions_recorded(read_decisions(payproc.folder / DECISIONS), sql)
    assert payproc("ingest", "-", stdin=day.text).code == 3
    assert contents(sql) == day.contents
    assert_verified(payproc)


@slow
@pytest.mark.parametrize(
    "limit",
    [
        "idle_session_timeout = '50ms'",
        "idle_in_transaction_session_timeout = '50ms'",
        pytest.param(
            "transaction_timeout = '50ms'",
            marks=pytest.mark.skipif(POSTGRES_VERSION < 17, reason="PostgreSQL 16 has no such setting"),
        ),
    ],
)
def test_connections_closed_for_slowness_are_replaced(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn, limit: str
) -> None:
    """The server closes connections by its own limits of time.

    They are for the middle of the run, because its beginning is not tried again.
    """
    server = own_server()
    sql = sql_on(server.url)
    day = expected_day(messy_day(17, 1000))
    sessions = "FROM pg_stat_activity WHERE application_name = 'payproc'"
    with FedIngest(Payproc(tmp_path, server.url), sql) as run:
        run.feed(day.raw[:300])
        sql.rows(f"ALTER DATABASE postgres SET {limit}")
        sql.rows(f"SELECT pg_terminate_backend(pid, 30000) {sessions}")  # the next connections have the limit
        run.feed(day.raw[300:600])
        if "idle_session" in limit:
            wait_for(lambda: sql.value(f"SELECT count(*) {sessions}") == 0)
        run.feed(day.raw[600:])
        sql.rows("ALTER DATABASE postgres RESET ALL")
    run.assert_equals(day)
