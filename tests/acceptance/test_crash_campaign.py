"""A hundred crashes of each kind, at random moments: nothing that was reported is lost, and a rerun completes the job.

Each seed makes a messy day, the way it comes in (a file, or a pipe into which it trickles) and the moment of the crash.
After the crash everything in the decision file must be on record; after the rerun everything must be as if nothing had
happened: per payment the same events, outcomes, order and state as after an uninterrupted run, which the model gives.

A failing seed is repeated by running its test again: `pytest -m slow "FILE::TEST[SEED]"`.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import URL

from payproc.db import connection as db
from payproc.db import schema
from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.server import running_server
from tests.support.command import Payproc
from tests.support.model import Line, Model, Source
from tests.support.postgres import Contents, Sql, assert_books_right, contents, wait_for
from tests.support.tally import count
from tests.support.workload import messy_day

CRASHES_OF_A_KIND = 100
DAYS = 10
FILE = "day.jsonl"

pytestmark = pytest.mark.slow


# ---- Days, and what they must come to ----------------------------------------------------------------


class Day(NamedTuple):
    """What comes in, and what it must come to."""

    lines: list[Line]
    decisions: list[dict[str, Any]]
    contents: Contents

    @property
    def raw(self) -> list[bytes]:
        return [line.raw for line in self.lines]


@cache
def day_of(seed: int) -> Day:
    """One of ten days, of less than a batch or of more than one."""
    number = seed % DAYS
    lines = messy_day(number, (700, 1500, 2500, 5000)[number % 4])
    model = Model()
    return Day(lines, model.ingest([Source(FILE, lines)]), _contents(model))


def _contents(model: Model) -> Contents:
    """What the tables must hold."""
    events = [
        (
            *(entry["payment_id"], entry["position"], entry["event_id"], entry["type"], entry["outcome"]),
            *(entry["reason"], entry["state_before"], entry["state_after"], 0, entry["line"], entry["payload"]),
        )
        for history in model.histories.values()
        for entry in history
    ]
    return {
        "payments": sorted((name, model.state(name), len(history)) for name, history in model.histories.items()),
        "events": sorted(events),
        "conflicts": sorted((*fact, 0, row["line"], row["payload"]) for fact, row in model.conflicts.items()),
    }


def decisions_of(lines: str) -> list[dict[str, Any]]:
    """Decision lines as the model gives them: of a malformed one it only says that there is an error."""
    decisions = [{**json.loads(line), "source": FILE} for line in lines.splitlines()]
    return [{**decision, "error": ...} if "error" in decision else decision for decision in decisions]


@pytest.mark.parametrize("number", range(DAYS))
def test_an_uninterrupted_run_is_the_models(payproc: Payproc, sql: Sql, number: int) -> None:
    day = day_of(number)
    (payproc.folder / FILE).write_bytes(b"\n".join(day.raw))
    finished = payproc("ingest", FILE, "--quiet", "--decisions", "-")
    assert decisions_of(finished.stdout) == day.decisions
    assert contents(sql) == day.contents


# ---- Crashes -----------------------------------------------------------------------------------------


@contextmanager
def ingesting(payproc: Payproc, day: Day, chance: random.Random) -> Iterator["subprocess.Popen[bytes]"]:
    """Ingest a day from a file, or from a pipe into which it trickles; leave it running, and kill it in the end."""
    (payproc.folder / FILE).write_bytes(b"\n".join(day.raw))
    (payproc.folder / "reported.jsonl").unlink(missing_ok=True)
    trickles = chance.random() < 0.5
    with (payproc.folder / "stderr").open("wb") as stderr:
        process = payproc.start(
            *("ingest", "-" if trickles else FILE, "--decisions", "reported.jsonl", "--quiet"),
            stdin=subprocess.PIPE if trickles else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    feeder = threading.Thread(target=_feed, args=(process, day.raw, random.Random(chance.random())))
    if trickles:
        feeder.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if trickles:
            feeder.join()


def _feed(process: "subprocess.Popen[bytes]", lines: list[bytes], chance: random.Random) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stdin:
        while lines:
            size = chance.choice((1, 10, 100, 400))
            stdin.write(b"\n".join(lines[:size]) + b"\n")
            stdin.flush()
            del lines[:size]
            time.sleep(chance.random() / 100)


def wait_for_a_moment(
    process: "subprocess.Popen[bytes]", payproc: Payproc, day: Day, chance: random.Random, sql: Sql
) -> None:
    """Wait until so many events are on record, or so much is reported, or so much time has gone by."""
    reported = payproc.folder / "reported.jsonl"
    events, size = chance.randrange(len(day.lines)), chance.randrange(150 * len(day.lines))
    deadline = time.monotonic() + chance.random()
    moments: list[Callable[[], bool]] = [
        lambda: bool(sql.value("SELECT count(*) FROM payproc.events") > events),
        lambda: reported.exists() and reported.stat().st_size > size,
        lambda: time.monotonic() > deadline,
    ]
    has_come = chance.choice(moments)
    wait_for(lambda: has_come() or process.poll() is not None)
    time.sleep(chance.random() / 50)


def check_reported(payproc: Payproc, sql: Sql) -> int:
    """Whatever the decision file says, up to its last whole line, is on record; give the number of its events."""
    path = payproc.folder / "reported.jsonl"
    whole_lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    reported = [decision for decision in map(json.loads, whole_lines) if "event_id" in decision]
    query = "SELECT event_id, payment_id, type::text, outcome::text, reason::text FROM payproc.events"
    recorded = {event_id: row for event_id, *row in sql.rows(query)}
    conflicts = set(sql.rows("SELECT event_id, payment_id, type::text FROM payproc.event_conflicts"))
    for decision in reported:
        fact = [decision["payment_id"], decision["type"]]
        if decision["reason"] == "event_id_conflict":
            assert (decision["event_id"], *fact) in conflicts
        elif decision["reason"] == "duplicate_event":
            assert recorded[decision["event_id"]][:3] == [*fact, decision["original_outcome"]]
        else:
            assert recorded[decision["event_id"]] == [*fact, decision["outcome"], decision["reason"]]
    return len(reported)


def rerun(payproc: Payproc, day: Day, sql: Sql) -> None:
    """Run the same file again; everything must be as if nothing had happened."""
    finished = payproc("ingest", FILE, "--quiet")
    assert finished.code == 3, finished.stderr  # some lines are malformed
    assert contents(sql) == day.contents
    verified = payproc("verify", "--quiet")
    assert (verified.code, verified.stderr) == (0, "")


def forget(sql: Sql) -> None:
    """Empty the tables."""
    sql.rows("TRUNCATE payproc.payments, payproc.events, payproc.event_conflicts, payproc.runs, payproc.resolutions")


@pytest.mark.parametrize("seed", range(CRASHES_OF_A_KIND))
def test_a_process_killed_at_any_moment(payproc: Payproc, sql: Sql, seed: int) -> None:
    day, chance = day_of(seed), random.Random(seed)
    while True:
        with ingesting(payproc, day, chance) as process:
            wait_for_a_moment(process, payproc, day, chance, sql)
            process.kill()
            if process.wait() == -signal.SIGKILL:
                break
        forget(sql)  # it was done before it could be killed
    count("events reported before a process was killed, all on record", check_reported(payproc, sql))
    if chance.random() < 0.5:  # else the rerun meets what the server goes on committing for its dead client
        wait_for(lambda: sql.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'payproc'") == 0)
        assert_books_right(sql)
    rerun(payproc, day, sql)
    count("processes killed at a random moment")


class Server:
    """A server of the campaign's own, whose plug can be pulled. It never flushes by itself what need not be durable."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._use = ExitStack()
        with running_server(home) as running:
            schema.bring_up(db.Database(running.connect_args, "the campaign's server"))
        with (home / "data" / "postgresql.conf").open("a") as settings:
            settings.write("wal_writer_delay = 10s\nwal_writer_flush_after = 1GB\n")

    def start(self) -> Sql:
        """Start it, recovering from a crash if there was one."""
        running = self._use.enter_context(running_server(self.home))
        query = {"host": str(running.socket_folder)}
        url = URL.create("postgresql+psycopg2", SUPERUSER, database="postgres", query=query)
        return self._use.enter_context(closing(Sql(url)))

    def pull_the_plug(self) -> None:
        """Stop it at once, in what PostgreSQL calls immediate mode: what is not on disk is gone."""
        pid_file = self.home / "data" / "postmaster.pid"
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
        wait_for(lambda: not pid_file.exists())
        self._use.close()

    def stop(self) -> None:
        self._use.close()


@pytest.fixture(scope="module")
def server_of_its_own() -> Iterator[Server]:
    home = Path(tempfile.mkdtemp(prefix="payproc-tests-"))
    try:
        yield Server(home)
    finally:
        shutil.rmtree(home)


@pytest.fixture
def on_its_own_server(tmp_path: Path, server_of_its_own: Server) -> Payproc:
    """The command on the embedded server whose plug gets pulled."""
    payproc = Payproc(tmp_path, None)
    payproc.environment["PAYPROC_HOME"] = str(server_of_its_own.home)
    return payproc


# Whoever started the server may leave before it ends; that is what embedded.py is for.
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.parametrize("seed", range(CRASHES_OF_A_KIND))
def test_a_server_that_loses_power_at_any_moment(
    on_its_own_server: Payproc, server_of_its_own: Server, seed: int
) -> None:
    """In half of the cases the process goes with the server, in the others the server is started again under it."""
    payproc, day, chance = on_its_own_server, day_of(seed), random.Random(1000 + seed)
    sql = server_of_its_own.start()
    try:
        while True:
            forget(sql)
            with ingesting(payproc, day, chance) as process:
                wait_for_a_moment(process, payproc, day, chance, sql)
                server_of_its_own.pull_the_plug()
                was_running = process.poll() is None
                dies_with_it = chance.random() < 0.5
                if dies_with_it:
                    process.kill()
                sql = server_of_its_own.start()
                code = process.wait(timeout=60)
            if was_running:
                break
        stderr = (payproc.folder / "stderr").read_text()
        # It may have met the end of the server, and its own, just before it was to be killed.
        assert code in ((-signal.SIGKILL, 1) if dies_with_it else (1, 3)), stderr
        assert "Traceback" not in stderr
        if code == 3:
            assert decisions_of((payproc.folder / "reported.jsonl").read_text()) == day.decisions
            count("runs that went on after their server had come back")
        assert_books_right(sql)
        count("events reported before a power cut or after it, all on record", check_reported(payproc, sql))
        rerun(payproc, day, sql)
        count("power cuts at a random moment")
    finally:
        server_of_its_own.stop()
