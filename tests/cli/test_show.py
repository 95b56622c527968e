"""`payproc show` as a process: a payment's state, history and conflicts, for people and for scripts."""

import json
from pathlib import Path

import pytest

from tests.support.command import Payproc
from tests.support.events import event_line, write_lines
from tests.support.postgres import Sql


@pytest.fixture
def story(payproc: Payproc, tmp_path: Path) -> None:
    write_lines(
        tmp_path / "day.jsonl",
        [
            event_line("e1", "p1", "authorize", amount=12.50),
            event_line("e2", "p1", "capture"),
            b'  {"type":"fail",  "event_id":"e3","payment_id":"p1", "note":"as  received"}',
            event_line("e2", "p2", "refund"),
        ],
    )
    payproc("ingest", "day.jsonl")


def test_json_tells_everything_on_record(payproc: Payproc, story: None) -> None:
    finished = payproc("show", "p1", "--format", "json")
    payment = json.loads(finished.stdout)
    for entry in payment["history"] + payment["conflicts"]:
        assert entry.pop("recorded_at").endswith("Z")
    third = {
        "kind": "event",
        "position": 3,
        "event_id": "e3",
        "type": "fail",
        "outcome": "MANUAL_REVIEW",
        "reason": "failure_after_capture",
        "state_before": "captured",
        "state_after": "captured",
        "run_id": 1,
        "source": "day.jsonl",
        "line": 3,
        "payload": {"type": "fail", "event_id": "e3", "payment_id": "p1", "note": "as  received"},
    }
    assert payment.pop("history")[2] == third
    (review,) = payment.pop("open_reviews")
    assert review["event_id"] == "e3"
    assert payment == {
        "payment_id": "p1",
        "state": "captured",
        "version": 3,
        "conflicts": [
            {
                "event_id": "e2",
                "payment_id": "p2",
                "type": "refund",
                "recorded": {"payment_id": "p1", "type": "capture"},
                "run_id": 1,
                "source": "day.jsonl",
                "line": 4,
                "payload": {"event_id": "e2", "payment_id": "p2", "type": "refund"},
            }
        ],
    }


def test_the_payload_is_stored_as_received(payproc: Payproc, story: None, sql: Sql) -> None:
    assert sql.value("SELECT payload::text FROM payproc.events WHERE event_id = 'e3'") == (
        '  {"type":"fail",  "event_id":"e3","payment_id":"p1", "note":"as  received"}'
    )


def test_on_a_wide_terminal_an_entry_is_one_line(payproc: Payproc, story: None) -> None:
    finished = payproc("show", "p1", env={"COLUMNS": "160"})
    lines = finished.stdout.splitlines()
    assert lines[0] == "payment p1 is captured · 3 entries"
    assert lines[1].split() == ["#", "Event", "Type", "Outcome", "Reason", "Transition", "Recorded", "(UTC)", "From"]
    assert lines[4].split()[:7] == ["2", "e2", "capture", "APPLY", "transition", "authorized", "→"]
    assert lines[5].split()[:6] == ["3", "e3", "fail", "MANUAL_REVIEW", "failure_after_capture", "captured"]
    assert lines[5].rstrip().endswith("run 1, day.jsonl:3")
    assert lines[6] == "waiting for a person: e3"
    assert "refund of p2" in lines[-1]
    assert "capture of p1" in lines[-1]


@pytest.mark.parametrize("columns", ["40", *(pytest.param(more, marks=pytest.mark.slow) for more in ("80", "200"))])
def test_no_line_is_wider_than_the_terminal_and_no_id_is_cut(payproc: Payproc, columns: str) -> None:
    event, payment = "e" * 255, "p" * 255
    payproc("ingest", "-", stdin=event_line(event, payment, "capture"))
    shown = payproc("show", payment, env={"COLUMNS": columns}).stdout
    table = shown.split("entry\n")[1].split("waiting")[0]
    assert max(len(row) for row in table.splitlines()) <= int(columns)
    assert table.count("e") >= 255
    assert "…" not in shown


@pytest.mark.parametrize("columns", ["0", *(pytest.param(few, marks=pytest.mark.slow) for few in ("1", "20"))])
def test_a_terminal_too_narrow_for_a_table_gets_the_narrowest(payproc: Payproc, story: None, columns: str) -> None:
    """Some terminals say that they have no columns; rich would print none."""
    narrowest = payproc("show", "p1", env={"COLUMNS": "40"}).stdout
    assert payproc("show", "p1", env={"COLUMNS": columns}).stdout == narrowest
    assert "Event" in narrowest


def test_a_payment_known_only_from_a_conflict_is_created(payproc: Payproc, story: None) -> None:
    payment = json.loads(payproc("show", "p2", "--format", "json").stdout)
    assert (payment["state"], payment["version"], payment["history"]) == ("created", 0, [])
    assert payment["conflicts"][0]["recorded"] == {"payment_id": "p1", "type": "capture"}
    assert "payment p2 is created · 0 entries" in payproc("show", "p2").stdout


def test_an_unknown_payment_is_one_line_and_exit_1(payproc: Payproc) -> None:
    finished = payproc("show", "p9")
    assert (finished.code, finished.stdout) == (1, "")
    said = finished.stderr.splitlines()[-1]
    assert said.startswith('payproc: payment "p9": nothing is on record about it in the database postgresql://')


def test_an_event_id_where_a_payment_id_belongs_names_the_payment(payproc: Payproc) -> None:
    payproc("ingest", "-", stdin=event_line("e1", "p [red]1", "authorize"))
    finished = payproc("show", "e1")
    assert (finished.code, finished.stdout) == (1, "")
    assert finished.stderr.splitlines()[-1].endswith('; it is an event_id of payment "p [red]1"')


def test_text_from_events_is_data_and_cannot_drive_the_terminal(payproc: Payproc) -> None:
    payment = "[bold red]p[/]\u202e\u2066evil"
    event = "[link=http://x]e\u200b:smile:"
    payproc("ingest", "-", stdin=event_line(event, payment, "authorize", note="\u001b[31m\n"))
    shown = payproc("show", payment, env={"COLUMNS": "160", "FORCE_COLOR": "1"}).stdout
    assert "[bold red]p[/]\\u202e\\u2066evil" in shown
    assert "[link=http://x]e\\u200b:smile:" in shown
    assert "\u202e" not in shown
    assert "\x1b[31m" not in shown
    again = payproc("show", payment + "\x1b[31m\n", env={"COLUMNS": "160"}).stderr
    assert "\x1b" not in again
    assert again.splitlines()[-1].startswith('payproc: payment "[bold red]p[/]\\u202e\\u2066evil\\x1b[31m\\n": nothing')


def test_colour_is_only_for_terminals(payproc: Payproc, story: None) -> None:
    assert "\x1b" not in payproc("show", "p1").stdout
    assert "\x1b[" in payproc("show", "p1", env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[3" not in payproc("show", "p1", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
