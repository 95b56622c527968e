"""`payproc history`: entries across payments, for people and for scripts."""

import json
from typing import Any

import pytest

from tests.support.command import Payproc, error_line
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql
from tests.support.shell import Shell
from tests.support.terminal import open_terminal

DAY = [
    event_line("e1", "p1", "fail"),
    event_line("e2", "p1", "authorize"),
    event_line("e3", "p1", "capture"),
    event_line("e4", "p2", "authorize", amount=12.50),
    event_line("e4", "p3", "authorize"),
]
"""A review, a rejected event and a conflict."""

ALL = ["e1 event", "e2 event", "e3 event", "e4 event", "e4 conflict", "e2 resolution", " correction", "e5 event"]


@pytest.fixture(scope="module")
def filled(shared: InProcess) -> InProcess:
    """The command after two runs and, between them, the decisions of two people."""
    write_lines(shared.folder / "day.jsonl", DAY)
    shared("ingest", "day.jsonl", "--workers", "1")
    shared("resolve", "e2", "--dismiss", "--note", "a stale report", "--by", "alice", "--yes")
    shared("correct", "p1", "--to", "captured", "--note", "the money came", "--by", "bob", "--yes")
    shared("ingest", "-", "--label", "late", stdin=event_line("e5", "p2", "capture"))
    return shared


def entries(run: InProcess, *options: str) -> list[dict[str, Any]]:
    """List entries as JSON."""
    finished = run("history", "--format", "json", *options)
    assert finished.code == 0, finished
    return [json.loads(row) for row in finished.stdout.splitlines()]


def names(run: InProcess, *options: str) -> list[str]:
    return [f"{each.get('event_id', '')} {each['kind']}" for each in entries(run, *options)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", ALL),
        ("--run 1", ALL[:5]),
        ("--run 2", ["e5 event"]),
        ("--run 9", []),
        ("--label late", ["e5 event"]),
        ("--label other", []),
        ("--outcome REJECT", ["e3 event", "e4 conflict"]),
        ("--outcome reject --run 1", ["e3 event", "e4 conflict"]),
        ("--outcome MANUAL_REVIEW", ["e2 event"]),
        ("--reason event_id_conflict", ["e4 conflict"]),
        ("--reason payment_failed", ["e3 event"]),
        ("--type capture", ["e3 event", "e5 event"]),
        ("--type authorize --outcome REJECT", ["e4 conflict"]),
        ("--kind event", [each for each in ALL if each.endswith(" event")]),
        ("--kind resolution", ["e2 resolution"]),
        ("--kind correction", [" correction"]),
        ("--kind conflict", ["e4 conflict"]),
        ("--by alice", ["e2 resolution"]),
        ("--by bob", [" correction"]),
        ("--by alice --outcome REJECT", []),
        ("--payment p1", ["e1 event", "e2 event", "e3 event", "e2 resolution", " correction"]),
        ("--payment p3", ["e4 conflict"]),
        ("--since 1h", ALL),
        ("--until 1h", []),
        ("--since 2000-01-01 --until 2000-01-02T00:00:00Z", []),
        ("--limit 2", [" correction", "e5 event"]),
        ("--limit 1 --payment p1 --kind event", ["e3 event"]),
    ],
)
def test_history_filters_narrow_the_entries(filled: InProcess, options: str, expected: list[str]) -> None:
    """The oldest is first; a limit keeps the newest."""
    assert names(filled, *options.split()) == expected


def test_history_since_and_until_meet_at_an_entry(filled: InProcess) -> None:
    moments = [each["recorded_at"] for each in entries(filled)]
    assert moments == sorted(moments)
    assert names(filled, "--since", moments[5]) == ALL[5:]
    assert names(filled, "--until", moments[5]) == ALL[:5]


def test_history_entry_is_that_of_show(filled: InProcess) -> None:
    """It has the payment, and a conflict has kind, outcome and reason in addition."""
    shown = json.loads(filled("show", "p1", "--format", "json").stdout)["history"]
    listed = entries(filled, "--payment", "p1")
    assert listed == [{"payment_id": "p1", **each} for each in shown]
    assert list(listed[0])[:2] == ["payment_id", "kind"]
    (conflict,) = json.loads(filled("show", "p3", "--format", "json").stdout)["conflicts"]
    (listed_conflict,) = entries(filled, "--kind", "conflict")
    added = {"kind": "conflict", "outcome": "REJECT", "reason": "event_id_conflict"}
    assert listed_conflict == conflict | added


def test_history_payload_is_as_received(filled: InProcess) -> None:
    assert b'"payload":' + DAY[3] in filled("history", "--payment", "p2", "--format", "json").stdout.encode()


def test_history_table_has_every_kind(filled: InProcess) -> None:
    rows = [" ".join(row.split()) for row in filled("history", env={"COLUMNS": "170"}).stdout.splitlines()]
    assert rows[0] == "Payment Event Type Outcome Reason Transition Recorded (UTC) From"
    parts = [
        ("p1 e3 capture REJECT payment_failed failed 2", " run 1, day.jsonl:3"),
        ("p3 e4 authorize REJECT event_id_conflict recorded as authorize 2", " run 1, day.jsonl:5"),
        ("p1 e2 resolution dismissed by alice failed 2", " a stale report"),
        ("p1 correction corrected by bob failed → captured 2", " the money came"),
    ]
    for start, end in parts:
        assert [row for row in rows if row.startswith(start) and row.endswith(end)], (start, rows)


def test_history_without_entries(filled: InProcess) -> None:
    assert filled("history", "--run", "9").stdout == "no entries match\n"
    assert filled("history", "--run", "9", "--format", "json").stdout == ""


def test_history_until_before_since_is_refused(filled: InProcess) -> None:
    line = error_line(filled("history", "--since", "2026-11-18", "--until", "2026-11-17"), 2)
    assert line == "payproc: --until: 2026-11-17 00:00:00 UTC is not later than --since, so nothing can fit"


def test_history_survives_lost_runs(run_in_process: InProcess, sql: Sql) -> None:
    """The names of the sources are gone with the run, and the entries are not."""
    run_in_process("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    sql.rows("DELETE FROM payproc.runs RETURNING run_id")
    assert [each["source"] for each in entries(run_in_process)] == ["source 0"]


@pytest.mark.parametrize(
    "command", ["history > file", "history | cat > file", "history --format json > file", "payments > file"]
)
def test_listing_bar_is_drawn_unless_in_a_pipe(payproc: Payproc, run_in_process: InProcess, command: str) -> None:
    """The reader of a pipe may draw one on the same terminal."""
    run_in_process("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    script = f'"$0" {command}'
    with (
        open_terminal() as terminal,
        Shell(payproc).start(script, stderr=terminal.stream, env={"TERM": "xterm"}),
    ):
        drawn = terminal.read_all()
    assert "authorize" in (payproc.folder / "file").read_text()
    assert (b"1/1" in drawn) == ("|" not in command)


@pytest.mark.parametrize("columns", [80, 110, 160])
def test_tables_show_real_ids_whole(run_in_process: InProcess, columns: int) -> None:
    """Ids of 27 and 36 characters, and the line of a file of a long name in a deep folder."""
    event, payment = "evt_3MmlLrLkdIwHu7ix0snN0B1", "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
    second = event_line("4f1c2d9e-7a3b-4c8d-9e0f-112233445566", payment, "refund")
    folder = run_in_process.folder / "spool" / "psp" / "2026-11-18"
    folder.mkdir(parents=True)
    (folder / "events-2026-11-18-newest-first.jsonl").write_bytes(
        b"\n" * 15176 + event_line(event, payment, "capture") + b"\n" + second
    )
    run_in_process("ingest", folder / "events-2026-11-18-newest-first.jsonl")
    for command in (["history"], ["review"], ["show", payment]):
        shown = run_in_process(*command, env={"COLUMNS": str(columns)}).stdout
        assert max(map(len, shown.splitlines())) <= columns
        assert event in shown
        assert payment in shown
        assert "/events-2026-11-18-newest-first.jsonl:15177" in shown


def test_history_shortens_notes(run_in_process: InProcess) -> None:
    """A note that goes with a thousand decisions would fill the screen; `show` has it whole."""
    run, note = run_in_process, "a\tb " * 100
    run("ingest", "-", stdin=event_line("e9", "p9", "capture"))
    run("resolve", "e9", "--dismiss", "--note", note, "--by", "zoe", "--yes")
    shown = run("history", "--by", "zoe", env={"COLUMNS": "2000"}).stdout
    assert shown.rstrip().endswith(r"a\tb " * 50 + "…")
    assert "…" not in run("show", "p9", env={"COLUMNS": "2000"}).stdout
