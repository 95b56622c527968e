"""Processes killed, interrupted and run side by side: whole events only, each once, and a rerun completes the job."""

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Payproc
from tests.support.events import event_line, messy_lines, write_lines
from tests.support.postgres import NewDatabase, Sql, assert_books_right, wait_for


@pytest.fixture
def expected(new_database: NewDatabase, template: str, tmp_path: Path) -> Callable[[list[bytes]], list[dict[str, Any]]]:
    """Gives the decisions of an uninterrupted run of one process over lines, in a database of its own."""

    def decide(lines: list[bytes]) -> list[dict[str, Any]]:
        (tmp_path / "uninterrupted.jsonl").write_bytes(b"\n".join(lines))
        finished = Payproc(tmp_path, new_database(template))("ingest", "uninterrupted.jsonl", "--decisions", "-")
        return [json.loads(row) for row in finished.stdout.splitlines()]

    return decide


def entries(decisions: list[dict[str, Any]]) -> dict[str, list[tuple[Any, ...]]]:
    """The histories that decisions stand for: by payment, the entries in order."""
    histories: dict[str, list[tuple[Any, ...]]] = {}
    for decision in decisions:
        if decision.get("reason", "duplicate_event") not in ("duplicate_event", "event_id_conflict"):
            fields = ("event_id", "type", "outcome", "reason", "state_before", "state_after")
            histories.setdefault(decision["payment_id"], []).append(tuple(decision[field] for field in fields))
    return histories


def recorded_histories(sql: Sql) -> dict[str, list[tuple[Any, ...]]]:
    histories: dict[str, list[tuple[Any, ...]]] = {}
    query = (
        "SELECT payment_id, event_id, type, outcome, reason, state_before, state_after"
        " FROM payproc.events ORDER BY payment_id, position"
    )
    for payment_id, *entry in sql.rows(query):
        histories.setdefault(payment_id, []).append(tuple(entry))
    return histories


slow = pytest.mark.slow


def test_a_process_killed_in_mid_batch_leaves_whole_events_and_a_rerun_ends_as_if_nothing_had_happened(
    payproc: Payproc, sql: Sql, tmp_path: Path, expected: Callable[[list[bytes]], list[dict[str, Any]]]
) -> None:
    """Once; test_crash_campaign.py does it a hundred times."""
    lines = messy_lines(1, 6000)
    write_lines(tmp_path / "day.jsonl", lines)
    process = payproc.start("ingest", "day.jsonl", "--decisions", "reported.jsonl", stderr=subprocess.DEVNULL)
    wait_for(lambda: sql.value("SELECT count(*) FROM payproc.events") >= 1500)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    # The server may go on with a CALL for a moment after its client died.
    wait_for(lambda: sql.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'payproc'") == 0)
    assert_books_right(sql)
    reported = [json.loads(row) for row in (payproc.folder / "reported.jsonl").read_bytes().split(b"\n")[:-1]]
    applied = {decision["event_id"] for decision in reported if "event_id" in decision}
    assert applied <= {event_id for (event_id,) in sql.rows("SELECT event_id FROM payproc.events")}

    summary = payproc.summary("day.jsonl", code=3)
    assert summary["events"] == sum(1 for decision in expected(lines) if "event_id" in decision)
    assert recorded_histories(sql) == entries(expected(lines))
    assert_books_right(sql)
    assert [finished is None for (finished,) in sql.rows("SELECT finished_at FROM payproc.runs ORDER BY run_id")] == [
        True,
        False,
    ]


def test_under_serializable_isolation_processes_side_by_side_end_right_too(
    payproc: Payproc, sql: Sql, tmp_path: Path
) -> None:
    sql.rows(f"ALTER DATABASE \"{sql.url.database}\" SET default_transaction_isolation = 'serializable'")
    lines = messy_lines(7, 600)
    write_lines(tmp_path / "same.jsonl", lines)
    processes = [payproc.start("ingest", "same.jsonl", "--format", "json") for _ in range(2)]
    summaries = []
    for process in processes:
        stdout, stderr = process.communicate()
        assert process.returncode == 3, stderr.decode()
        summaries.append(json.loads(stdout))
    assert_books_right(sql)
    recorded = sql.value("SELECT count(*) FROM payproc.events")
    not_recorded = ("duplicate_event", "event_id_conflict")
    assert recorded == sum(
        count for summary in summaries for reason, count in summary["reasons"].items() if reason not in not_recorded
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_reports_what_it_did_and_a_rerun_completes_it(
    payproc: Payproc,
    sql: Sql,
    expected: Callable[[list[bytes]], list[dict[str, Any]]],
    number: signal.Signals,
    code: int,
) -> None:
    lines = messy_lines(21, 2000)
    process = payproc.start("ingest", "-", "--format", "json", stdin=subprocess.PIPE)
    process.stdin.write(b"\n".join(lines[:700]) + b"\n")
    process.stdin.flush()
    wait_for(lambda: sql.value("SELECT count(*) FROM payproc.events") > 0)
    process.send_signal(number)
    stdout, stderr = process.communicate()
    assert process.returncode == code
    said = stderr.decode().splitlines()[-1]
    assert said == "payproc: interrupted; what was reported is recorded, and running the same command again is safe"
    summary = json.loads(stdout)
    run = sql.rows("SELECT lines, applied, finished_at FROM payproc.runs")
    assert run == [(summary["lines"], summary["outcomes"]["APPLY"], None)]
    assert_books_right(sql)
    payproc.summary("-", stdin=b"\n".join(lines), code=3)
    assert recorded_histories(sql) == entries(expected(lines))


def test_an_interrupt_while_nothing_comes_ends_at_once(payproc: Payproc, sql: Sql) -> None:
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
def test_a_signal_ends_a_command_that_waits_for_the_server(
    payproc: Payproc, sql: Sql, command: list[str], number: signal.Signals
) -> None:
    with closing(sql.connect()) as holder:
        holder.autocommit = False
        holder.cursor().execute("LOCK TABLE payproc.payments, payproc.events IN ACCESS EXCLUSIVE MODE")
        process = payproc.start(*command)
        wait_for(lambda: sql.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 1)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert stderr.decode().splitlines()[-1] == "payproc: interrupted"


def test_an_interrupt_ends_a_run_over_many_files_where_it_is(payproc: Payproc, sql: Sql, tmp_path: Path) -> None:
    """It neither opens the files behind nor waits for a FIFO among them that nobody writes."""
    write_lines(tmp_path / "first.jsonl", [event_line("e1", "p1", "authorize")])
    os.mkfifo(payproc.folder / "fifo")
    os.mkfifo(payproc.folder / "another")
    process = payproc.start("ingest", "first.jsonl", "fifo", "another")
    wait_for(lambda: sql.value("SELECT count(*) FROM payproc.events") == 1)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert stdout.decode().splitlines()[-1].startswith("1 event · ")


def test_a_second_interrupt_kills_a_run_that_cannot_finish_its_batch(
    payproc: Payproc, sql: Sql, tmp_path: Path
) -> None:
    write_lines(tmp_path / "first.jsonl", [event_line("e1", "p1", "authorize")])
    write_lines(tmp_path / "second.jsonl", [event_line("e2", "p1", "capture")])
    payproc("ingest", "first.jsonl")
    with sql.locked_payment("p1"):
        process = payproc.start("ingest", "second.jsonl")
        sql.wait_for_blocked_call()
        process.send_signal(signal.SIGINT)
        for _ in itertools.count():  # until the first is taken in, a second one is the same as the first
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode in (130, -signal.SIGINT)
    assert payproc.summary("second.jsonl")["events"] == 1


def test_a_reader_that_goes_away_ends_it_quietly_and_a_rerun_completes_it(
    payproc: Payproc, sql: Sql, tmp_path: Path, expected: Callable[[list[bytes]], list[dict[str, Any]]]
) -> None:
    lines = messy_lines(3, 10_000)
    write_lines(tmp_path / "day.jsonl", lines)
    process = payproc.start("ingest", "day.jsonl", "--quiet", "--decisions", "-")
    assert process.stdout.readline().startswith(b'{"source":"day.jsonl","line":1,')
    process.stdout.close()
    stderr = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 141
    assert all(row.startswith(("day.jsonl:", "… and ")) for row in stderr.splitlines())
    assert_books_right(sql)
    assert sql.rows("SELECT finished_at FROM payproc.runs") == [(None,)]
    payproc.summary("day.jsonl", code=3)
    assert recorded_histories(sql) == entries(expected(lines))


@slow
def test_memory_stays_flat_however_long_the_input(payproc: Payproc, sql: Sql) -> None:
    """Peak memory of the process for ten times the lines: at most 20 MB more."""
    peaks = []
    for run, count in enumerate((30_000, 300_000)):
        process = payproc.start("ingest", "-", "--format", "json", stdin=subprocess.PIPE)
        for number in range(count):
            process.stdin.write(event_line(f"e{run}_{number}", f"p{run}_{number}", "authorize", note="x" * 200) + b"\n")
        process.stdin.flush()
        wait_for(lambda: sql.value("SELECT sum(lines) FROM payproc.runs") > count * 0.9)  # noqa: B023
        status = Path(f"/proc/{process.pid}/status").read_text()
        peaks.append(int(status.partition("VmHWM:")[2].split()[0]))
        process.communicate()
    assert peaks[1] < peaks[0] + 20_000, f"peaks in kB: {peaks}"
