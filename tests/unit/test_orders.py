"""Lines of `resolve --from`: orders, defaults, and malformed lines."""

import errno
import io
import json

import pytest

from payproc.bulk import Fate, Order
from payproc.errors import CannotFinish
from payproc.logic import Resolution, State
from payproc.orders import MAX_ORDER_BYTES, Defaults, MalformedOrder, parse_order, read_orders
from payproc.review import ReviewDecision

NOTHING = Defaults(None, None, "alice", None)
WHOLE = b'{"event_id": "e1", "resolution": "apply", "note": " paid ", "by": "bob", "expect": "captured", "version": 3}'
RESOLUTION = "expected apply or dismiss"


def test_parse_order_takes_all_fields() -> None:
    decision = ReviewDecision(Resolution.APPLY, "paid", "bob", State.CAPTURED)
    assert parse_order(WHOLE, "f", 7, NOTHING) == Order("e1", decision, 3, "f", 7)


def test_parse_order_fills_in_defaults() -> None:
    defaults = Defaults(Resolution.DISMISS, "a stale report", "alice", State.CREATED)
    decision = ReviewDecision(Resolution.DISMISS, "a stale report", "alice", State.CREATED)
    for line in (b'{"event_id": "e1"}', b'{"event_id": "e1", "note": null, "resolution": null, "version": null}'):
        assert parse_order(line, "f", 1, defaults) == Order("e1", decision, None, "f", 1)
    order = parse_order(WHOLE, "f", 1, defaults)
    assert isinstance(order, Order)
    assert (order.decision.by, order.decision.resolution) == ("bob", Resolution.APPLY)


def test_parse_order_ignores_other_fields() -> None:
    """The line of a review repeats the names of fields inside its payload."""
    review = {
        "event_id": "e1",
        "state": "void",
        "payload": {"event_id": "x", "note": 5, "resolution": "y", "version": ""},
    }
    line = json.dumps({**review, "resolution": "apply", "note": "n"}).encode()
    assert isinstance(parse_order(line, "f", 1, NOTHING), Order)


@pytest.mark.parametrize("number", ["1e400", "9" * 5000])
@pytest.mark.parametrize(
    "payload", ['{"amount": %s}', '{"event_id": "x", "amount": %s}', '{"note": "\\u00e9", "n": %s}']
)
def test_parse_order_ignores_huge_numbers(payload: str, number: str) -> None:
    """PostgreSQL keeps a payload as text, so numbers beyond a double come back as received."""
    line = f'{{"event_id": "e1", "payload": {payload % number}, "resolution": "apply", "note": "n"}}'
    assert isinstance(parse_order(line.encode(), "f", 1, NOTHING), Order)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"{", "the line ends before its JSON does, expected one JSON object a line"),
        (b"[1]", "not an object, expected one JSON object a line"),
        (b'{"event_id": "\xff"}', "not UTF-8: byte 0xff at offset 14, expected UTF-8 text"),
        (b'{"event_id": "e", "x": "\xff"}', "not UTF-8: "),
        (b'{"event_id": "e", "version": 1e400}', "not JSON: number out of range, "),
        (b'{"event_id": "e", "x": ' + b"[" * 100_000 + b"}", "nested too deeply, "),
        (b"{}", "event_id: missing, expected a string"),
        (b'{"event_id": 7}', "event_id: 7, expected a string"),
        (b'{"event_id": ""}', "event_id: empty, expected some text"),
        (b'{"event_id": "a\\u0000b"}', "event_id: holds a NUL character, expected none"),
        (b'{"event_id": "e"}', f"resolution: missing, {RESOLUTION}; --apply or --dismiss gives one to every line"),
        (b'{"event_id": "e", "resolution": "Apply"}', f'resolution: unknown "Apply", {RESOLUTION}'),
        (b'{"event_id": "e", "resolution": ["apply"]}', f'resolution: unknown ["apply"], {RESOLUTION}'),
        (
            b'{"event_id": "e", "resolution": "apply"}',
            "note: missing, expected a string; --note TEXT gives one to every line that lacks it",
        ),
        (b'{"event_id": "e", "resolution": "apply", "note": " "}', "note: empty, expected some text"),
        (b'{"event_id": "e", "resolution": "apply", "note": "n", "by": 1}', "by: 1, expected a string"),
        (
            b'{"event_id": "e", "resolution": "apply", "note": "%s"}' % (b"n" * 10_001),
            "note: 10,001 characters, expected at most 10,000",
        ),
        (
            b'{"event_id": "e", "resolution": "apply", "note": "n", "expect": "paid"}',
            'expect: unknown "paid", expected created, authorized, captured, refunded or failed',
        ),
        (
            b'{"event_id": "e", "resolution": "apply", "note": "n", "version": true}',
            "version: true, expected a whole number",
        ),
        (
            b'{"event_id": "e", "resolution": "apply", "note": "n", "version": "3"}',
            'version: "3", expected a whole number',
        ),
        (
            b'{"event_id": "e", "resolution": "apply", "note": "n", "resolution": "dismiss"}',
            "resolution: given 2 times, expected once",
        ),
        (
            b'{"event_id": "k1", "event\\u005fid": "k2", "resolution": "apply", "note": "n"}',
            "event_id: given 2 times, expected once",
        ),
    ],
)
def test_parse_order_malformed_line(line: bytes, error: str) -> None:
    order = parse_order(line, "f", 3, NOTHING)
    assert isinstance(order, MalformedOrder)
    result = order.result
    assert (result.source, result.line, result.result) == ("f", 3, Fate.MALFORMED)
    assert str(result.error).startswith(error)


@pytest.mark.parametrize("start", ['{"x": ', '{"event_id": ', '{"event_id": "e", "event_id": '])
def test_parse_order_deep_nesting_is_no_crash(start: str) -> None:
    """Each parser and writer of JSON has its own limit, which the depth of the stack moves."""
    for depth in (*range(900, 1000), 10_000):
        line = f"{start}{'[' * depth}{']' * depth}}}".encode()
        assert isinstance(parse_order(line, "f", 3, NOTHING), MalformedOrder)


def test_read_orders_numbers_lines() -> None:
    """A byte order mark, CRLF, blank lines and a missing last newline are fine."""
    file = io.BytesIO(b"\xef\xbb\xbf" + WHOLE + b"\r\n\n  \n{\n" + WHOLE)
    read = list(read_orders(file, "f", NOTHING, lambda _: None))
    assert [(type(each), each.line) for each in read] == [(Order, 1), (MalformedOrder, 4), (Order, 5)]


def test_read_orders_oversized_line() -> None:
    file = io.BytesIO(WHOLE + b"\n" + b"x" * (3 * MAX_ORDER_BYTES) + b"\n" + WHOLE)
    first, oversized, last = read_orders(file, "f", NOTHING, lambda _: None)
    assert (first.line, oversized.line, last.line) == (1, 2, 3)
    assert isinstance(oversized, MalformedOrder)
    assert oversized.reason.error == "line too long: over 8,388,608 bytes"


def test_read_orders_refuses_by_the_start() -> None:
    def refuse(start: bytes) -> None:
        raise ValueError(start)

    start = "day.jsonl" + "\0" * 248 + "ustar"  # a tar archive tells its kind late
    with pytest.raises(ValueError, match="ustar"):
        next(read_orders(io.BytesIO(start.encode() + b"\n"), "f", NOTHING, refuse))


def test_read_orders_reports_a_failed_read() -> None:
    """A line before it is an order, because a disk or a mount may go away in the middle."""

    class Failing(io.BytesIO):
        def readline(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(errno.EIO, "Input/output error")
            return super().readline(size)

    orders = read_orders(Failing(WHOLE + b"\n" + WHOLE), "f", NOTHING, lambda _: None)
    assert isinstance(next(orders), Order)
    with pytest.raises(CannotFinish, match=r"^f: cannot be read: Input/output error; recorded decisions stay recorded"):
        next(orders)
