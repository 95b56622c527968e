"""Runs ended from outside: by Ctrl-C, by SIGTERM, or by the reader of their output.

Each records whole events and reports them. A rerun completes the job.
"""

import itertools
import json
import os
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.command import Payproc
from tests.support.events import event_line, write_lines
from tests.support.postgres import Sql, assert_books_right, contents, wait_for
from tests.support.workload import expected_day, messy_day


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_is_completed_by_a_rerun(payproc: Payproc, sql: Sql, number: signal.Signals, code: int) -> None:
    """The summary counts the events that are recorded."""
    day = expected_day(messy_day(21, 900))
    process = payproc.start("ingest", "-", "--format", "json", stdin=subprocess.PIPE)
    process.stdin.write(b"\n".join(day.raw[:600]) + b"\n")
    process.stdin.flush()
    wait_for(lambda: sql.value("SELECT count(*) FROM payproc.events") > 0)
    process.send_signal(number)
    stdout, stderr = process.communicate()
    assert process.returncode == code
    assert stderr.decode().splitlines()[-1] == (
        "payproc: interrupted; reported events are recorded, and a rerun is safe"
    )
    summary = json.loads(stdout)
    run = sql.rows("SELECT lines, applied, finished_at FROM payproc.runs")
    assert run == [(summary["lines"], summary["outcomes"]["APPLY"], None)]
    assert_books_right(sql)
    payproc.summary("-", stdin=day.text, code=3)
    assert contents(sql) == day.contents


def test_interrupt_ends_a_wait_for_input(payproc: Payproc, sql: Sql) -> None:
    """Half a line was read, and the other half never comes."""
    process = payproc.start("ingest", "-", stdin=subprocess.PIPE)
    process.stdin.write(event_line("e1", "p1", "authorize") + b"\n" + b'{"event_id": "half a')
    process.stdin.flush()
    wait_for(lambda: sql.value("SELECT count(*) FROM payproc.events") == 1)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate()
    assert process.returncode == 130
    footer = stdout.decode().splitlines()[-1]
    assert footer.startswith("1 event · ")
    assert footer.endswith(" · run 1 · not finished")


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (["show", "p1"], signal.SIGINT),
        (["review"], signal.SIGTERM),
        (["verify"], signal.SIGINT),
        (["export"], signal.SIGTERM),
    ],
)
def test_signal_ends_a_wait_for_a_lock(payproc: Payproc, sql: Sql, command: list[str], number: signal.Signals) -> None:
    """A command that waits for the server ends at once."""
    with closing(sql.connect()) as holder:
        holder.autocommit = False
        holder.cursor().execute("LOCK TABLE payproc.payments, payproc.events IN ACCESS EXCLUSIVE MODE")
        process = payproc.start(*command)
        sql.wait_for_blocked()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert stderr.decode().splitlines()[-1] == "payproc: interrupted"


def test_interrupt_leaves_later_files_unopened(payproc: Payproc, sql: Sql, tmp_path: Path) -> None:
    """The second file is a FIFO without a writer, and the run does not wait for it."""
    write_lines(tmp_path / "first.jsonl", [event_line("e1", "p1", "authorize")])
    os.mkfifo(payproc.folder / "fifo")
    os.mkfifo(payproc.folder / "another")
    process = payproc.start("ingest", "first.jsonl", "fifo", "another")
    wait_for(lambda: sql.value("SELECT count(*) FROM payproc.events") == 1)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert stdout.decode().splitlines()[-1].startswith("1 event · ")


@pytest.mark.slow
def test_second_interrupt_kills_a_blocked_run(payproc: Payproc, sql: Sql, tmp_path: Path) -> None:
    """The first interrupt waits for the batch, which cannot finish."""
    write_lines(tmp_path / "first.jsonl", [event_line("e1", "p1", "authorize")])
    write_lines(tmp_path / "second.jsonl", [event_line("e2", "p1", "capture")])
    payproc("ingest", "first.jsonl")
    with sql.locked_payment("p1"):
        process = payproc.start("ingest", "second.jsonl")
        sql.wait_for_blocked()
        process.send_signal(signal.SIGINT)
        for _ in itertools.count():  # signals sent before the first one is handled count as one
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode in (130, -signal.SIGINT)
    assert payproc.summary("second.jsonl")["events"] == 1


def test_closed_pipe_ends_the_run_quietly(payproc: Payproc, sql: Sql) -> None:
    """The reader of `--decisions -` goes away after one line, and a rerun completes the job."""
    day = expected_day(messy_day(3, 1_000))
    (payproc.folder / "day.jsonl").write_bytes(day.text)
    process = payproc.start("ingest", "day.jsonl", "--quiet", "--decisions", "-")
    assert process.stdout.readline().startswith(b'{"source":"day.jsonl","line":')
    process.stdout.close()
    stderr = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 141
    assert all(row.startswith(("day.jsonl:", "… and ")) for row in stderr.splitlines())
    assert_books_right(sql)
    assert sql.rows("SELECT finished_at FROM payproc.runs") == [(None,)]
    payproc.summary("day.jsonl", code=3)
    assert contents(sql) == day.contents
