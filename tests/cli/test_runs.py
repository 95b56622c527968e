"""`payproc runs`: past ingests, finished or not."""

import json
import re

import pytest

from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql

slow = pytest.mark.slow


@pytest.fixture
def filled(run_in_process: InProcess, sql: Sql) -> InProcess:
    """The command after a finished run and one that was killed."""
    write_lines(run_in_process.folder / "a.jsonl", [event_line("e1", "p1", "authorize"), b"oops"])
    run_in_process("ingest", "a.jsonl", "-")
    sql.rows("INSERT INTO payproc.runs (sources) VALUES ('{killed.jsonl}')")
    return run_in_process


def test_runs_says_that_there_are_none(run_in_process: InProcess) -> None:
    assert run_in_process("runs").stdout == "no runs\n"


def test_runs_json_is_newest_first(filled: InProcess) -> None:
    newest, oldest = (json.loads(row) for row in filled("runs", "--format", "json").stdout.splitlines())
    assert (newest["run_id"], newest["finished_at"], newest["source"]) == (2, None, ["killed.jsonl"])
    assert oldest["finished_at"] >= oldest["started_at"]
    assert oldest["source"] == ["a.jsonl", "<stdin>"]
    assert (oldest["lines"], oldest["malformed"], oldest["events"]) == (2, 1, 1)
    assert oldest["outcomes"] == {"APPLY": 1, "IGNORE": 0, "REJECT": 0, "MANUAL_REVIEW": 0}
    assert len(filled("runs", "--limit", "1", "--format", "json").stdout.splitlines()) == 1


def test_runs_table_says_which_are_finished(filled: InProcess) -> None:
    table = "\n".join(row.rstrip() for row in filled("runs").stdout.splitlines())
    assert re.search(r"2  \d{4}-.* 0  none +killed.jsonl\n +0.00 s, not finished +0", table)
    assert re.search(r"1  \d{4}-.* 1  APPLY 1 +a.jsonl\n +\d+\.\d\d s, finished +1 +<stdin>", table)


@slow
def test_many_sources_are_short_in_tables(run_in_process: InProcess) -> None:
    """JSON lists every file, and each event knows its own."""
    run = run_in_process
    names = [f"delivery-{number:04}.json" for number in range(2000)]
    for number, name in enumerate(names):
        write_lines(run.folder / name, [event_line(f"e{number}", f"p{number % 5}", "capture")])
    assert run("ingest", "--quiet", *names).code == 0
    table = run("runs", "--quiet").stdout.splitlines()
    assert [row.rstrip().rpartition("  ")[2] for row in table[3:]] == [*names[:4], "… and 1,996 more"]
    assert json.loads(run("runs", "--format", "json").stdout)["source"] == names
    pending = [json.loads(row) for row in run("review", "--format", "json").stdout.splitlines()]
    expected = {f"e{number}": name for number, name in enumerate(names)}
    assert {review["event_id"]: review["source"] for review in pending} == expected
    history = json.loads(run("show", "p3", "--format", "json").stdout)["history"]
    assert [entry["source"] for entry in history] == names[3::5]


def test_run_label_is_shown(run_in_process: InProcess) -> None:
    """Without a label it is null; the blanks around it go."""
    run = run_in_process
    run("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    run("ingest", "-", "--label", " night of the 18th ", stdin=event_line("e2", "p1", "capture"))
    listed = [json.loads(row)["label"] for row in run("runs", "--format", "json").stdout.splitlines()]
    assert listed == ["night of the 18th", None]
    assert "label: night of the 18th" in run("runs").stdout
    run("ingest", "-", "--label", "x" * 201, stdin=event_line("e3", "p2", "authorize"))
    for command in ("runs", "status"):
        shown = run(command, env={"COLUMNS": "400"}).stdout
        assert f"{'x' * 200}…" in shown
        assert "x" * 201 not in shown
