"""`payproc review`: the pending reviews, for people and for scripts."""

import json
import re

import pytest

from tests.support.command import error_line, messages
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess

REPEATED_REFUND = [
    event_line("e3", "p2", "authorize"),
    event_line("e4", "p2", "capture"),
    event_line("e5", "p2", "refund"),
    event_line("e6", "p2", "refund", by="returns desk"),
]
LONG_EVENT, LONG_PAYMENT, LONG_NOTE = "e" * 255, "p" * 255, "why " * 100

HEADER = ["Event", "Payment", "Now", "Type", "Why it needs review", "Age", "From"]
ROW = ["e1", "p1", "authorized", "capture", "the step before it is missing; legal now", "N s", "run 1, day.jsonl:1"]

REVIEW = """
    {"event_id": "e1", "payment_id": "p1", "state": "authorized", "version": 2, "type": "capture",
     "reason": "predecessor_missing", "legal_now": true, "state_when_flagged": "created",
     "run_id": 1, "source": "day.jsonl", "line": 1,
     "payload": {"event_id": "e1", "payment_id": "p1", "type": "capture"}}
"""


@pytest.fixture(scope="module")
def filled(shared: InProcess) -> InProcess:
    """The command on two pending reviews: a capture before its authorize, and a second refund."""
    lines = [event_line("e1", "p1", "capture"), event_line("e2", "p1", "authorize"), *REPEATED_REFUND]
    write_lines(shared.folder / "day.jsonl", lines)
    shared("ingest", "day.jsonl", "--workers", "1")  # several record events of two payments in either order
    return shared


def test_ingest_ends_with_the_pending_reviews(run_in_process: InProcess) -> None:
    clean = run_in_process("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    assert "wait" not in clean.stdout + clean.stderr
    flagged = run_in_process("ingest", "-", stdin=event_line("e2", "p2", "capture"))
    assert flagged.stdout.splitlines()[-1] == "1 event needs review; run payproc review"
    again = run_in_process("ingest", "-", "--format", "json", stdin=event_line("e3", "p3", "capture"))
    assert messages(again)[-1] == "2 events need review; run payproc review"
    assert json.loads(again.stdout)["events"] == 1
    assert "wait" not in run_in_process("ingest", "-", "--quiet").stderr


def test_review_table_is_oldest_first(filled: InProcess) -> None:
    wide = filled("review", env={"COLUMNS": "160"}).stdout.splitlines()
    assert re.split(r"  +", wide[0].strip()) == HEADER
    assert re.split(r"  +", re.sub(r"\d+ s\b", "N s", wide[2]).strip()) == ROW
    assert wide[3].split()[:4] == ["e6", "p2", "refunded", "refund"]
    narrow = filled("review").stdout.splitlines()
    assert [row.split()[:2] for row in narrow[3:5]] == [["e1", "capture"], ["p1", "authorized"]]


def test_review_limit_and_reason_narrow_the_list(filled: InProcess) -> None:
    assert "e6" not in filled("review", "--limit", "1").stdout
    assert "e1" not in filled("review", "--reason", "repeated_refund").stdout


def test_review_json_is_an_object_a_line(filled: InProcess) -> None:
    first, second = (json.loads(row) for row in filled("review", "--format", "json").stdout.splitlines())
    assert first.pop("recorded_at").endswith("Z")
    assert first == json.loads(REVIEW)
    assert second["payload"]["by"] == "returns desk"


def test_review_empty_queue(run_in_process: InProcess) -> None:
    assert run_in_process("review").stdout == "no events need review\n"
    assert run_in_process("review", "--format", "json").stdout == ""


def test_review_reason_without_pending_reviews(filled: InProcess) -> None:
    listed = filled("review", "--reason", "capture_after_refund")
    assert listed.stdout == "no events need review (reason capture_after_refund)\n"


def test_review_reason_without_review_is_refused(filled: InProcess) -> None:
    line = error_line(filled("review", "--reason", "transition"), 2)
    assert "transition" in line
    assert "predecessor_missing, failure_after_capture" in line.replace("'", "")


@pytest.mark.parametrize("columns", [80, 130, 160])
def test_tables_wrap_long_ids_and_notes(run_in_process: InProcess, columns: int) -> None:
    """No row of any table is wider than the terminal, and JSON holds the whole text."""
    run = run_in_process
    lines = event_line(LONG_EVENT, LONG_PAYMENT, "capture") + b"\n" + event_line("e1", "p1", "refund")
    run("ingest", "-", "--workers", "1", stdin=lines)
    screen = {"COLUMNS": str(columns), "NO_COLOR": "1"}
    listed = run("review", env=screen).stdout
    assert max(map(len, listed.splitlines())) <= columns
    assert listed.count("p" * 5) > 10
    assert json.loads(run("review", "--format", "json", "--limit", "1").stdout)["payment_id"] == LONG_PAYMENT
    run("resolve", LONG_EVENT, "--dismiss", "--note", LONG_NOTE, "--by", "b" * 100, "--yes")
    shown = run("show", LONG_PAYMENT, env=screen).stdout
    table = [line for line in shown.splitlines()[1:] if "payproc correct" not in line]  # a command, for copying
    assert max(map(len, table)) <= columns
    entry = json.loads(run("show", LONG_PAYMENT, "--format", "json").stdout)["history"][1]
    assert (entry["note"], entry["resolved_by"]) == (LONG_NOTE.strip(), "b" * 100)
    assert max(map(len, run("runs", env=screen).stdout.splitlines())) <= columns
