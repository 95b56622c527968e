"""`payproc show`: a payment's state, history and conflicts, for people and for scripts."""

import json

import pytest

from tests.support.command import messages
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql

RAW = b'  {"type":"fail",  "event_id":"e3","payment_id":"p1", "note":"as  received"}'


@pytest.fixture(scope="module")
def filled(shared: InProcess) -> InProcess:
    """The command on a payment with three events and a conflict, and on one with a resolution."""
    lines = [
        event_line("e1", "p1", "authorize", amount=12.50),
        event_line("e2", "p1", "capture"),
        RAW,
        event_line("e2", "p2", "refund"),
        event_line("e4", "p [red]4", "authorize"),
        event_line("e5", "p5", "capture"),
        event_line("e6", "p5", "authorize"),
        event_line("e" * 255, "p" * 255, "capture"),
    ]
    write_lines(shared.folder / "day.jsonl", lines)
    shared("ingest", "day.jsonl", "--workers", "1")  # several record events of two payments in either order
    shared("resolve", "e5", "--apply", "--note", "seen in the bank's file", "--by", "alice", "--yes")
    return shared


EVENT = """
    {"kind": "event", "position": 3, "event_id": "e3", "type": "fail", "outcome": "MANUAL_REVIEW",
     "reason": "failure_after_capture", "state_before": "captured", "state_after": "captured",
     "run_id": 1, "source": "day.jsonl", "line": 3,
     "payload": {"type": "fail", "event_id": "e3", "payment_id": "p1", "note": "as  received"}}
"""
CONFLICT = """
    {"event_id": "e2", "payment_id": "p2", "type": "refund", "recorded": {"payment_id": "p1", "type": "capture"},
     "run_id": 1, "source": "day.jsonl", "line": 4,
     "payload": {"event_id": "e2", "payment_id": "p2", "type": "refund"}}
"""
RESOLUTION = """
    {"kind": "resolution", "position": 3, "event_id": "e5", "resolution": "apply", "state_before": "authorized",
     "state_after": "captured", "note": "seen in the bank's file", "resolved_by": "alice"}
"""


def test_show_json_has_the_whole_record(filled: InProcess) -> None:
    payment = json.loads(filled("show", "p1", "--format", "json").stdout)
    for entry in payment["history"] + payment["conflicts"]:
        assert entry.pop("recorded_at").endswith("Z")
    assert payment.pop("history")[2] == json.loads(EVENT)
    assert [review["event_id"] for review in payment.pop("open_reviews")] == ["e3"]
    conflicts = [json.loads(CONFLICT)]
    assert payment == {
        "payment_id": "p1",
        "state": "captured",
        "version": 3,
        "conflicts": conflicts,
        "redeliveries": [],
    }


def test_show_json_has_the_resolution(filled: InProcess) -> None:
    payment = json.loads(filled("show", "p5", "--format", "json").stdout)
    assert payment["open_reviews"] == []
    entry = payment["history"][2]
    assert entry.pop("recorded_at").endswith("Z")
    assert entry == json.loads(RESOLUTION)


def test_payload_is_stored_as_received(run_in_process: InProcess, sql: Sql) -> None:
    run_in_process("ingest", "-", stdin=RAW)
    assert sql.value("SELECT payload::text FROM payproc.events") == RAW.decode()


def test_show_wide_table_has_a_line_an_entry(filled: InProcess) -> None:
    lines = filled("show", "p1", env={"COLUMNS": "160"}).stdout.splitlines()
    assert lines[0] == "payment p1 is captured · 3 entries"
    assert lines[1].split() == ["#", "Event", "Type", "Outcome", "Reason", "Transition", "Recorded", "(UTC)", "From"]
    assert lines[4].split()[:7] == ["2", "e2", "capture", "APPLY", "transition", "authorized", "→"]
    assert lines[5].split()[:6] == ["3", "e3", "fail", "MANUAL_REVIEW", "failure_after_capture", "captured"]
    assert lines[5].rstrip().endswith("run 1, day.jsonl:3")
    assert lines[6] == "pending reviews: e3"
    assert "refund of p2" in lines[-1]
    assert "capture of p1" in lines[-1]


def test_show_table_has_the_resolution(filled: InProcess) -> None:
    wide = filled("show", "p5", env={"COLUMNS": "160"}).stdout.splitlines()
    assert wide[-2].split()[:6] == ["3", "e5", "resolution", "applied", "by", "alice"]
    assert wide[-2].rstrip().endswith("seen in the bank's file")
    assert "pending reviews" not in "".join(wide)
    assert "seen in the bank's" in filled("show", "p5").stdout


WRONG = "if the state is wrong: payproc correct"


def test_show_counts_rejected_events(run_in_process: InProcess) -> None:
    """And says how to correct, until a person has corrected the payment."""
    run = run_in_process
    lines = [event_line("e1", "p'1", "fail"), event_line("e2", "p'1", "capture"), event_line("e3", "p'1", "refund")]
    run("ingest", "-", stdin=b"\n".join(lines))
    assert run("show", "p'1").stdout.splitlines()[-2:] == [
        "2 events were rejected",
        f"""{WRONG} 'p'"'"'1' --to STATE --note TEXT""",
    ]
    run("correct", "p'1", "--to", "captured", "--note", "seen at the bank", "--by", "alice", "--yes")
    shown = run("show", "p'1", env={"COLUMNS": "160"}).stdout.splitlines()
    assert shown[-2].split()[:6] == ["4", "correction", "corrected", "by", "alice", "failed"]
    assert shown[-2].rstrip().endswith("seen at the bank")
    assert shown[-1] == "2 events were rejected"
    run("ingest", "-", stdin=event_line("e4", "p'1", "fail"))
    run("resolve", "e4", "--apply", "--note", "a slip", "--yes")
    assert WRONG in run("show", "p'1").stdout, "there is a newer decision"


def test_show_says_how_to_correct(filled: InProcess) -> None:
    """Only where the payment has something that no event and no review can change."""
    assert "rejected" not in filled("show", "p5").stdout
    assert WRONG in filled("show", "p5").stdout, "its review is resolved"
    assert WRONG not in filled("show", "p1").stdout, "its review is open"
    assert WRONG not in filled("show", "p2").stdout, "only a conflict names it"


@pytest.mark.parametrize(("payment_id", "shown"), [("-q", "PAYMENT_ID"), ("p\u200b", "PAYMENT_ID"), ("p q", "'p q'")])
def test_show_names_only_ids_to_copy(run_in_process: InProcess, payment_id: str, shown: str) -> None:
    run = run_in_process
    run("ingest", "-", stdin=event_line("e1", payment_id, "fail") + b"\n" + event_line("e2", payment_id, "refund"))
    assert f"{WRONG} {shown} --to STATE" in run("show", "--", payment_id).stdout


def test_show_of_a_conflict_says_how_to_correct(run_in_process: InProcess) -> None:
    """The refused event came for this payment, so it may have been its money."""
    run = run_in_process
    lines = [
        event_line("e1", "p1", "authorize"),
        event_line("e2", "p2", "authorize"),
        event_line("e1", "p2", "capture"),
    ]
    run("ingest", "-", stdin=b"\n".join(lines))
    assert WRONG in run("show", "p2").stdout
    assert WRONG not in run("show", "p1").stdout


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_show_long_ids_wrap_uncut(filled: InProcess, columns: int) -> None:
    """No line is wider than the terminal, and no character of an id is lost."""
    shown = filled("show", "p" * 255, env={"COLUMNS": str(columns)}).stdout
    table = shown.split("entry\n")[1].split("pending reviews")[0]
    assert max(len(row) for row in table.splitlines()) <= columns
    assert table.count("e") >= 255
    assert "…" not in shown


@pytest.mark.parametrize("columns", ["0", "1", "20"])
def test_show_narrow_terminal_gets_a_table(filled: InProcess, columns: str) -> None:
    """Some terminals report no columns, for which rich would print nothing."""
    narrowest = filled("show", "p1", env={"COLUMNS": "40"}).stdout
    assert filled("show", "p1", env={"COLUMNS": columns}).stdout == narrowest
    assert "Event" in narrowest


def test_show_payment_of_a_conflict_only_is_created(filled: InProcess) -> None:
    payment = json.loads(filled("show", "p2", "--format", "json").stdout)
    assert (payment["state"], payment["version"], payment["history"]) == ("created", 0, [])
    assert payment["conflicts"][0]["recorded"] == {"payment_id": "p1", "type": "capture"}
    assert "payment p2 is created · 0 entries" in filled("show", "p2").stdout


def test_show_unknown_payment_exits_with_1(filled: InProcess) -> None:
    finished = filled("show", "p9")
    assert (finished.code, finished.stdout) == (1, "")
    (message,) = messages(finished)
    assert message.startswith('payproc: payment "p9": not found in the database postgresql://')


def test_show_event_id_names_its_payment(filled: InProcess) -> None:
    finished = filled("show", "e4")
    assert (finished.code, finished.stdout) == (1, "")
    assert messages(finished)[0].endswith('; it is an event_id of payment "p [red]4"')


def test_colour_is_only_for_terminals(filled: InProcess) -> None:
    assert "\x1b" not in filled("show", "p1").stdout
    assert "\x1b[" in filled("show", "p1", env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[3" not in filled("show", "p1", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
