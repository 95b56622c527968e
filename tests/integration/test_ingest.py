"""Ingests with several workers: the order of results, identity across workers, and reading."""

import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from payproc.db import schema
from payproc.db.connection import Database
from payproc.ingest import lines as line_reader
from payproc.ingest import run as ingest
from payproc.ingest.lines import LineReader, OversizedLine
from payproc.ingest.rounds import choose_worker
from payproc.ingest.run import Ingest, Options
from payproc.schemas import MAX_LINE_BYTES
from payproc.signals import Interrupt
from tests.support.events import event_line, messy_lines, write_lines
from tests.support.postgres import NewDatabase, Sql, as_database


def run(
    database: Database, *files: Path, workers: int = 2, dry_run: bool = False
) -> tuple[list[dict[str, Any]], Ingest]:
    """Ingest in this process; return the decisions written, and the ingest."""
    decisions = io.BytesIO()
    job = Ingest(database, [str(file) for file in files], Options(workers, dry_run, decisions))
    job.run(Interrupt())
    return [json.loads(line) for line in decisions.getvalue().splitlines()], job


@pytest.mark.parametrize(
    ("size", "seed"),
    [*(pytest.param(*each, marks=pytest.mark.slow) for each in ((ingest.ROUND_LINES, 1), (50, 2))), (7, 3)],
)
def test_workers_and_round_size_change_no_result(
    new_database: NewDatabase, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, seed: int
) -> None:
    """A dry run decides the same."""
    lines = messy_lines(seed, 600)
    files = [write_lines(tmp_path / "a.jsonl", lines[:250]), write_lines(tmp_path / "b.jsonl", lines[250:])]
    expected, job = run(as_database(new_database(template), "one worker"), *files, workers=1)
    assert all(job.summary.outcomes.values()), "the input lacks an outcome"
    monkeypatch.setattr(ingest, "ROUND_LINES", size)
    for workers in (2, 8):
        decisions, _ = run(as_database(new_database(template), f"{workers} workers"), *files, workers=workers)
        assert decisions == expected
    rehearsed, _ = run(as_database(new_database(template), "rehearsal"), *files, dry_run=True)
    assert rehearsed == expected


def test_first_line_of_an_id_wins_while_blocked(database: Database, sql: Sql, tmp_path: Path) -> None:
    """The two lines have payments of different workers, and the first payment is locked."""
    first, second = "p0", next(f"p{n}" for n in range(1, 100) if choose_worker(f"p{n}", 2) != choose_worker("p0", 2))
    run(database, write_lines(tmp_path / "before.jsonl", [event_line("e0", first, "authorize")]))
    file = write_lines(
        tmp_path / "both.jsonl", [event_line("e1", first, "capture"), event_line("e1", second, "authorize")]
    )
    with ThreadPoolExecutor(1) as background:
        with sql.locked_payment(first):
            running = background.submit(run, database, file)
            sql.wait_for_blocked()
            # The second worker has no lock to wait for. If it did not wait for the first, it would
            # record e1 now.
            threading.Event().wait(0.2)
            assert sql.rows("SELECT 1 FROM payproc.events WHERE event_id = 'e1'") == []
        decisions, _ = running.result()
    assert [decision["reason"] for decision in decisions] == ["transition", "event_id_conflict"]
    assert decisions[1]["recorded"] == {"payment_id": first, "type": "capture"}


def test_first_storable_line_of_an_id_wins(
    sql: Sql, new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latin-1 cannot store line 1.

    It is reported while line 2, of the same event_id, is blocked at its worker.
    """
    url = new_database("template0", "LATIN1")
    database = as_database(url, "a Latin-1 database")
    schema.bring_up(database)
    first, second = "p0", next(f"p{n}" for n in range(1, 100) if choose_worker(f"p{n}", 2) != choose_worker("p0", 2))
    run(database, write_lines(tmp_path / "before.jsonl", [event_line("e0", first, "authorize")]))
    refused = {"event_id": "e1", "payment_id": first, "type": "capture", "x": "€"}
    monkeypatch.setattr(ingest, "ROUND_LINES", 1)
    file = write_lines(
        tmp_path / "x.jsonl",
        [
            json.dumps(refused, ensure_ascii=False).encode(),
            event_line("e1", first, "capture"),
            event_line("f1", "q1", "authorize"),
            event_line("f2", "q2", "authorize"),
            event_line("e1", second, "authorize"),
        ],
    )
    with closing(type(sql)(url)) as latin, ThreadPoolExecutor(1) as background:
        with latin.locked_payment(first):
            running = background.submit(run, database, file)
            latin.wait_for_blocked()
            threading.Event().wait(0.2)  # the other worker has no lock to wait for
        decisions, _ = running.result()
    assert "cannot store it" in decisions[0]["error"]
    assert [decisions[place]["reason"] for place in (1, 4)] == ["transition", "event_id_conflict"]


def test_decisions_have_the_documented_form(database: Database, tmp_path: Path) -> None:
    """Each reason has its own extra fields."""
    file = write_lines(
        tmp_path / "x.jsonl",
        [
            event_line("e1", "p1", "authorize"),
            b"",
            event_line("e1", "p1", "authorize", attempt=2),
            event_line("e1", "p2", "fail"),
            b"{}",
        ],
    )
    decisions, _ = run(database, file)

    def decided(line: int, payment_id: str, event_type: str, outcome: str, reason: str, states: str) -> dict[str, Any]:
        before, after = states.split(" to ")
        event = {"event_id": "e1", "payment_id": payment_id, "type": event_type}
        decision = {"outcome": outcome, "reason": reason, "state_before": before, "state_after": after}
        return {"source": str(file), "line": line, **event, **decision}

    assert decisions == [
        decided(1, "p1", "authorize", "APPLY", "transition", "created to authorized"),
        decided(3, "p1", "authorize", "IGNORE", "duplicate_event", "authorized to authorized")
        | {"original_outcome": "APPLY", "differs": True},
        decided(4, "p2", "fail", "REJECT", "event_id_conflict", "created to created")
        | {"recorded": {"payment_id": "p1", "type": "authorize"}},
        {"source": str(file), "line": 5, "error": "event_id: missing, expected a string of 1 to 255 characters"},
    ]


def test_run_is_recorded_with_its_counts(database: Database, sql: Sql, tmp_path: Path) -> None:
    """It has its sources and times, and its events have the number of their source."""
    a = write_lines(tmp_path / "a.jsonl", [event_line("e1", "p1", "authorize"), b"oops"])
    b = write_lines(
        tmp_path / "b.jsonl",
        [event_line("e2", "p1", "capture"), event_line("e3", "p2", "refund"), event_line("e1", "p1", "authorize")],
    )
    _, job = run(database, a, b)
    (row,) = sql.rows(
        "SELECT run_id, sources, lines, malformed, applied, ignored, rejected, manual_review,"
        " started_at <= active_at AND active_at <= finished_at FROM payproc.runs"
    )
    assert row == (job.summary.run_id, [str(a), str(b)], 5, 1, 2, 1, 0, 1, True)
    assert sql.rows("SELECT event_id, source, line FROM payproc.events ORDER BY 1") == [
        ("e1", 0, 1),
        ("e2", 1, 1),
        ("e3", 1, 2),
    ]


# ---- Reading -------------------------------------------------------------------------------------


def read_all(path: Path, keep_oversized: bool = False) -> list[tuple[int, bytes | OversizedLine]]:
    """Return the numbered lines of a file."""
    reader = LineReader(str(path), 0, keep_oversized)
    lines = []
    while reader.is_open:
        lines += reader.read()
    return lines


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 7, 1 << 18])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n\n \t\n\r\n", []),
        (b"a\nb\n", [(1, b"a"), (2, b"b")]),
        (b"a\nb", [(1, b"a"), (2, b"b")]),
        (b"a\r\n\r\nb\r\n", [(1, b"a\r"), (3, b"b\r")]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", [(1, b"a"), (2, b"\xef\xbb\xbfb")]),
        (b"\xef\xbb\xbf", []),
        (b"a\0b\n \xff \n", [(1, b"a\0b"), (2, b" \xff ")]),
        (b"a\rb\r\r\n", [(1, b"a\rb\r\r")]),
        (b"\x0b\n\x0c\n\xc2\xa0\n", [(1, b"\x0b"), (2, b"\x0c"), (3, b"\xc2\xa0")]),
    ],
)
def test_lines_are_numbered_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int, content: bytes, expected: list[tuple[int, bytes]]
) -> None:
    """Reads may end within a line end or a byte order mark."""
    monkeypatch.setattr(line_reader, "READ_BYTES", read_bytes)
    path = tmp_path / "x"
    path.write_bytes(content)
    assert read_all(path) == expected


@pytest.mark.parametrize("read_bytes", [1000, line_reader.READ_BYTES])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_oversized_line_spares_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int, end: bytes
) -> None:
    """It counts as one line, and its bytes are kept for --malformed."""
    monkeypatch.setattr(line_reader, "READ_BYTES", read_bytes)
    path = tmp_path / "x"
    longest, too_long, far_too_long = b"x" * MAX_LINE_BYTES, b"y" * (MAX_LINE_BYTES + 1), b"z" * (3 * MAX_LINE_BYTES)
    path.write_bytes(
        b"\xef\xbb\xbf" + longest + b"\r\n" + too_long + b"\na\n" + far_too_long + b"\n\nb\n" + far_too_long + end
    )
    lines = read_all(path, keep_oversized=True)
    assert [number for number, _ in lines] == [1, 2, 3, 4, 6, 7]
    assert lines[0][1] == longest + b"\r"
    assert lines[2][1] == b"a"
    assert lines[4][1] == b"b"
    for place in (3, 5):
        oversized = lines[place][1]
        assert isinstance(oversized, OversizedLine)
        assert oversized.spool is not None
        oversized.spool.seek(0)
        assert oversized.spool.read().removesuffix(b"\r") == far_too_long
        oversized.spool.close()
    # A line that is one byte too long is kept whole; the parser refuses it.
    assert lines[1][1] == too_long


def test_wait_for_a_pipe_ends_with_its_data() -> None:
    """A wait returns when the pipe has bytes, be they a whole line or not."""
    wake_up, _ = os.pipe()
    read_end, write_end = os.pipe()
    reader = LineReader(f"/dev/fd/{read_end}", 0, False)
    assert not reader.wait(wake_up, 0)
    os.write(write_end, b"half a line")
    assert reader.wait(wake_up, None)
    assert reader.read() == []
    os.write(write_end, b", and the rest\nmore")
    assert reader.read() == [(1, b"half a line, and the rest")]
    os.close(write_end)
    assert reader.read() == [(2, b"more")]
    assert not reader.is_open
    os.close(read_end)
