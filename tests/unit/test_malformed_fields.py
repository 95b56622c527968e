"""JSON objects that are no events because of a field.

Belongs here: the sentences of `payproc.schemas.parse_line` on event_id, payment_id and type. They
are compared whole, because they are part of the command.
"""

import pytest

from payproc.schemas import Malformed, parse_line
from tests.support.event_lines import GOOD, with_event_id, with_field, with_payment_id, with_type

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


@pytest.mark.parametrize(("line", "error"), [*MISSING, *MISTYPED, *UNKNOWN_TYPE, *TWICE, *BAD_ID])
def test_malformed_field_gets_a_sentence(line: bytes, error: str) -> None:
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
def test_of_several_faults_one_is_named(line: bytes, error: str) -> None:
    assert parse_line(line) == Malformed(error)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        pytest.param(
            b'{"type":"void",' + GOOD[1:],
            "type: given 2 times, expected once",
            id="the first of two types unknown",
        ),
        pytest.param(
            b'{"event_id":1,' + GOOD[1:],
            "event_id: given 2 times, expected once",
            id="the first of two ids mistyped",
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
def test_fault_behind_a_wrong_field_is_named(line: bytes, error: str) -> None:
    assert parse_line(line) == Malformed(error)
