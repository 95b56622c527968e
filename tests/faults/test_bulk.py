"""Batches of decisions that end early: reported decisions are on record, and a rerun completes the
rest.
"""

import json
import re
import signal
from pathlib import Path

import pytest

from tests.support.command import Payproc, RunningCommand
from tests.support.event_lines import GOOD
from tests.support.postgres import Sql, assert_books_right, fill_queue, wait_for

COUNT = 1_000
ARGUMENTS = ("resolve", "--from", "orders.jsonl", "--dismiss", "--note", "n", "--by", "alice", "--format", "json")
RESULTS = ("--decisions", "results.jsonl")


@pytest.fixture
def begun(payproc: Payproc, sql: Sql) -> RunningCommand:
    """A batch of many decisions, some of which are reported."""
    fill_queue(sql, 1, COUNT)
    orders = "".join(f'{{"event_id": "ep{number}"}}\n' for number in range(1, COUNT + 1))
    (payproc.folder / "orders.jsonl").write_text(orders)
    process = payproc.start(*ARGUMENTS, *RESULTS)
    wait_for(lambda: len(read_results(payproc.folder)) > 10)
    return process


def read_results(folder: Path) -> list[str]:
    """Return the events that whole lines report as resolved."""
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    results = [json.loads(line) for line in lines if line.endswith("\n")]
    assert {result["result"] for result in results} <= {"resolved"}
    return [result["event_id"] for result in results]


def check_rerun(payproc: Payproc, sql: Sql, reported: int) -> None:
    """Run the batch again; it must find the recorded decisions, and complete the rest."""
    recorded = sql.value("SELECT count(*) FROM payproc.resolutions")
    assert reported <= recorded <= reported + 1
    again = payproc(*ARGUMENTS)
    assert again.code == 0
    summary = json.loads(again.stdout)
    assert (summary["resolved"], summary["already"]) == (COUNT - recorded, recorded)
    assert_books_right(sql)


def test_interrupted_batch_loses_no_result(payproc: Payproc, sql: Sql, begun: RunningCommand) -> None:
    begun.send_signal(signal.SIGINT)
    stdout, stderr = begun.communicate(timeout=30)
    assert begun.returncode == 130
    assert stderr.decode().splitlines()[-1] == "payproc: interrupted"
    reported = read_results(payproc.folder)
    assert 10 < len(reported) < COUNT
    assert json.loads(stdout)["resolved"] == len(reported)
    assert {event_id for (event_id,) in sql.rows("SELECT event_id FROM payproc.resolutions")} == set(reported)
    check_rerun(payproc, sql, len(reported))


def test_lost_connection_ends_a_batch_clearly(payproc: Payproc, sql: Sql, begun: RunningCommand) -> None:
    sql.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'payproc'")
    stdout, stderr = begun.communicate(timeout=30)
    assert begun.returncode == 1
    assert re.search("terminating connection|server closed the connection", stderr.decode().splitlines()[-1])
    reported = read_results(payproc.folder)
    assert 10 < len(reported) < COUNT
    assert json.loads(stdout)["resolved"] == len(reported)
    check_rerun(payproc, sql, len(reported))


def test_batch_beside_an_ingest_keeps_the_books(payproc: Payproc, sql: Sql, begun: RunningCommand) -> None:
    """Every payment gets an event at the same time."""
    events = [GOOD.replace(b"e1", b"new%d" % number).replace(b"p1", b"p%d" % number) for number in range(1, COUNT + 1)]
    assert payproc("ingest", "-", "--quiet", stdin=b"\n".join(reversed(events))).code == 0
    stdout, _ = begun.communicate(timeout=60)
    assert (begun.returncode, json.loads(stdout)["resolved"]) == (0, COUNT)
    assert_books_right(sql)
