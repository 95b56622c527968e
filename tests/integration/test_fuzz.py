"""Damaged lines by the million: each is an event or reported, and none takes a good neighbour with it.

What belongs here: lines that nobody thought of. Those that somebody did are in tests/unit/test_schemas.py. Every seed
is part of a test's name: what fails is repeated by running that test again.
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

from payproc.schemas import Malformed, parse_line, parse_lines
from tests.support.command import Payproc
from tests.support.mutate import good_neighbour, mutated
from tests.support.postgres import Sql, assert_books_right, wait_for
from tests.support.second_reading import LONGEST_LINE_BYTES, Event, second_reading
from tests.support.tally import count

slow = pytest.mark.slow

KINDS_OF_ERROR = (
    *("not JSON: ", "not UTF-8: ", "nested ", "the number "),
    *("event_id: missing", "event_id: given 2 times", "event_id: empty", "event_id: the number", "event_id: 256 char"),
    *('"x": ', '"\\u0000": ', '"\\ud800": ', "payment_id: null", 'payment_id: "', "type: unknown "),
)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=slow) for seed in range(1, 8))])
def test_the_parser_reads_every_damaged_line_as_a_second_reading_does(seed: int) -> None:
    lines = 20_000 if seed == 0 else 150_000
    accepted = 0
    errors = set()
    for line in mutated(seed, lines):
        parsed = parse_line(line)
        event = second_reading(line)
        if isinstance(parsed, Malformed):
            assert event is None, f"refused: {line!r}: {parsed.error}"
            assert parsed.error.isascii(), line
            assert parsed.error.isprintable(), line
            errors.add(parsed.error)
        else:
            found, text = parsed
            assert (found.event_id, found.payment_id, found.type.value) == event, f"read otherwise: {line!r}"
            assert text.encode() == line
            accepted += 1
    # It would prove little if nearly all were bad, or all in the same way.
    assert accepted > lines // 10
    assert [kind for kind in KINDS_OF_ERROR if not any(error.startswith(kind) for error in errors)] == []
    count("damaged lines parsed", lines)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=slow) for seed in range(1, 5))])
def test_a_line_is_parsed_the_same_whatever_its_neighbours(seed: int) -> None:
    """Ordinary lines are parsed many at once. Two damaged ones among them, or next to each other, change nothing."""
    lines = 4_000 if seed == 0 else 40_000
    chance = Random(seed)
    damaged = [line for line in mutated(seed, lines) if b"\n" not in line]
    for first, second in zip(damaged[::2], damaged[1::2], strict=False):
        group = [good_neighbour(str(number)) for number in range(chance.randrange(1, 60))]
        where = chance.randrange(len(group))
        group[where : where + 1] = [first, second] if chance.random() < 0.5 else [first]
        group.insert(chance.randrange(len(group)), second)
        assert parse_lines(group) == [parse_line(line) for line in group]
    count("damaged lines parsed among others", lines)


class Line(NamedTuple):
    """A line of a file that is not blank."""

    number: int
    raw: bytes
    event: Event | None
    is_neighbour: bool


def file_of_damaged_lines(seed: int, count: int) -> bytes:
    """So many damaged lines, each beside one that is good; among them some too long, blank ones, CRLF and a BOM."""
    chance = Random(seed)
    lines = []
    for number, line in enumerate(mutated(seed, count)):
        lines.append(good_neighbour(f"{seed} {number}") + chance.choice((b"", b"", b"\r")))
        if number % (count // 4) == 7:
            start = b'{"event_id":"too long %d","payment_id":"p","type":"fail","x":"' % number
            line = start + b"x" * (LONGEST_LINE_BYTES - len(start) - 2 + chance.randrange(2)) + b'"}'  # noqa: PLW2901
        lines.append(line)
        if chance.random() < 0.02:
            lines.append(chance.choice((b"", b" \t", b"\r")))
    return b"\xef\xbb\xbf" + b"\n".join(lines)


def lines_of(content: bytes) -> Iterator[Line]:
    """What a file holds, read apart from payproc: lines end with a line feed, and a carriage return before it."""
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if raw.strip(b" \t\r"):
            event = second_reading(raw.removesuffix(b"\r"))
            yield Line(number, raw, event, event is not None and event.event_id.startswith("good "))


def feed(payproc: Payproc, content: bytes, chance: Random, *arguments: str) -> tuple[int, str, str]:
    """Ingest by a pipe in pieces of any size, so that reads end anywhere: in a line, in a character, in a CRLF."""
    results, complaints = payproc.folder / "stdout", payproc.folder / "stderr"
    with results.open("wb") as stdout, complaints.open("wb") as stderr:
        options = {"stdin": -1, "stdout": stdout, "stderr": stderr, "bufsize": 0}
        with payproc.start("ingest", "--format", "json", *arguments, "-", **options) as process:
            pipe, place = process.stdin.fileno(), 0
            while place < len(content):
                place += os.write(pipe, content[place : place + chance.choice((1, 100, 5_000, 60_000))])
                if chance.random() < 0.3 and process.poll() is None:
                    # Whatever is written next then comes with another read.
                    wait_for(lambda: not int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4), sys.byteorder))
            process.stdin.close()
            code = process.wait(timeout=300)
    return code, results.read_text(), complaints.read_text()


@pytest.mark.parametrize(
    ("seed", "workers", "damaged"),
    [(100, 2, 1_000), *(pytest.param(100 + workers, workers, 20_000, marks=slow) for workers in (1, 2, 3))],
)
def test_every_damaged_line_is_an_event_or_reported_and_every_good_neighbour_is_recorded(
    payproc: Payproc, sql: Sql, seed: int, workers: int, damaged: int
) -> None:
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
    # Byte for byte, as they came.
    assert (payproc.folder / "bad").read_bytes() == b"".join(line.raw + b"\n" for line in lines if line.event is None)
    check_stored(sql, events)
    assert_books_right(sql)
    assert payproc("verify", "--quiet").code == 0
    count("damaged lines ingested, each beside a good one", damaged)


def check_decisions(decisions: list[dict[str, Any]], lines: list[Line]) -> None:
    """Each line is there once, in order, as what it is; of neighbours, each is applied."""
    assert [decision["line"] for decision in decisions] == [line.number for line in lines]
    for decision, line in zip(decisions, lines, strict=True):
        assert decision["source"] == "<stdin>"
        if line.event is None:
            assert set(decision) == {"source", "line", "error"}, line
        else:
            assert (decision["event_id"], decision["payment_id"], decision["type"]) == line.event
            assert not line.is_neighbour or decision["outcome"] == "APPLY"


def check_stored(sql: Sql, events: list[Line]) -> None:
    """Under each id stands the first line that had it, byte for byte, and nothing else is stored."""
    expected: dict[str, tuple[str, str, str]] = {}
    for line in events:
        assert line.event is not None
        event_id, payment_id, event_type = line.event
        expected.setdefault(event_id, (payment_id, event_type, line.raw.removesuffix(b"\r").decode()))
    rows = sql.rows("SELECT event_id, payment_id, type, payload::text FROM payproc.events")
    assert {event_id: tuple(rest) for event_id, *rest in rows} == expected
    under_one_id = "SELECT event_id, payment_id, type, payload::text FROM payproc.event_conflicts"
    for event_id, payment_id, event_type, payload in sql.rows(under_one_id):
        assert second_reading(payload.encode()) == (event_id, payment_id, event_type)
        assert (payment_id, event_type) != expected[event_id][:2]
