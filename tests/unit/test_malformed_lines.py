"""Lines that are no JSON object, or hold bytes and depths that no recorded line may hold.

Belongs here: the sentences of `payproc.schemas.parse_line` on a line as a whole; those on its
fields are in test_malformed_fields.py. They are compared whole, because they are part of the
command.
"""

import pytest

from payproc.schemas import Malformed, parse_line
from tests.support.event_lines import EVENT, GOOD, with_event_id, with_field, with_type, with_value

NOT_JSON = [
    # The fault and its byte are in msgspec's own words; a new release may change them.
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


@pytest.mark.parametrize(("line", "error"), [*NOT_JSON, *NOT_AN_OBJECT, *BAD_CHARACTER, *NOT_UTF_8, *TOO_DEEP])
def test_malformed_line_gets_a_sentence(line: bytes, error: str) -> None:
    assert parse_line(line) == Malformed(error)


def test_brackets_count_where_they_nest() -> None:
    for value in (b"[" * 99 + b"]" * 99, b"[" + b"[],{}," * 500 + b"[]]", b'"' + b"[" * 500 + b'"'):
        line = with_value(value)
        assert parse_line(line) == (EVENT, line.decode())
    quoted = with_value(b'"\\"' + b"[{" * 500 + b'\\\\"')
    assert parse_line(quoted) == (EVENT, quoted.decode())
