"""Servers as other people run them: strict, restarted, behind a pool, in a hurry, full, or read-only.

Whatever the server does, a run ends right, or with one clear line and exit code 1; then what it has reported is
recorded, and running it again completes the job. Everything here is real: servers of the test's own with settings of
their own, the installed command as a process, a full disk that is one.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from sqlalchemy import URL

from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.server import running_server
from tests.support.command import Payproc
from tests.support.events import event_line, messy_lines, write_lines
from tests.support.postgres import NewDatabase, Sql, SqlOn, contents, wait_for
from tests.support.servers import IS_ROOT, POSTGRES_VERSION, OwnServer, OwnServers, Pristine, as_owner_of, new_folder
from tests.support.tally import count

Contents = dict[str, list[tuple[Any, ...]]]

slow = pytest.mark.slow

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
MEGABYTE = 1 << 20

NOT_RECORDED = ("duplicate_event", "event_id_conflict")
"""Reasons of events that are not new under their event_id."""


@pytest.fixture
def uninterrupted(
    tmp_path: Path, new_database: NewDatabase, template: str, sql_on: SqlOn
) -> Callable[[Sequence[bytes]], tuple[list[dict[str, Any]], Contents]]:
    """Gives what a run over these lines from standard input that nothing disturbs decides, and what it leaves."""

    def run(lines: Sequence[bytes]) -> tuple[list[dict[str, Any]], Contents]:
        url = new_database(template)
        finished = Payproc(tmp_path, url)("ingest", "-", "--quiet", "--decisions", "-", stdin=joined(lines))
        return decisions_in(finished.stdout), contents(sql_on(url))

    return run


Uninterrupted = Callable[[Sequence[bytes]], tuple[list[dict[str, Any]], Contents]]


def joined(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def decisions_in(text: str) -> list[dict[str, Any]]:
    """The decisions in a file of them, the last of which may be cut off."""
    return [json.loads(row) for row in text.split("\n")[:-1]]


def error(code: int, stderr: str) -> str:
    """The one line that a command which could not finish says, apart from which database, which lines, what waits."""
    assert code == 1, stderr
    others = r"payproc: database|<stdin>:|\S+\.jsonl:\d+: |… and |[\d,]+ events? waits? for a person"
    (said,) = (row for row in stderr.splitlines() if not re.match(others, row))
    return said.removeprefix("payproc: ")


Decision = tuple[str, ...]
"""event_id, payment_id, type, outcome, reason, state before, state after."""


def recorded(sql: Sql) -> set[Decision]:
    """Every decision that is on record."""
    query = (
        "SELECT event_id, payment_id, type::text, outcome::text, reason::text, state_before::text, state_after::text"
        " FROM payproc.events"
    )
    return set(sql.rows(query))


def new_in(decisions: Sequence[dict[str, Any]]) -> list[Decision]:
    """What decisions report as new."""
    fields = ("event_id", "payment_id", "type", "outcome", "reason", "state_before", "state_after")
    new = (each for each in decisions if each.get("reason", NOT_RECORDED[0]) not in NOT_RECORDED)
    return [tuple(each[field] for field in fields) for each in new]


def verifies(payproc: Payproc) -> None:
    """Let the command check the books itself."""
    finished = payproc("verify")
    assert (finished.code, finished.stdout.splitlines()[-1].endswith("the books are right")) == (0, True), finished


# ---- SERIALIZABLE --------------------------------------------------------------------------------


SERIALIZABLE = "default_transaction_isolation = 'serializable'"
COULD_NOT_SERIALIZE = "ERROR:  could not serialize access"


def test_where_serializable_is_the_default_a_failed_transaction_is_tried_again_and_its_batch_reported_as_new(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn
) -> None:
    server = own_server(SERIALIZABLE)
    payproc, sql = Payproc(tmp_path, server.url), sql_on(server.url)
    write_lines(tmp_path / "first.jsonl", [event_line("e1", "p1", "authorize")])
    write_lines(
        tmp_path / "day.jsonl",
        [event_line(f"a{n}", f"q{n}", "authorize") for n in range(50)] + [event_line("e2", "p1", "capture")],
    )
    payproc.summary("first.jsonl")
    with closing(sql.connect()) as other, other.cursor() as cursor:
        other.set_session(isolation_level="READ COMMITTED", autocommit=False)
        cursor.execute("UPDATE payproc.payments SET created_at = now() WHERE payment_id = 'p1'")
        process = payproc.start("ingest", "day.jsonl", "--workers", "1", "--format", "json")
        sql.wait_for_blocked_call()
        other.commit()  # whoever waited for this row now sees it changed after its own snapshot
        stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr.decode()
    assert json.loads(stdout)["reasons"] == {"transition": 51}
    assert server.logged(COULD_NOT_SERIALIZE) == 1
    assert sql.value("SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()") >= 1
    verifies(payproc)
    count("serialization failures, all tried again", 1)


@slow
def test_where_serializable_is_the_default_processes_side_by_side_report_every_event_as_new_exactly_once(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn
) -> None:
    server = own_server(SERIALIZABLE)
    payproc, sql = Payproc(tmp_path, server.url), sql_on(server.url)
    day = joined(messy_lines(11, 4000))
    processes = [start(payproc, "-", number, stdin=subprocess.PIPE) for number in range(4)]
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'payproc'"
    wait_for(lambda: sql.value(sessions) == 2 * len(processes))  # so that they work at the same time
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(day)
    decisions = decisions_of(payproc, processes)
    assert sorted(new_in(decisions)) == sorted(recorded(sql))
    assert server.logged(COULD_NOT_SERIALIZE) > 0
    verifies(payproc)
    count("serialization failures, all tried again", server.logged(COULD_NOT_SERIALIZE))


def start(payproc: Payproc, source: str, number: int, **options: Any) -> "subprocess.Popen[bytes]":
    """Start an ingest that writes its decisions to a file with this number."""
    process: subprocess.Popen[bytes] = payproc.start(
        "ingest", "-q", source, "--decisions", f"{number}.decisions", **options
    )
    return process


def decisions_of(payproc: Payproc, processes: Sequence["subprocess.Popen[bytes]"]) -> list[dict[str, Any]]:
    """Wait for ingests that were started; give the decisions of them all."""
    for process in processes:
        _, stderr = process.communicate()
        assert process.returncode == 3, stderr.decode()
    files = (payproc.folder / f"{number}.decisions" for number in range(len(processes)))
    return [each for file in files for each in decisions_in(file.read_text())]


# ---- Connections that are cut --------------------------------------------------------------------


def test_a_backend_terminated_in_mid_batch_is_replaced_and_nothing_is_reported_as_a_duplicate(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn
) -> None:
    server = own_server()
    payproc, sql = Payproc(tmp_path, server.url), sql_on(server.url)
    write_lines(tmp_path / "first.jsonl", [event_line("e1", "p1", "authorize")])
    write_lines(
        tmp_path / "day.jsonl",
        [event_line(f"a{n}", f"q{n}", "authorize") for n in range(99)] + [event_line("e2", "p1", "capture")],
    )
    payproc.summary("first.jsonl")
    with sql.locked_payment("p1"):
        process = payproc.start("ingest", "day.jsonl", "--workers", "1", "--format", "json")
        backend = sql.wait_for_blocked_call()
        assert sql.value("SELECT count(*) FROM payproc.events") == 100, "it is not in mid-batch"
        assert sql.value("SELECT pg_terminate_backend(%s, 30000)", backend)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr.decode()
    assert json.loads(stdout)["reasons"] == {"transition": 100}
    verifies(payproc)
    count("backends terminated in mid-batch", 1)


@slow
def test_backends_terminated_again_and_again_change_no_report_and_no_record(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn, uninterrupted: Uninterrupted
) -> None:
    server = own_server()
    payproc, sql = Payproc(tmp_path, server.url), sql_on(server.url)
    lines = messy_lines(12, 20_000)
    terminate = (
        "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
        " WHERE application_name = 'payproc' AND state = 'active'"
    )
    terminated = 0
    with Run(payproc, sql) as run:
        for start in range(0, len(lines), 2000):
            run.feed(lines[start : start + 2000])
            terminated += len(sql.rows(terminate))
    decisions, expected = uninterrupted(lines)
    assert run.decisions() == decisions
    assert contents(sql) == expected
    assert terminated > 0
    count("backends terminated in mid-batch", terminated)


class Run:
    """An ingest that is fed little by little, and ends well after all."""

    def __init__(self, payproc: Payproc, sql: Sql) -> None:
        self._payproc = payproc
        self._sql = sql

    def __enter__(self) -> "Run":
        arguments = ("ingest", "-", "--quiet", "--decisions", "reported.jsonl")
        self._process = self._payproc.start(*arguments, stdin=subprocess.PIPE)
        return self

    def feed(self, lines: Sequence[bytes]) -> None:
        """Give it lines, and come back when it has begun to record them."""
        before = self._progress()
        self._process.stdin.write(joined(lines))
        self._process.stdin.flush()
        wait_for(lambda: self._progress() > before or self._process.poll() is not None)
        assert self._process.poll() is None, self._process.stderr.read()

    def _progress(self) -> tuple[Any, ...]:
        """Grows with the first new event of a batch, and where there is none with the end of the batch."""
        ((events, active_at),) = self._sql.rows(
            "SELECT (SELECT count(*) FROM payproc.events), (SELECT max(active_at) FROM payproc.runs)"
        )
        return events, active_at or datetime.min.replace(tzinfo=timezone.utc)

    def use(self, sql: Sql) -> None:
        """Look at the database over another connection."""
        self._sql = sql

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is not None:
            self._process.kill()
        stderr = self._process.communicate(timeout=120)[1]
        if failure is not None:
            return
        assert self._process.returncode == 3, stderr.decode()  # some lines are malformed
        assert all(re.match("<stdin>:|… and ", row) for row in stderr.decode().splitlines()[1:]), stderr.decode()

    def decisions(self) -> list[dict[str, Any]]:
        return decisions_in((self._payproc.folder / "reported.jsonl").read_text())


# ---- Restarts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modes", "lines"), [(("immediate",), 6000), pytest.param(("fast", "immediate") * 3, 30_000, marks=slow)]
)
def test_a_run_rides_over_a_restart_of_the_server_and_ends_as_if_nothing_had_happened(
    own_server: OwnServers,
    tmp_path: Path,
    sql_on: SqlOn,
    uninterrupted: Uninterrupted,
    modes: Sequence[str],
    lines: int,
) -> None:
    """An immediate stop is a crash: what is not flushed is gone."""
    server = own_server()
    payproc = Payproc(tmp_path, server.url)
    day = messy_lines(13, lines)
    part = len(day) // len(modes) + 1
    with Run(payproc, sql_on(server.url)) as run:
        for number, mode in enumerate(modes):
            run.feed(day[number * part : (number + 1) * part])
            server.stop(mode)
            reported = run.decisions()
            server.start()
            sql = sql_on(server.url)
            assert set(new_in(reported)) <= recorded(sql)
            run.use(sql)
            count(f"server restarts in mid-run ({mode})", 1)
    decisions, expected = uninterrupted(day)
    assert run.decisions() == decisions
    assert contents(sql) == expected
    verifies(payproc)


@pytest.mark.parametrize("mode", [pytest.param("fast", marks=slow), "immediate"])
def test_a_server_restarted_while_the_run_waits_for_input_is_found_again(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn, uninterrupted: Uninterrupted, mode: str
) -> None:
    """The first that the client hears of it is a notice that it takes for the beginning of an answer."""
    server = own_server()
    sql = sql_on(server.url)
    lines = messy_lines(22, 400)
    with Run(Payproc(tmp_path, server.url), sql) as run:
        run.feed(lines[:200])
        wait_for(lambda: len(run.decisions()) == len([line for line in lines[:200] if line]))
        server.restart(mode)
        run.use(sql_on(server.url))
        run.feed(lines[200:])
    assert run.decisions() == uninterrupted(lines)[0]
    count(f"server restarts in mid-run ({mode})", 1)


@slow
@pytest.mark.parametrize("mode", ["immediate"])
def test_a_server_that_stays_away_ends_the_run_with_one_line_and_a_rerun_completes_it(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn, uninterrupted: Uninterrupted, mode: str
) -> None:
    server = own_server()
    payproc, sql = Payproc(tmp_path, server.url), sql_on(server.url)
    lines = messy_lines(14, 30_000)
    day = write_lines(tmp_path / "day.jsonl", lines)
    process = payproc.start("ingest", "-", "-q", "--decisions", "reported", stdin=subprocess.PIPE)
    process.stdin.write(day.read_bytes())
    wait_for(lambda: sql.value("SELECT count(*) FROM payproc.events") > 5000)
    server.stop(mode)
    _, stderr = process.communicate()
    assert error(process.returncode, stderr.decode()).startswith("cannot reach the database postgresql://")
    for command in (["show", "pay_1"], ["ingest", "day.jsonl"]):
        assert error(*payproc(*command)[::2]).startswith("cannot reach the database postgresql://")
    server.start()
    sql = sql_on(server.url)
    assert set(new_in(decisions_in((payproc.folder / "reported").read_text()))) <= recorded(sql)
    with day.open("rb") as again:
        assert payproc("ingest", "-", stdin=again.read()).code == 3
    assert contents(sql) == uninterrupted(lines)[1]
    verifies(payproc)


# ---- A pool in between ---------------------------------------------------------------------------


needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed (apt-get install pgbouncer)")


@pytest.fixture
def pooled(own_server: OwnServers) -> Iterator[Callable[[int], tuple[OwnServer, URL]]]:
    """Starts a server behind a PgBouncer in transaction mode with so many connections to it; gives both."""
    with ExitStack() as started:

        def start(connections: int) -> tuple[OwnServer, URL]:
            server = own_server()
            return server, started.enter_context(pool(server, connections))

        yield start


@contextmanager
def pool(server: OwnServer, connections: int) -> Iterator[URL]:
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
    )
    process = subprocess.Popen([PGBOUNCER or "", "-q", settings], stderr=subprocess.DEVNULL, **as_owner_of(server.data))
    try:
        wait_for((server.home / ".s.PGSQL.6432").exists)
        yield server.url.update_query_dict({"port": "6432"})
    finally:
        process.terminate()
        process.wait()


@needs_pgbouncer
@pytest.mark.parametrize("is_thorough", [False, pytest.param(True, marks=slow)])
def test_every_command_works_through_a_pool_in_transaction_mode_and_leaves_nothing_behind_in_its_session(
    pooled: Callable[[int], tuple[OwnServer, URL]],
    tmp_path: Path,
    sql_on: SqlOn,
    uninterrupted: Uninterrupted,
    is_thorough: bool,
) -> None:
    """There is one connection to the server, so that every client inherits what the one before left."""
    server, url = pooled(1)
    payproc = Payproc(tmp_path, url)
    sql_on(server.url).rows("DROP SCHEMA payproc CASCADE")
    found = session(url)
    lines = messy_lines(15, 3000)
    write_lines(tmp_path / "day.jsonl", lines)

    assert payproc("init").stdout == "created the schema payproc\n"
    assert session(url) == found
    with (payproc.folder / "day.jsonl").open("rb") as day:
        assert payproc("ingest", "-", "--workers", "8", "--quiet", stdin=day.read()).code == 3
    assert session(url) == found
    assert contents(sql_on(server.url)) == uninterrupted(lines)[1]
    waiting = [json.loads(row) for row in payproc("review", "--format", "json").stdout.splitlines()]
    resolve = ["resolve", waiting[0]["event_id"], "--dismiss", "--note", "seen", "--yes"]
    for command, code in ((resolve, 0), (["verify"], 0)):
        assert payproc(*command).code == code, command
        assert session(url) == found, command
    if is_thorough:
        for command, code in (
            (["init"], 0),
            (["ingest", "day.jsonl", "--quiet"], 3),
            (["ingest", "--dry-run", "day.jsonl", "--quiet"], 3),
            (["review"], 0),
            (["review", "--limit", "1"], 0),
            (["show", waiting[0]["payment_id"]], 0),
            (["show", "nobody has heard of it"], 1),
            (resolve, 1),
            (["resolve", waiting[1]["event_id"], "--apply", "--note", "true", "--yes"], 0),
            (["runs"], 0),
        ):
            assert payproc(*command).code == code, command
            assert session(url) == found, command


def session(url: URL) -> dict[str, Any]:
    """All that a client could find changed in the session that it gets, the number of its process included."""
    queries = {
        "backend": "SELECT pg_backend_pid()",
        # Those of PL/pgSQL turn up with the first procedure that is called.
        "settings": "SELECT name, setting FROM pg_settings WHERE name NOT LIKE 'plpgsql.%' ORDER BY name",
        "users": "SELECT session_user, current_user",
        "cursors": "SELECT name FROM pg_cursors",
        "prepared statements": "SELECT name FROM pg_prepared_statements",
        "advisory locks": "SELECT objid FROM pg_locks WHERE locktype = 'advisory'",
        "temporary tables": "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
        "channels": "SELECT pg_listening_channels()",
    }
    dsn = url.render_as_string(hide_password=False)
    with closing(psycopg2.connect(dsn, application_name="the next client")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            found = {}
            for what, query in queries.items():
                cursor.execute(query)
                found[what] = cursor.fetchall()
    return found


@slow
@needs_pgbouncer
@pytest.mark.parametrize(("connections", "lines"), [(2, 8000), (1, 2000)])
def test_processes_side_by_side_share_a_pool_that_is_smaller_than_they_are_many(
    pooled: Callable[[int], tuple[OwnServer, URL]], tmp_path: Path, sql_on: SqlOn, connections: int, lines: int
) -> None:
    server, url = pooled(connections)
    payproc = Payproc(tmp_path, url)
    write_lines(tmp_path / "day.jsonl", messy_lines(16, lines))
    decisions = decisions_of(payproc, [start(payproc, "day.jsonl", number) for number in range(3)])
    assert sorted(new_in(decisions)) == sorted(recorded(sql_on(server.url)))
    verifies(payproc)


# ---- Limits of time ------------------------------------------------------------------------------


@slow
def test_a_statement_timeout_in_mid_batch_is_one_line_and_a_rerun_with_more_time_completes(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn
) -> None:
    server = own_server("statement_timeout = '2s'")
    payproc, sql = Payproc(tmp_path, server.url), sql_on(server.url)
    write_lines(tmp_path / "first.jsonl", [event_line("e1", "p1", "authorize")])
    write_lines(
        tmp_path / "day.jsonl",
        [event_line(f"a{n}", f"q{n}", "authorize") for n in range(50)] + [event_line("e2", "p1", "capture")],
    )
    payproc.summary("first.jsonl")
    with sql.locked_payment("p1"):
        finished = payproc("ingest", "day.jsonl", "--workers", "1", "--decisions", "-")
    assert error(*finished[::2]).endswith(
        "refused: canceling statement due to statement timeout; "
        "if it was a timeout, raise statement_timeout for this role"
    )
    assert finished.stdout == "", "what was not flushed was reported"
    assert sql.value("SELECT count(*) FROM payproc.events") == 51, "it was not in mid-batch"
    server.configure("statement_timeout = '1min'")
    server.restart("fast")
    summary = payproc.summary("day.jsonl")
    assert summary["reasons"] == {"transition": 1, "duplicate_event": 50}
    verifies(payproc)


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
def test_a_run_rides_over_connections_that_the_server_closes_for_being_slow(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn, uninterrupted: Uninterrupted, limit: str
) -> None:
    server = own_server(limit)
    lines = messy_lines(17, 1000)
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'payproc'"
    sql = sql_on(server.url.update_query_dict({"options": "-cidle_session_timeout=0"}))  # only the run is in a hurry
    with Run(Payproc(tmp_path, server.url), sql) as run:
        run.feed(lines[:500])
        if "idle_session" in limit:
            wait_for(lambda: sql.value(sessions) == 0)
        run.feed(lines[500:])
    decisions, expected = uninterrupted(lines)
    assert run.decisions() == decisions
    assert contents(sql) == expected


# ---- Read-only -----------------------------------------------------------------------------------


READING: tuple[list[str], ...] = (
    ["review"],
    ["review", "--format", "json"],
    ["verify"],
    ["runs"],
    ["runs", "--format", "json"],
)


@slow
@pytest.mark.parametrize("is_thorough", [False, True])
def test_a_standby_answers_every_question_and_sends_whoever_wants_to_write_to_the_primary(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn, is_thorough: bool
) -> None:
    primary = own_server("wal_level = replica", "max_wal_senders = 4")
    on_primary = Payproc(tmp_path, primary.url)
    write_lines(tmp_path / "day.jsonl", messy_lines(18, 600))
    with standby_of(primary) as standby:
        on_standby = Payproc(tmp_path, standby.url)
        assert on_primary("ingest", "day.jsonl", "--quiet").code == 3  # it arrives there by replication
        written = sql_on(primary.url).value("SELECT pg_current_wal_lsn()")
        replica = sql_on(standby.url)
        wait_for(lambda: replica.value("SELECT pg_last_wal_replay_lsn() >= %s", written))
        waiting = json.loads(on_primary("review", "--format", "json", "--limit", "1").stdout)

        questions = [["show", waiting["payment_id"], "--format", "json"]]
        if is_thorough:
            questions += [["show", waiting["payment_id"]], *READING]
        for question in questions:
            there, here = on_primary(*question), on_standby(*question)
            assert (here.code, without_ages(here.stdout)) == (there.code, without_ages(there.stdout)), question
            assert here.code == 0
        if is_thorough:
            rehearsal = ("ingest", "--dry-run", "day.jsonl", "--format", "json")
            there, here = json.loads(on_primary(*rehearsal).stdout), json.loads(on_standby(*rehearsal).stdout)
            assert {**here, "elapsed_seconds": 0, "database": ""} == {**there, "elapsed_seconds": 0, "database": ""}
            assert on_standby("init").stdout == "the schema payproc is up to date\n"

        before = contents(replica)
        refused = "in a read-only transaction; connect to the primary, with a role that may write"
        assert error(*on_standby("ingest", "day.jsonl")[::2]).endswith(refused)
        resolve = ("resolve", waiting["event_id"], "--dismiss", "--note", "seen", "--yes")
        assert error(*on_standby(*resolve)[::2]).endswith(refused)
        assert contents(replica) == before
        assert on_primary(*resolve).code == 0


def without_ages(output: str) -> str:
    """A table without how long ago something was."""
    return re.sub(r"\b\d+ s\b", "N s", output)


@contextmanager
def standby_of(primary: OwnServer) -> Iterator[OwnServer]:
    """A hot standby that follows a running server."""
    home = new_folder()
    try:
        if IS_ROOT:
            owner = primary.home.stat()
            os.chown(home, owner.st_uid, owner.st_gid)
        standby = OwnServer(home, primary.programs)
        source = ("-h", primary.home, "-U", SUPERUSER)
        primary.run("pg_basebackup", *source, "-D", standby.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        standby.configure(f"unix_socket_directories = '{home}'")
        standby.start()
        yield standby
        standby.stop()
    finally:
        if (home / "data" / "postmaster.pid").exists():
            standby.stop("immediate")
        shutil.rmtree(home)


@slow
def test_a_role_that_may_only_read_answers_every_question_and_is_refused_in_one_line_when_it_wants_to_write(
    own_server: OwnServers, tmp_path: Path, sql_on: SqlOn
) -> None:
    server = own_server()
    owner, sql = Payproc(tmp_path, server.url), sql_on(server.url)
    write_lines(tmp_path / "day.jsonl", messy_lines(19, 300))
    assert owner("ingest", "day.jsonl", "--quiet").code == 3
    waiting = json.loads(owner("review", "--format", "json", "--limit", "1").stdout)
    sql.rows("CREATE ROLE reader LOGIN")
    sql.rows("GRANT USAGE ON SCHEMA payproc TO reader")
    sql.rows("GRANT SELECT ON ALL TABLES IN SCHEMA payproc TO reader")
    before = contents(sql)
    reader = Payproc(tmp_path, server.url.set(username="reader"))
    resolve = ("resolve", waiting["event_id"], "--dismiss", "--note", "seen", "--yes")
    for setting, said in (
        ("off", "refused: permission denied for "),
        ("on", "in a read-only transaction; connect to the primary, with a role that may write"),
    ):
        sql.rows(f"ALTER ROLE reader SET default_transaction_read_only = {setting}")
        for command in (["review"], ["verify"], ["runs"], ["show", waiting["payment_id"]]):
            assert without_ages(reader(*command).stdout) == without_ages(owner(*command).stdout), command
        assert said in error(*reader("ingest", "day.jsonl")[::2])
        assert said in error(*reader(*resolve)[::2])
    assert contents(sql) == before
    assert owner(*resolve).code == 0


# ---- A disk that is full -------------------------------------------------------------------------


only_root = pytest.mark.skipif(not IS_ROOT, reason="a small disk can be mounted only by root: run this once as root")


class Disk:
    """A small disk that can be filled and freed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, leave: int) -> None:
        """Leave so many bytes."""
        status = os.statvfs(self.folder)
        with self._ballast.open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, status.f_bavail * status.f_frsize - leave)

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk of 200 MB, in memory."""
    folder = new_folder()
    mount: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "size=200m,mode=755", "tmpfs", folder]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("this root may not mount a disk: run it with the capability SYS_ADMIN")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


@only_root
@pytest.mark.parametrize(
    ("on_the_disk", "leave", "said"),
    [
        pytest.param("data", 4 * MEGABYTE, "could not extend file", marks=slow),
        pytest.param("log of changes", 4 * MEGABYTE, "its server has ended: .*(PANIC|FATAL).*pg_wal", marks=slow),
        pytest.param("everything", 10 * MEGABYTE, "", marks=slow),
    ],
)
def test_a_disk_that_fills_up_under_the_embedded_server_is_one_line_and_once_there_is_room_a_rerun_completes(
    disk: Disk,
    pristine: Pristine,
    tmp_path: Path,
    uninterrupted: Uninterrupted,
    sql_on: SqlOn,
    on_the_disk: str,
    leave: int,
    said: str,
) -> None:
    """Where data cannot grow, the server goes on; where the log of changes cannot, it panics and may stay down."""
    lines = messy_lines(20, 30_000)
    day = write_lines(tmp_path / "day.jsonl", lines)
    with home_on(disk, pristine, on_the_disk) as home:
        payproc = Payproc(tmp_path, None)
        payproc.environment["PAYPROC_HOME"] = str(home)
        disk.fill(leave)
        for reported in ("first.jsonl", "second.jsonl"):
            finished = payproc("ingest", "-", "--decisions", reported, stdin=day.read_bytes())
            line = error(*finished[::2])
            assert "No space left on device" in line
            assert reported == "second.jsonl" or re.search(said, line), line
        disk.free()
        with running_server(home) as server:
            sql = sql_on(
                URL.create("postgresql", SUPERUSER, database="postgres", query={"host": str(server.socket_folder)})
            )
            decisions = decisions_in((payproc.folder / "first.jsonl").read_text())
            assert decisions, "nothing was reported before the disk was full"
            assert len(decisions) < len(lines) // 2, "the disk was not full"
            assert set(new_in(decisions)) <= recorded(sql)
            assert payproc("ingest", "-", "--quiet", stdin=day.read_bytes()).code == 3
            assert contents(sql) == uninterrupted(lines)[1]
            verifies(payproc)
            sql.close()


@contextmanager
def home_on(disk: Disk, pristine: Pristine, what: str) -> Iterator[Path]:
    """The home of an embedded server with all or part of it on a small disk."""
    elsewhere = new_folder()
    try:
        home = (elsewhere if what == "log of changes" else disk.folder) / "home"
        subprocess.run(["cp", "-a", pristine.home, home], check=True)
        if what != "everything":
            other_place = (disk.folder if what == "log of changes" else elsewhere) / "pg_wal"
            shutil.copytree(home / "data" / "pg_wal", other_place)
            subprocess.run(["cp", "-a", "--", f"{home}/data/pg_wal/.", other_place], check=True)
            owner = (home / "data").stat()
            os.chown(other_place, owner.st_uid, owner.st_gid)
            shutil.rmtree(home / "data" / "pg_wal")
            (home / "data" / "pg_wal").symlink_to(other_place)
            elsewhere.chmod(0o755)
        yield home
    finally:
        shutil.rmtree(elsewhere)


@slow
@only_root
@pytest.mark.parametrize("leave", [0, 8, 30, 38])
def test_an_embedded_server_that_finds_no_room_to_be_created_says_so_in_one_line_and_is_created_once_there_is_some(
    disk: Disk, tmp_path: Path, leave: int
) -> None:
    payproc = Payproc(tmp_path, None)
    payproc.environment["PAYPROC_HOME"] = str(disk.folder / "home")
    disk.fill(leave * MEGABYTE)
    finished = payproc("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    assert finished.code == 1, finished
    *notes, said = finished.stderr.splitlines()
    assert "No space left on device" in said
    assert all(re.match("payproc: (creating|copying|database)", note) for note in notes), notes
    disk.free()
    assert payproc.summary("-", stdin=event_line("e1", "p1", "authorize"))["outcomes"]["APPLY"] == 1
    verifies(payproc)


@only_root
@pytest.mark.parametrize(
    "option",
    [
        pytest.param("--decisions", marks=slow),
        pytest.param("--malformed", marks=slow),
        pytest.param("a long line on its way to --malformed", marks=slow),
    ],
)
def test_an_output_on_a_full_disk_ends_the_run_with_one_line_and_a_rerun_completes_it(
    disk: Disk, payproc: Payproc, sql: Sql, tmp_path: Path, option: str, uninterrupted: Uninterrupted
) -> None:
    lines = [b"x" * 700 if line.startswith(b"not") else line for line in messy_lines(21, 8000)]
    if option.startswith("a long line"):
        lines.append(b"x" * 4 * MEGABYTE)
    day = write_lines(tmp_path / "day.jsonl", lines)
    disk.fill(16_000)
    output = ["--malformed", "malformed"] if option.startswith("a long line") else [option, str(disk.folder / "output")]
    finished = payproc("ingest", "-", *output, stdin=day.read_bytes(), env={"TMPDIR": str(disk.folder)})
    said = error(*finished[::2])
    assert "No space left on device" in said
    assert said.startswith(
        "<stdin>: a line too long to be an event cannot be kept for --malformed in the folder for temporary files"
        if option.startswith("a long line")
        else f"{option}: cannot be written: No space left on device; what was recorded stays recorded"
    )
    disk.free()
    assert payproc("ingest", "-", *output, stdin=day.read_bytes()).code == 3
    assert contents(sql) == uninterrupted(lines)[1]
    verifies(payproc)
