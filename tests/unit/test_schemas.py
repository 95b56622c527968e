"""Input lines that are events.

Belongs here: anything about `payproc.schemas` but the sentences of malformed lines. The cutting of
a file into lines (BOM, CRLF, blank and oversized lines) is tested with ingest.
"""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payproc.explain import Malformed
from payproc.logic import EventType
from payproc.schemas import MAX_LINE_BYTES, PaymentEvent, parse_line, parse_lines
from tests.support.event_lines import EVENT, GOOD, with_field, with_value


@pytest.mark.parametrize("event_type", [each.value for each in EventType])
def test_three_fields_make_an_event(event_type: str) -> None:
    line = f'{{"event_id":"e1","payment_id":"p1","type":"{event_type}"}}'

    assert parse_line(line.encode()) == (PaymentEvent("e1", "p1", EventType(event_type)), line)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"type":"capture","payment_id":"p1","event_id":"e1"}', id="fields in another order"),
        pytest.param(b' { "event_id" : "e1",\t"payment_id":"p1", "type":"capture" } ', id="white space between tokens"),
        pytest.param(GOOD + b"\r", id="a carriage return behind it"),
        pytest.param(GOOD + b" \t\r\n", id="white space behind it"),
        pytest.param(with_value(b'{"amount":12.50,"tags":["a",null,true]}'), id="an extra field"),
        pytest.param(with_value(b'1,"x":2'), id="an extra field twice"),
        pytest.param(with_value(b'"\xc3\xa9 \xe2\x80\xa8 \xf0\x9f\x98\x80"'), id="an extra field in Unicode"),
        pytest.param(with_value(b'"\x7f"'), id="DEL in an extra field, which JSON allows"),
        pytest.param(with_value(b'"\\u0001\\u001b\\u0085"'), id="escaped control characters in an extra field"),
        pytest.param(with_field(b'"":""'), id="an extra field with an empty key"),
        pytest.param(with_field(b'"Event_id":"e2","event_id ":"e3"'), id="extra keys that only look like ours"),
        pytest.param(
            b'{"event_\\u0069d":"e1","\\u0070ayment_id":"p1","\\u0074\\u0079\\u0070\\u0065":"capture"}',
            id="escaped keys",
        ),
        pytest.param(
            b'{"event_id":"\\u00651","payment_id":"p\\u0031","type":"c\\u0061pture"}',
            id="escaped values",
        ),
        pytest.param(with_value(b'{"event_id":"e2","payment_id":3,"type":"void"}'), id="our keys in a nested object"),
        pytest.param(with_value(b'[{"event_id":1,"event_id":2}]'), id="our key twice in a nested object"),
        pytest.param(with_value(b'{"event_\\u0069d":1}'), id="our key in a nested object, escaped"),
        pytest.param(with_value(b'"\\"event_id\\":\\"e2\\""'), id="a string that holds our key in quotes"),
        pytest.param(with_value(b'["event_id","payment_id","type"]'), id="strings that are our keys"),
        pytest.param(with_field(b'"\\"type\\"":1'), id="a key that holds our key in quotes"),
        pytest.param(with_value(b'"\\\\u0000"'), id="an escaped backslash before u0000, which is no NUL"),
        pytest.param(with_value(b'"\\\\\\\\u0000"'), id="two escaped backslashes before u0000"),
        pytest.param(with_value(b'"\\\\ud800"'), id="an escaped backslash before ud800, which is no surrogate"),
        pytest.param(with_value(b'"\\ud83d\\ude00"'), id="a surrogate pair"),
        pytest.param(with_value(b'{"\\uD83D\\uDE00":0}'), id="a surrogate pair in a nested key, capital digits"),
        pytest.param(with_value(b"9" * 5_000), id="an integer longer than Python converts"),
        pytest.param(with_value(b"9" * 5_000 + b',"y":"\\u0041"'), id="such an integer in a line looked at closely"),
        pytest.param(with_value(b"-1e99999"), id="a number beyond any float"),
        pytest.param(with_value(b"[-0,0.10,1E+2,1e-400]"), id="numbers as JSON allows them"),
        pytest.param(with_value(b"[" * 99 + b"]" * 99), id="99 brackets, in the line's own"),
        pytest.param(
            with_value(b"[" * 99 + b'"\\u0041"' + b"]" * 99), id="99 brackets, in the line's own, looked at closely"
        ),
    ],
)
def test_line_is_kept_verbatim(line: bytes) -> None:
    assert parse_line(line) == (EVENT, line.decode())


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param("x", "x", id="one character"),
        pytest.param("x" * 255, "x" * 255, id="255 characters"),
        pytest.param("\u00e9" * 255, "\u00e9" * 255, id="255 characters of two bytes"),
        pytest.param("\U0001f600" * 255, "\U0001f600" * 255, id="255 astral characters, counted as code points"),
        pytest.param("\u200b" * 255, "\u200b" * 255, id="255 invisible characters of three bytes"),
        pytest.param("\\ud83d\\ude00" * 255, "\U0001f600" * 255, id="255 astral characters, escaped"),
        pytest.param("платёж-№7-支付", "платёж-№7-支付", id="not Latin"),
        pytest.param("cafe\u0301", "cafe\u0301", id="a decomposed letter stays decomposed"),
        pytest.param("caf\u00e9", "caf\u00e9", id="a composed letter stays composed"),
        pytest.param("a b\u00a0c\u2028d", "a b\u00a0c\u2028d", id="white space within"),
        pytest.param("a\u200b\u202eb\U000e0001", "a\u200b\u202eb\U000e0001", id="format characters"),
        pytest.param("\ue000\U0010ffff", "\ue000\U0010ffff", id="private and unassigned characters"),
        pytest.param('a\\"b\\\\c\\/d', 'a"b\\c/d', id="quotes and slashes"),
        pytest.param("'; drop table payments; --", "'; drop table payments; --", id="SQL is only text"),
        pytest.param("{1,\\\\N,NULL}", "{1,\\N,NULL}", id="PostgreSQL's array and COPY syntax is only text"),
    ],
)
def test_ids_of_any_text_are_unchanged(written: str, expected: str) -> None:
    line = f'{{"event_id":"{written}","payment_id":"{written}","type":"fail"}}'

    assert parse_line(line.encode()) == (PaymentEvent(expected, expected, EventType.FAIL), line)


# --- lines together, and lines made of values -----------------------------------------------------


def event_line(event_id: str, **more: object) -> bytes:
    return json.dumps({"event_id": event_id, "payment_id": "p", "type": "fail", **more}, ensure_ascii=False).encode()


ONE = event_line("one")

# Together, each of these would pass for as many events as there are lines, or hide a fault behind a
# good neighbour.
TRAPS = [
    [ONE + ONE, ONE[:20], ONE[20:]],
    [ONE + ONE, b""],
    [ONE + ONE, b"{}"],
    [ONE, b" " + ONE, ONE + b" ", ONE + b"\r"],
    [ONE + b",", ONE + b","],
    [ONE[:-1] + b',"type":"fail"}', b'{"event_id":"two","payment_id":"p"}'],
    [ONE[:-1] + b',"event_id":"x"}', b'{"payment_id":"p","type":"fail"}'],
    [event_line("a|b"), event_line("|"), event_line("||"), event_line("a"), event_line("b|")],
    [ONE[:-1] + b',"event_id":"one"}', ONE],
    [ONE[:-1] + b',"payment_id":"p"}', ONE],
    [ONE[:-1] + b',"type":"fail"}', ONE],
    [event_line(" a"), ONE],
    [event_line("a "), ONE],
    [ONE, event_line("c d"), event_line("e\u00a0")],
    [event_line(""), ONE],
    [ONE, event_line("")],
    [event_line("x" * 255), event_line("x" * 256)],
    [event_line("a\x7f"), ONE],
    [ONE, ONE[:-1] + b',"x":"\\u0000"}', ONE[:-1] + b',"x":"\\/"}'],
    [ONE, b"\xff"],
    [ONE, b'{"event\\u005fid":"e","payment_id":"p","type":"fail","x":"event_id"}'],
    [event_line(str(depth), x=json.loads("[" * depth + "]" * depth)) for depth in (1, 98, 99, 100, 101)],
    [event_line(str(number), x=[[]] * 60) for number in range(50)],
    [event_line("big", x="y" * MAX_LINE_BYTES), ONE],
    [event_line(str(number)) for number in range(123)],
    [],
]


@pytest.mark.parametrize("lines", TRAPS)
def test_lines_together_are_parsed_as_each_alone(lines: list[bytes]) -> None:
    assert parse_lines(lines) == [parse_line(line) for line in lines]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)

IDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]),
    min_size=1,
    max_size=255,
).filter(lambda text: text == text.strip())

JSON_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT, st.just("type")
    ),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        # Nested, the names of the three fields mean nothing.
        st.dictionaries(st.one_of(TEXT, st.sampled_from(["event_id", "type"])), children, max_size=3),
    ),
    max_leaves=6,
)

EXTRA_FIELDS = st.dictionaries(
    TEXT.filter(lambda key: key not in {"event_id", "payment_id", "type"}), JSON_VALUES, max_size=4
)


@pytest.mark.parametrize("ensure_ascii", [True, False])
@given(st.builds(PaymentEvent, IDS, IDS, st.sampled_from(EventType)), EXTRA_FIELDS, st.randoms())
@settings(max_examples=60)
def test_event_written_as_json_is_read_back(
    ensure_ascii: bool, event: PaymentEvent, extra: dict[str, Any], random: Random
) -> None:
    fields = [
        ("event_id", event.event_id),
        ("payment_id", event.payment_id),
        ("type", event.type.value),
        *extra.items(),
    ]
    random.shuffle(fields)
    text = json.dumps(dict(fields), ensure_ascii=ensure_ascii)

    assert parse_line(text.encode()) == (event, text)


def test_slow_line_is_refused_at_once() -> None:
    # An unterminated string of a megabyte of escaped quotes behind many brackets: if every quote in
    # it were tried as a beginning, this would take an hour.
    line = b"[" * 101 + b'"' + b'\\"' * ((MAX_LINE_BYTES - 200) // 2)
    assert parse_line(line) == Malformed("nested 101 deep, expected 100 at most")
