"""Batches of decisions that end early: reported decisions are on record, and a rerun completes the
rest.
"""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.command import Payproc, RunningCommand
from tests.support.event_lines import GOOD
from tests.support.events import write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, assert_books_right, fill_queue

COUNT = 200
ARGUMENTS = ("resolve", "--from", "orders.jsonl", "--dismiss", "--note", "n", "--by", "alice", "--format", "json")
RESULTS = ("--decisions", "results.jsonl")


@contextmanager
def batch_in_its_middle(payproc: Payproc, sql: Sql) -> Iterator[RunningCommand]:
    """Start a batch of decisions, which waits for a payment in its middle until the block ends."""
    fill_queue(sql, 1, COUNT)
    orders = "".join(f'{{"event_id": "ep{number}"}}\n' for number in range(1, COUNT + 1))
    (payproc.folder / "orders.jsonl").write_text(orders)
    with sql.locked_payment(f"p{COUNT // 2}"):
        process = payproc.start(*ARGUMENTS, *RESULTS)
        sql.wait_for_blocked()
        assert len(read_results(payproc.folder)) == COUNT // 2 - 1
        yield process


def read_results(folder: Path) -> list[str]:
    """Return the events that whole lines report as resolved."""
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    results = [json.loads(line) for line in lines if line.endswith("\n")]
    assert {result["result"] for result in results} <= {"resolved"}
    return [result["event_id"] for result in results]


def check_rerun(payproc: Payproc, sql: Sql, summary: dict[str, int]) -> None:
    """Compare the reports and the records of a batch that ended early; a rerun completes it."""
    reported = read_results(payproc.folder)
    assert len(reported) == summary["resolved"]
    recorded = sql.rows("SELECT event_id FROM payproc.resolutions ORDER BY resolved_at")
    assert [event_id for (event_id,) in recorded] == reported
    again = InProcess(payproc.folder, sql.url)(*ARGUMENTS)
    assert again.code == 0
    rerun = json.loads(again.stdout)
    assert (rerun["resolved"], rerun["already"]) == (COUNT - len(reported), len(reported))
    assert_books_right(sql)


def test_interrupted_batch_loses_no_result(payproc: Payproc, sql: Sql) -> None:
    """It ends after the decision that it is at."""
    with batch_in_its_middle(payproc, sql) as process:
        process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.decode().splitlines()[-1] == "payproc: interrupted"
    assert COUNT // 2 <= json.loads(stdout)["resolved"] < COUNT
    check_rerun(payproc, sql, json.loads(stdout))


def test_lost_connection_ends_a_batch_clearly(payproc: Payproc, sql: Sql) -> None:
    with batch_in_its_middle(payproc, sql) as process:
        sql.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'payproc' AND datname = current_database()"
        )
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert re.search("terminating connection|server closed the connection", stderr.decode().splitlines()[-1])
    assert json.loads(stdout)["resolved"] == COUNT // 2 - 1
    check_rerun(payproc, sql, json.loads(stdout))


def test_batch_beside_an_ingest_keeps_the_books(payproc: Payproc, sql: Sql) -> None:
    """Every payment gets an event at the same time."""
    events = [GOOD.replace(b"e1", b"new%d" % number).replace(b"p1", b"p%d" % number) for number in range(1, COUNT + 1)]
    write_lines(payproc.folder / "new.jsonl", events[::-1])
    with batch_in_its_middle(payproc, sql) as process:
        ingest = payproc.start("ingest", "new.jsonl", "--quiet")
        sql.wait_for_blocked(2)
    stdout, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(stdout)["resolved"]) == (0, COUNT)
    ingest.communicate(timeout=60)
    assert ingest.returncode == 0
    assert sql.value("SELECT count(*) FROM payproc.events") == 2 * COUNT
    assert_books_right(sql)
