"""What a line may look like: lines that are events, lines that are not with the sentence they get.

What belongs here: anything about `payproc.schemas.parse_line`, one line at a time. What splits a file into lines (BOM,
CRLF, blank and oversized lines) is tested with ingest. Sentences are compared whole: they are part of the command.
"""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from payproc.logic import EventType
from payproc.schemas import MAX_LINE_BYTES, Malformed, PaymentEvent, parse_line, parse_lines

# 52 bytes; the value of a field added behind it, `,"x":`, therefore stands at byte 56.
GOOD = b'{"event_id":"e1","payment_id":"p1","type":"capture"}'
EVENT = PaymentEvent("e1", "p1", EventType.CAPTURE)


def with_field(field: bytes) -> bytes:
    return GOOD[:-1] + b"," + field + b"}"


def with_value(value: bytes) -> bytes:
    return with_field(b'"x":' + value)


def with_event_id(value: bytes) -> bytes:
    return GOOD.replace(b'"e1"', value)


def with_payment_id(value: bytes) -> bytes:
    return GOOD.replace(b'"p1"', value)


def with_type(value: bytes) -> bytes:
    return GOOD.replace(b'"capture"', value)


# --- lines that are events -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_type", ["authorize", "capture", "refund", "fail"])
def test_three_fields_are_enough_for_an_event_of_each_type(event_type: str) -> None:
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
        pytest.param(b'{"event_id":"\\u00651","payment_id":"p\\u0031","type":"c\\u0061pture"}', id="escaped values"),
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
def test_the_line_is_kept_verbatim_beside_the_event(line: bytes) -> None:
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
def test_ids_are_any_text_and_come_back_unchanged(written: str, expected: str) -> None:
    line = f'{{"event_id":"{written}","payment_id":"{written}","type":"fail"}}'

    assert parse_line(line.encode()) == (PaymentEvent(expected, expected, EventType.FAIL), line)


# --- lines that are not ----------------------------------------------------------------------------------------------

NOT_JSON = [
    # What was found, and where, is msgspec's own wording; a new release of it may word it anew.
    pytest.param(b"", "not JSON: input data was truncated, expected one JSON object a line", id="nothing"),
    pytest.param(
        GOOD[:-1], "not JSON: input data was truncated, expected one JSON object a line", id="no closing brace"
    ),
    pytest.param(
        b"event_id=e1", "not JSON: invalid character (byte 0), expected one JSON object a line", id="not even a bracket"
    ),
    pytest.param(
        b"{event_id:1}",
        "not JSON: object keys must be strings (byte 1), expected one JSON object a line",
        id="a key without quotes",
    ),
    pytest.param(
        b"{'event_id':1}",
        "not JSON: object keys must be strings (byte 1), expected one JSON object a line",
        id="single quotes",
    ),
    pytest.param(
        GOOD[:-1] + b",}",
        "not JSON: trailing comma in object (byte 52), expected one JSON object a line",
        id="a trailing comma",
    ),
    pytest.param(
        GOOD + GOOD,
        "not JSON: trailing characters (byte 53), expected one JSON object a line",
        id="two objects in a line",
    ),
    pytest.param(
        GOOD + b"//", "not JSON: trailing characters (byte 53), expected one JSON object a line", id="a comment"
    ),
    pytest.param(
        GOOD + b"\0",
        "not JSON: trailing characters (byte 53), expected one JSON object a line",
        id="a raw NUL behind it",
    ),
    pytest.param(
        b"\xef\xbb\xbf" + GOOD,
        "not JSON: invalid character (byte 0), expected one JSON object a line",
        id="a BOM, which only the start of a file may have",
    ),
    pytest.param(
        with_event_id(b'"\\x"'),
        "not JSON: invalid escape character in string (byte 15), expected one JSON object a line",
        id="an unknown escape in a used field",
    ),
    pytest.param(
        with_value(b'"\\x"'),
        "not JSON: invalid escaped character (byte 58), expected one JSON object a line",
        id="an unknown escape in a skipped field",
    ),
    pytest.param(
        with_event_id(b'"\n"'),
        "not JSON: invalid character (byte 13), expected one JSON object a line",
        id="a raw control character in a used field",
    ),
    pytest.param(
        with_value(b'"\t"'),
        "not JSON: invalid character (byte 57), expected one JSON object a line",
        id="a raw control character in a skipped field",
    ),
    pytest.param(
        with_value(b"01"), "not JSON: invalid number (byte 57), expected one JSON object a line", id="a leading zero"
    ),
    pytest.param(
        with_value(b"NaN"), "not JSON: invalid character (byte 56), expected one JSON object a line", id="NaN"
    ),
    pytest.param(
        with_value(b"Infinity"), "not JSON: invalid character (byte 56), expected one JSON object a line", id="Infinity"
    ),
    pytest.param(
        with_value(b"-Infinity"),
        "not JSON: invalid character (byte 57), expected one JSON object a line",
        id="-Infinity",
    ),
    pytest.param(
        with_value(b'NaN,"y":"\\u0041"'),
        "not JSON: invalid character (byte 56), expected one JSON object a line",
        id="NaN in a line that holds an escape",
    ),
    pytest.param(
        with_event_id(b"NaN"),
        "not JSON: invalid character (byte 12), expected one JSON object a line",
        id="NaN for an id",
    ),
]

NOT_AN_OBJECT = [
    pytest.param(b"[]", "an array, expected one JSON object a line", id="array"),
    pytest.param(b"[" + GOOD + b"]", "an array, expected one JSON object a line", id="an array of events"),
    pytest.param(b"-1.50e3", "the number -1.50e3, expected one JSON object a line", id="number as it is written"),
    pytest.param(b'"x"', 'the string "x", expected one JSON object a line', id="string"),
    pytest.param(b'"\\u001b[31m"', 'the string "\\u001b[31m", expected one JSON object a line', id="terminal control"),
    pytest.param(b"null", "null, expected one JSON object a line", id="null"),
    pytest.param(b"true", "true, expected one JSON object a line", id="true"),
    pytest.param(b"false", "false, expected one JSON object a line", id="false"),
]

MISSING = [
    pytest.param(b"{}", "event_id: missing, expected a string of 1 to 255 characters", id="all three"),
    pytest.param(
        b'{"payment_id":"p1","type":"capture"}',
        "event_id: missing, expected a string of 1 to 255 characters",
        id="event_id",
    ),
    pytest.param(
        b'{"event_id":"e1","type":"capture"}',
        "payment_id: missing, expected a string of 1 to 255 characters",
        id="payment_id",
    ),
    pytest.param(
        b'{"event_id":"e1","payment_id":"p1"}',
        "type: missing, expected authorize, capture, refund, fail or flag",
        id="type",
    ),
    pytest.param(
        b'{"Event_ID":"e1","payment_id":"p1","type":"capture"}',
        "event_id: missing, expected a string of 1 to 255 characters",
        id="event_id in capitals",
    ),
    pytest.param(
        b'{"payment_id":"p1","type":"capture","x":{"event_id":"e1"}}',
        "event_id: missing, expected a string of 1 to 255 characters",
        id="event_id in a nested object only",
    ),
]

MISTYPED = [
    pytest.param(with_event_id(b"null"), "event_id: null, expected a string of 1 to 255 characters", id="null"),
    pytest.param(with_event_id(b"true"), "event_id: true, expected a string of 1 to 255 characters", id="true"),
    pytest.param(
        with_event_id(b"17"), "event_id: the number 17, expected a string of 1 to 255 characters", id="a number"
    ),
    pytest.param(
        with_event_id(b"1.0"),
        "event_id: the number 1.0, expected a string of 1 to 255 characters",
        id="a number as it is written",
    ),
    pytest.param(
        with_event_id(b"9" * 5_000),
        f"event_id: the number {'9' * 57}..., expected a string of 1 to 255 characters",
        id="an integer longer than Python converts",
    ),
    pytest.param(
        with_event_id(b'["e1"]'), "event_id: an array, expected a string of 1 to 255 characters", id="an array"
    ),
    pytest.param(
        with_event_id(b'{"id":"e1"}'), "event_id: an object, expected a string of 1 to 255 characters", id="an object"
    ),
    pytest.param(
        with_payment_id(b"false"), "payment_id: false, expected a string of 1 to 255 characters", id="payment_id"
    ),
    pytest.param(
        with_type(b'["capture"]'),
        "type: an array, expected authorize, capture, refund, fail or flag",
        id="type, an array",
    ),
    pytest.param(with_type(b"null"), "type: null, expected authorize, capture, refund, fail or flag", id="type, null"),
    pytest.param(
        b'{"type":1,"payment_id":2,"event_id":3}',
        "event_id: the number 3, expected a string of 1 to 255 characters",
        id="all three, whatever their order",
    ),
]

UNKNOWN_TYPE = [
    pytest.param(
        with_type(b'"void"'),
        'type: unknown "void", expected authorize, capture, refund, fail or flag',
        id="another word",
    ),
    pytest.param(with_type(b'""'), 'type: unknown "", expected authorize, capture, refund, fail or flag', id="empty"),
    pytest.param(
        with_type(b'"Capture"'),
        'type: unknown "Capture", expected authorize, capture, refund, fail or flag',
        id="a capital",
    ),
    pytest.param(
        with_type(b'"capture "'),
        'type: unknown "capture ", expected authorize, capture, refund, fail or flag',
        id="a space behind it",
    ),
    pytest.param(
        with_type(b'"captured"'),
        'type: unknown "captured", expected authorize, capture, refund, fail or flag',
        id="a state's name",
    ),
    pytest.param(
        with_type(b'"\xc3\xa9\\u001b"'),
        'type: unknown "\\u00e9\\u001b", expected authorize, capture, refund, fail or flag',
        id="shown in plain ASCII",
    ),
]

TWICE = [
    pytest.param(with_field(b'"event_id":"e1"'), "event_id: given 2 times, expected once", id="event_id, the same"),
    pytest.param(with_field(b'"event_id":"e2"'), "event_id: given 2 times, expected once", id="event_id, another"),
    pytest.param(
        with_field(b'"payment_id":"p2","payment_id":"p3"'),
        "payment_id: given 3 times, expected once",
        id="payment_id, three times",
    ),
    pytest.param(with_field(b'"type":"refund"'), "type: given 2 times, expected once", id="type"),
    pytest.param(
        with_field(b'"event_\\u0069d":"e2"'),
        "event_id: given 2 times, expected once",
        id="the second event_id with an escape",
    ),
    pytest.param(
        b'{"\\u0070ayment_id":"p2",' + GOOD[1:],
        "payment_id: given 2 times, expected once",
        id="the first payment_id with an escape",
    ),
    pytest.param(
        b'{"\\u0074ype":"fail","typ\\u0065":"refund","event_id":"e1","payment_id":"p1"}',
        "type: given 2 times, expected once",
        id="both types with an escape",
    ),
    pytest.param(b'{"event_id":"",' + GOOD[1:], "event_id: given 2 times, expected once", id="the first empty"),
    pytest.param(
        with_field(b'"x":{"type":1},"type":"capture"'),
        "type: given 2 times, expected once",
        id="once more in a nested object, which does not count",
    ),
]

BAD_CHARACTER = [
    pytest.param(
        with_value(b'"a\\u0000b"'),
        '"x": "a\\u0000b" holds a NUL character (\\u0000), expected none in any string',
        id="NUL in a value",
    ),
    pytest.param(
        with_value(b'"\\\\\\u0000"'),
        '"x": "\\\\\\u0000" holds a NUL character (\\u0000), expected none in any string',
        id="NUL behind an escaped backslash",
    ),
    pytest.param(
        with_value(b'[1,{"y":[null,"\\u0000"]}]'),
        '"x": "\\u0000" holds a NUL character (\\u0000), expected none in any string',
        id="NUL in a nested value",
    ),
    pytest.param(
        with_field(b'"a\\u0000":1'),
        '"a\\u0000": "a\\u0000" holds a NUL character (\\u0000), expected none in any string',
        id="NUL in a key",
    ),
    pytest.param(
        with_value(b'[{"a\\u0000":1}]'),
        '"x": "a\\u0000" holds a NUL character (\\u0000), expected none in any string',
        id="NUL in a nested key",
    ),
    pytest.param(
        with_value(b'"a\\ud800b"'),
        '"x": "a\\ud800b" holds a lone surrogate, expected whole Unicode characters',
        id="a high surrogate alone in a value",
    ),
    pytest.param(
        with_value(b'"a\\udfff"'),
        '"x": "a\\udfff" holds a lone surrogate, expected whole Unicode characters',
        id="a low surrogate alone in a value",
    ),
    pytest.param(
        with_value(b'"\\ude00\\ud83d"'),
        '"x": "\\ude00\\ud83d" holds a lone surrogate, expected whole Unicode characters',
        id="a pair the wrong way round",
    ),
    pytest.param(
        with_value(b'[{"y":"\\uDBFF\\u0041"}]'),
        '"x": "\\udbffA" holds a lone surrogate, expected whole Unicode characters',
        id="a high surrogate before a letter in a nested value",
    ),
    pytest.param(
        with_value(b'{"y":{"\\ud800":1}}'),
        '"x": "\\ud800" holds a lone surrogate, expected whole Unicode characters',
        id="a lone surrogate in a nested key",
    ),
    pytest.param(
        with_field(b'"\\udc00":1'),
        '"\\udc00": "\\udc00" holds a lone surrogate, expected whole Unicode characters',
        id="a lone surrogate in a key",
    ),
    pytest.param(
        with_event_id(b'"e\\ud800"'),
        '"event_id": "e\\ud800" holds a lone surrogate, expected whole Unicode characters',
        id="a lone surrogate in event_id",
    ),
    pytest.param(
        with_type(b'"\\udc00"'),
        '"type": "\\udc00" holds a lone surrogate, expected whole Unicode characters',
        id="a lone surrogate in type",
    ),
]

NOT_UTF_8 = [
    pytest.param(b"\xff", "not UTF-8: byte 0xff at offset 0, expected UTF-8 text", id="nothing else"),
    pytest.param(
        with_event_id(b'"e\xff"'), "not UTF-8: byte 0xff at offset 14, expected UTF-8 text", id="in a used field"
    ),
    pytest.param(
        with_value(b'"\xe9t\xe9"'), "not UTF-8: byte 0xe9 at offset 57, expected UTF-8 text", id="in a skipped field"
    ),
    pytest.param(with_field(b'"\x80":1'), "not UTF-8: byte 0x80 at offset 53, expected UTF-8 text", id="in a key"),
    pytest.param(
        with_value(b'{"\x80":1}'), "not UTF-8: byte 0x80 at offset 58, expected UTF-8 text", id="in a nested key"
    ),
    pytest.param(
        with_value(b'"\xe2\x82"'), "not UTF-8: byte 0xe2 at offset 57, expected UTF-8 text", id="a character cut short"
    ),
    pytest.param(
        with_value(b'"\xc0\x80"'), "not UTF-8: byte 0xc0 at offset 57, expected UTF-8 text", id="Java's overlong NUL"
    ),
    pytest.param(
        with_value(b'"\xed\xa0\x80"'), "not UTF-8: byte 0xed at offset 57, expected UTF-8 text", id="a raw surrogate"
    ),
    pytest.param(
        with_value(b'"\xf4\x90\x80\x80"'),
        "not UTF-8: byte 0xf4 at offset 57, expected UTF-8 text",
        id="beyond the last code point",
    ),
]

BAD_ID = [
    pytest.param(
        with_event_id(b'""'), "event_id: empty, expected a string of 1 to 255 characters", id="empty event_id"
    ),
    pytest.param(
        with_payment_id(b'""'), "payment_id: empty, expected a string of 1 to 255 characters", id="empty payment_id"
    ),
    pytest.param(
        with_event_id(b'"' + b"x" * 256 + b'"'),
        "event_id: 256 characters, expected a string of 1 to 255 characters",
        id="one too many",
    ),
    pytest.param(
        with_payment_id(b'"' + b"x" * 1_256 + b'"'),
        "payment_id: 1,256 characters, expected a string of 1 to 255 characters",
        id="far too many",
    ),
    pytest.param(
        with_event_id(b'"' + b"\xf0\x9f\x98\x80" * 256 + b'"'),
        "event_id: 256 characters, expected a string of 1 to 255 characters",
        id="one astral character too many",
    ),
    pytest.param(
        with_event_id(b'"a\\nb"'), 'event_id: "a\\nb" holds a control character, expected none', id="line feed"
    ),
    pytest.param(
        with_event_id(b'"e\\u0000"'), 'event_id: "e\\u0000" holds a control character, expected none', id="NUL"
    ),
    pytest.param(
        with_payment_id(b'"\\u001f"'),
        'payment_id: "\\u001f" holds a control character, expected none',
        id="the last of C0",
    ),
    pytest.param(
        with_event_id(b'"a\x7fb"'),
        'event_id: "a\\u007fb" holds a control character, expected none',
        id="DEL, unescaped",
    ),
    pytest.param(
        with_event_id(b'"a\xc2\x80b"'),
        'event_id: "a\\u0080b" holds a control character, expected none',
        id="the first of C1, unescaped",
    ),
    pytest.param(
        with_payment_id(b'"a\\u009fb"'),
        'payment_id: "a\\u009fb" holds a control character, expected none',
        id="the last of C1, escaped",
    ),
    pytest.param(
        with_event_id(b'"\\u0085e"'),
        'event_id: "\\u0085e" holds a control character, expected none',
        id="NEL, a control character before it is white space",
    ),
    pytest.param(
        with_event_id(b'" e1"'), 'event_id: " e1" has white space at an end, expected none', id="a space in front"
    ),
    pytest.param(
        with_payment_id(b'"p1 "'), 'payment_id: "p1 " has white space at an end, expected none', id="a space behind"
    ),
    pytest.param(
        with_event_id(b'" "'), 'event_id: " " has white space at an end, expected none', id="nothing but a space"
    ),
    pytest.param(
        with_event_id(b'"\xc2\xa0e1"'),
        'event_id: "\\u00a0e1" has white space at an end, expected none',
        id="U+00A0 in front",
    ),
    pytest.param(
        with_event_id(b'"e1\\u00a0"'),
        'event_id: "e1\\u00a0" has white space at an end, expected none',
        id="U+00A0 behind, escaped",
    ),
    pytest.param(
        with_event_id(b'"e1\xe2\x80\xa8"'),
        'event_id: "e1\\u2028" has white space at an end, expected none',
        id="U+2028 behind",
    ),
    pytest.param(
        with_payment_id(b'"\xe3\x80\x80p1"'),
        'payment_id: "\\u3000p1" has white space at an end, expected none',
        id="U+3000 in front",
    ),
]


def _nested(depth: int) -> str:
    return f"nested {depth:,} deep, expected 100 at most"


TOO_DEEP = [
    pytest.param(b"[" * 100_000, _nested(100_000), id="brackets never closed"),
    pytest.param(b"[" * 100_000 + b"]" * 100_000, _nested(100_000), id="brackets"),
    pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, _nested(100_000), id="braces"),
    pytest.param(with_value(b"[" * 100_000 + b"]" * 100_000), _nested(100_001), id="in a skipped field"),
    pytest.param(with_value(b"[" * 100_000 + b'"\\u0000"' + b"]" * 100_000), _nested(100_001), id="around a NUL"),
    pytest.param(
        with_value(b"[" * 100_000 + b'"\\ud800"' + b"]" * 100_000), _nested(100_001), id="around a lone surrogate"
    ),
    pytest.param(with_event_id(b"[" * 100_000 + b"]" * 100_000), _nested(100_001), id="in event_id"),
    pytest.param(
        b'{"event_id":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        _nested(100_001),
        id="behind a field that is wrong",
    ),
    pytest.param(with_value(b"[" * 100 + b"]" * 100), _nested(101), id="one too deep"),
]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        *NOT_JSON,
        *NOT_AN_OBJECT,
        *MISSING,
        *MISTYPED,
        *UNKNOWN_TYPE,
        *TWICE,
        *BAD_CHARACTER,
        *NOT_UTF_8,
        *BAD_ID,
        *TOO_DEEP,
    ],
)
def test_a_line_that_is_no_event_gets_a_sentence_that_says_why(line: bytes, error: str) -> None:
    assert parse_line(line) == Malformed(error)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        pytest.param(
            b'{"event_id":"","payment_id":"p1","type":"void"}',
            'type: unknown "void", expected authorize, capture, refund, fail or flag',
            id="an unknown type before an empty id",
        ),
        pytest.param(
            with_event_id(b'" "')[:-1] + b',"x":"\\u0000"}',
            'event_id: " " has white space at an end, expected none',
            id="a bad id before a NUL elsewhere",
        ),
        pytest.param(
            b'{"event_id":"' + b" " * 256 + b'","payment_id":"","type":"capture"}',
            "event_id: 256 characters, expected a string of 1 to 255 characters",
            id="event_id before payment_id, its length before its white space",
        ),
        pytest.param(
            with_field(b'"event_id":"e2","x":"\\u0000"'),
            "event_id: given 2 times, expected once",
            id="a key given twice before a NUL",
        ),
        pytest.param(
            GOOD[:-1] + b',"x":"\xff"',
            "not UTF-8: byte 0xff at offset 57, expected UTF-8 text",
            id="invalid UTF-8 before bad JSON",
        ),
    ],
)
def test_of_several_things_wrong_one_is_named_and_always_the_same(line: bytes, error: str) -> None:
    assert parse_line(line) == Malformed(error)


def test_brackets_count_only_where_they_nest() -> None:
    for value in (b"[" * 99 + b"]" * 99, b"[" + b"[],{}," * 500 + b"[]]", b'"' + b"[" * 500 + b'"'):
        line = with_value(value)
        assert parse_line(line) == (EVENT, line.decode())
    quoted = with_value(b'"\\"' + b"[{" * 500 + b'\\\\"')
    assert parse_line(quoted) == (EVENT, quoted.decode())


@pytest.mark.parametrize(
    ("line", "error"),
    [
        pytest.param(
            b'{"type":"void",' + GOOD[1:], "type: given 2 times, expected once", id="the first of two types unknown"
        ),
        pytest.param(
            b'{"event_id":1,' + GOOD[1:], "event_id: given 2 times, expected once", id="the first of two ids mistyped"
        ),
        pytest.param(
            with_event_id(b"1")[:-1] + b',"x":NaN}',
            "not JSON: invalid character (byte 53), expected one JSON object a line",
            id="NaN behind a field that is wrong",
        ),
        pytest.param(
            with_event_id(b"1")[:-1] + b',"x":nul}',
            "not JSON: invalid character (byte 54), expected one JSON object a line",
            id="bad JSON behind a field that is wrong",
        ),
    ],
)
def test_what_stands_behind_a_wrong_field_is_named_in_the_same_words(line: bytes, error: str) -> None:
    assert parse_line(line) == Malformed(error)


# --- fuzz ------------------------------------------------------------------------------------------------------------

# The same examples in each run: a suite that is red today and green tomorrow teaches people to run it again. No
# deadline, for machines that are busy with other things.
FUZZ = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def event_line(event_id: str, **more: object) -> bytes:
    return json.dumps({"event_id": event_id, "payment_id": "p", "type": "fail", **more}, ensure_ascii=False).encode()


ONE = event_line("one")

# Together, each of these would pass for as many events as there are lines, or hide a fault behind a good neighbour.
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
def test_lines_parsed_together_come_out_as_each_alone(lines: list[bytes]) -> None:
    assert parse_lines(lines) == [parse_line(line) for line in lines]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)

IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=255).filter(
    lambda text: text == text.strip()
)

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
@settings(FUZZ, max_examples=150)
def test_an_event_written_as_json_comes_back_equal(
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


def test_a_line_made_to_be_slow_is_not() -> None:
    # An unterminated string of a megabyte of escaped quotes behind many brackets: if every quote in it were tried as a
    # beginning, this would take an hour.
    line = b"[" * 101 + b'"' + b'\\"' * ((MAX_LINE_BYTES - 200) // 2)
    assert parse_line(line) == Malformed("nested 101 deep, expected 100 at most")
