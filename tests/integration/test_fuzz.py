"""Damaged lines through the command: each is an event or reported, and no good line is lost.

This file holds random input to a whole ingest. The parser alone is fuzzed in
tests/unit/test_parser_fuzz.py. The seed is in the test's name.
"""

import fcntl
import json
import os
import sys
import termios
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import pytest

from tests.support.command import Payproc
from tests.support.mutate import good_neighbour, mutated
from tests.support.postgres import Sql, assert_books_right, wait_for
from tests.support.reference_parser import MAX_LINE_BYTES, Event, read_event
from tests.support.reports import assert_verified
from tests.support.tally import count

slow = pytest.mark.slow


class Line(NamedTuple):
    """A line of the input that is not blank."""

    number: int
    raw: bytes
    event: Event | None
    is_neighbour: bool


def file_of_damaged_lines(seed: int, count: int) -> bytes:
    """Return an input of damaged lines, each beside a good one.

    It also has oversized lines, blank lines, CRLFs and a byte order mark.
    """
    chance = Random(seed)
    lines = []
    for number, line in enumerate(mutated(seed, count)):
        lines.append(good_neighbour(f"{seed} {number}") + chance.choice((b"", b"", b"\r")))
        if number % (count // 4) == 7:
            start = b'{"event_id":"too long %d","payment_id":"p","type":"fail","x":"' % number
            line = start + b"x" * (MAX_LINE_BYTES - len(start) - 2 + chance.randrange(2)) + b'"}'  # noqa: PLW2901
        lines.append(line)
        if chance.random() < 0.02:
            lines.append(chance.choice((b"", b" \t", b"\r")))
    return b"\xef\xbb\xbf" + b"\n".join(lines)


def lines_of(content: bytes) -> Iterator[Line]:
    """Return the lines of an input, split and parsed without payproc; each ends with LF or CRLF."""
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if raw.strip(b" \t\r"):
            event = read_event(raw.removesuffix(b"\r"))
            yield Line(number, raw, event, event is not None and event.event_id.startswith("good "))


def feed(payproc: Payproc, content: bytes, chance: Random, *arguments: str) -> tuple[int, str, str]:
    """Ingest from a pipe in pieces, so that reads end within lines, characters and CRLFs."""
    out, err = payproc.folder / "stdout", payproc.folder / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        options = {"stdin": -1, "stdout": stdout, "stderr": stderr, "bufsize": 0}
        with payproc.start("ingest", "--format", "json", *arguments, "-", **options) as process:
            pipe, place = process.stdin.fileno(), 0
            while place < len(content):
                place += os.write(pipe, content[place : place + chance.choice((1, 100, 5_000, 60_000))])
                if chance.random() < 0.3 and process.poll() is None:
                    # The next piece then comes with another read.
                    wait_for(lambda: not int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4), sys.byteorder))
            process.stdin.close()
            code = process.wait(timeout=300)
    return code, out.read_text(), err.read_text()


@pytest.mark.parametrize(
    ("seed", "workers", "damaged"),
    [(100, 2, 1_000), *(pytest.param(100 + workers, workers, 20_000, marks=slow) for workers in (1, 2, 3))],
)
def test_damaged_lines_spare_their_neighbours(
    payproc: Payproc, sql: Sql, seed: int, workers: int, damaged: int
) -> None:
    """A damaged line is an event or reported as malformed, and its good neighbour is recorded."""
    content = file_of_damaged_lines(seed, damaged)
    lines = list(lines_of(content))
    events = [line for line in lines if line.event is not None]
    neighbours = [line for line in lines if line.is_neighbour]
    assert len(neighbours) >= damaged
    assert len(lines) - len(events) > damaged // 2
    assert len(events) - len(neighbours) > damaged // 20

    code, stdout, stderr = feed(
        payproc, content, Random(seed), "--workers", str(workers), "--decisions", "decisions", "--malformed", "bad"
    )

    assert "Traceback" not in stdout + stderr
    assert code == 3, stderr
    summary = json.loads(stdout)
    assert (summary["lines"], summary["events"], summary["malformed"]) == (
        len(lines),
        len(events),
        len(lines) - len(events),
    )
    assert sum(summary["outcomes"].values()) == sum(summary["reasons"].values()) == len(events)
    decisions = [json.loads(row) for row in (payproc.folder / "decisions").read_bytes().splitlines()]
    check_decisions(decisions, lines)
    # Byte for byte as received.
    assert (payproc.folder / "bad").read_bytes() == b"".join(line.raw + b"\n" for line in lines if line.event is None)
    check_stored(sql, events)
    assert_books_right(sql)
    assert_verified(payproc)
    count("damaged lines ingested, each beside a good one", damaged)


def check_decisions(decisions: list[dict[str, Any]], lines: list[Line]) -> None:
    """Check that each line has one decision, in order, and that each neighbour is applied."""
    assert [decision["line"] for decision in decisions] == [line.number for line in lines]
    for decision, line in zip(decisions, lines, strict=True):
        assert decision["source"] == "<stdin>"
        if line.event is None:
            assert set(decision) == {"source", "line", "error"}, line
        else:
            assert (decision["event_id"], decision["payment_id"], decision["type"]) == line.event
            assert not line.is_neighbour or decision["outcome"] == "APPLY"


def check_stored(sql: Sql, events: list[Line]) -> None:
    """Check that the first line of each event_id is stored byte for byte, and nothing else."""
    expected: dict[str, tuple[str, str, str]] = {}
    for line in events:
        assert line.event is not None
        event_id, payment_id, event_type = line.event
        expected.setdefault(event_id, (payment_id, event_type, line.raw.removesuffix(b"\r").decode()))
    rows = sql.rows("SELECT event_id, payment_id, type, payload::text FROM payproc.events")
    assert {event_id: tuple(rest) for event_id, *rest in rows} == expected
    conflicts = "SELECT event_id, payment_id, type, payload::text FROM payproc.event_conflicts"
    for event_id, payment_id, event_type, payload in sql.rows(conflicts):
        assert read_event(payload.encode()) == (event_id, payment_id, event_type)
        assert (payment_id, event_type) != expected[event_id][:2]
