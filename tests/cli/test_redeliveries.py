"""Duplicates with other content: marked, counted, kept once and found, and otherwise duplicates."""

import json
from pathlib import Path
from typing import Any

import pytest

from payproc.content import MAX_COMPARED_BYTES
from tests.support.command import Payproc
from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import IS_FOR_CITUS, NewDatabase, Sql, contents

ORIGINAL = event_line("e3", "p1", "refund", amount=10)
OTHER = event_line("e3", "p1", "refund", amount=90)
DAY = [
    event_line("e1", "p1", "authorize"),
    event_line("e2", "p1", "capture"),
    ORIGINAL,
    OTHER,
    ORIGINAL.replace(b" ", b""),
    event_line("e3", "p2", "refund", amount=90),
]
"""A refund, the same with another amount and without white space, and a conflict with it."""


@pytest.fixture(scope="module")
def filled(shared: InProcess) -> InProcess:
    """The command after two runs over the day."""
    write_lines(shared.folder / "day.jsonl", DAY)
    for _ in range(2):
        shared("ingest", "day.jsonl", "--workers", "1")
    return shared


def decided(run: InProcess | Payproc, *arguments: str | Path, stdin: bytes = b"") -> list[bool]:
    """Ingest; return whether each line differs."""
    rows = run("ingest", "--decisions", "-", *arguments, stdin=stdin).stdout.splitlines()
    assert all(json.loads(row)["reason"] == "duplicate_event" for row in rows if "differs" in row)
    return [json.loads(row).get("differs", False) for row in rows]


def entries(run: InProcess, *options: str) -> list[dict[str, Any]]:
    """List entries as JSON."""
    return [json.loads(row) for row in run("history", "--format", "json", *options).stdout.splitlines()]


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["real", "dry run"])
def test_differing_duplicates_are_marked(run_in_process: InProcess, sql: Sql, dry_run: list[str]) -> None:
    """Within a run, and against an earlier one, which has kept them already."""
    write_lines(run_in_process.folder / "day.jsonl", DAY)
    command = ("day.jsonl", "--workers", "1", *dry_run)
    assert decided(run_in_process, *command) == [False, False, False, True, False, False]
    run_in_process("ingest", "day.jsonl")
    before = contents(sql)
    assert decided(run_in_process, *command) == [False, False, False, True, False, False]
    summary = run_in_process.summary(*command)
    assert (summary["differing_duplicates"], summary["reasons"]["duplicate_event"]) == (1, 5)
    assert run_in_process("ingest", *command, "--quiet", "--fail-on", "REJECT", "--fail-on", "APPLY") == (0, "", "")
    assert contents(sql) == before
    assert before["redeliveries"] == [("e3", 0, 4, OTHER.decode())]


def test_differing_duplicates_with_any_workers(tmp_path: Path, new_database: NewDatabase, template: str) -> None:
    lines = [
        event_line(f"e{number}", f"p{number % 7}", "authorize", attempt=attempt)
        for attempt in (1, 2, 2, 3)
        for number in range(50)
    ]
    write_lines(tmp_path / "day.jsonl", lines)
    for workers in ("1", "2", "5"):
        run = InProcess(tmp_path, new_database(template))
        assert decided(run, "day.jsonl", "--workers", workers) == [False] * 50 + [True] * 150
        assert len(entries(run, "--kind", "conflict")) == 100


@pytest.mark.skipif(IS_FOR_CITUS, reason="its evidence is recorded after the events of its batch")
def test_redelivery_in_a_retried_batch(payproc: Payproc, run_in_process: InProcess, sql: Sql) -> None:
    """The connection dies after the run has kept it. Its own first line is no redelivery."""
    run_in_process("ingest", "-", stdin=event_line("e0", "slow", "authorize"))
    lines = [
        event_line("e1", "p1", "authorize", attempt=1),
        event_line("e1", "p1", "authorize", attempt=2),
        event_line("e2", "slow", "capture"),
        event_line("e1", "p1", "authorize", attempt=1),
        event_line("e1", "p1", "authorize", attempt=2),
    ]
    write_lines(payproc.folder / "day.jsonl", lines)
    with payproc.start("ingest", "day.jsonl", "--workers", "1", "--decisions", "-") as process:
        with sql.locked_payment("slow"):
            backend = sql.wait_for_blocked()
            assert sql.value("SELECT count(*) FROM payproc.redeliveries") == 1
            assert sql.value("SELECT pg_terminate_backend(%s, 30000)", backend)
        stdout, _ = process.communicate()
    found = [json.loads(row) for row in stdout.splitlines()]
    assert [each["reason"] for each in found] == [
        "transition",
        "duplicate_event",
        "transition",
        *["duplicate_event"] * 2,
    ]
    assert [each.get("differs", False) for each in found] == [False, True, False, False, True]
    assert sql.rows("SELECT line FROM payproc.redeliveries") == [(2,)]


def test_large_lines_are_compared_by_digest(run_in_process: InProcess, sql: Sql) -> None:
    """White space counts in them, also within a batch and if they are compressed; export agrees."""
    hard = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(MAX_COMPARED_BYTES))
    for kept, text in enumerate((hard, "y" * MAX_COMPARED_BYTES), 1):
        large = event_line(f"e{kept}", "p1", "authorize", text=text)
        lines = [large, b" " + large, large.replace(b"text", b"next")]
        for _ in range(2):
            assert decided(run_in_process, "-", "--workers", "1", stdin=b"\n".join(lines)) == [False, True, True]
        assert sql.value("SELECT count(*) FROM payproc.redeliveries") == kept * 2
    assert run_in_process("export").code == 0


def test_show_lists_redeliveries_apart(filled: InProcess) -> None:
    shown = json.loads(filled("show", "p1", "--format", "json").stdout)
    (redelivery,) = shown["redeliveries"]
    assert redelivery.pop("recorded_at").endswith("Z")
    origin = {"run_id": 1, "source": "day.jsonl", "line": 4}
    assert redelivery == {"event_id": "e3", "type": "refund", **origin, "payload": json.loads(OTHER)}
    assert [conflict["line"] for conflict in shown["conflicts"]] == [6]
    table = filled("show", "p1", env={"COLUMNS": "120"}).stdout
    heading, row = (table.partition("redelivered with other content\n\n")[2].splitlines()[number] for number in (0, -1))
    assert heading.split() == ["Event", "Type", "Recorded", "(UTC)", "From"]
    assert row.split()[:2] == ["e3", "refund"]
    assert row.rstrip().endswith("run 1, day.jsonl:4")
    other = json.loads(filled("show", "p2", "--format", "json").stdout)
    assert (len(other["conflicts"]), other["redeliveries"]) == (1, [])


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ("--kind conflict", [4, 6]),
        ("--kind conflict --outcome REJECT", [6]),
        ("--kind conflict --outcome IGNORE", [4]),
        ("--reason duplicate_event", [4]),
        ("--reason event_id_conflict", [6]),
        ("--kind conflict --type refund --since 1h --run 1 --payment p1", [4]),
        ("--kind conflict --payment p2", [6]),
        ("--kind conflict --run 2", []),
        ("--kind conflict --type capture", []),
        ("--kind conflict --until 1h", []),
        ("--kind event --reason duplicate_event", []),
    ],
)
def test_history_filters_redeliveries(filled: InProcess, options: str, lines: list[int]) -> None:
    assert [entry["line"] for entry in entries(filled, *options.split())] == lines


def test_history_tells_redeliveries_from_conflicts(filled: InProcess) -> None:
    redelivery, conflict = entries(filled, "--kind", "conflict")
    assert "differs" not in conflict
    del redelivery["recorded_at"]
    assert redelivery == {
        "payment_id": "p1",
        "kind": "conflict",
        "event_id": "e3",
        "type": "refund",
        "outcome": "IGNORE",
        "reason": "duplicate_event",
        "recorded": {"payment_id": "p1", "type": "refund"},
        "run_id": 1,
        "source": "day.jsonl",
        "line": 4,
        "payload": json.loads(OTHER),
        "differs": True,
    }
    (row,) = filled("history", "--reason", "duplicate_event", env={"COLUMNS": "170"}).stdout.splitlines()[2:]
    assert row.split()[:7] == ["p1", "e3", "refund", "IGNORE", "duplicate_event", "other", "content"]


def test_export_has_redeliveries_last(filled: InProcess, new_database: NewDatabase, template: str) -> None:
    """A copy gets them as well."""
    exported = filled("export")
    assert exported.stderr.splitlines()[-1] == "payproc: exported 3 events, 1 conflict and 1 redelivery"
    assert exported.stdout.encode().splitlines() == [*DAY[:3], DAY[5], OTHER]
    copy = InProcess(filled.folder, new_database(template))
    copy("ingest", "-", stdin=exported.stdout.encode())
    assert copy("export").stdout == exported.stdout
