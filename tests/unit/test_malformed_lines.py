"""Lines that are no JSON object, or hold bytes and depths that no recorded line may hold.

Belongs here: the sentences of `payproc.schemas.parse_line` on a line as a whole; those on its
fields are in test_malformed_fields.py. They are compared whole, because they are part of the
command.
"""

import gc

import pytest

from payproc.explain import BOM, Malformed
from payproc.schemas import parse_line, parse_lines
from tests.support.event_lines import (
    AN_OBJECT,
    EVENT,
    GOOD,
    UTF_8,
    Cases,
    with_event_id,
    with_field,
    with_type,
    with_value,
)

NUL = "holds a NUL character (\\u0000), expected none in any string"
SURROGATE = "holds a lone surrogate, expected whole Unicode characters"


NULS_SHOWN = r"\u0000\u0000\u0000\u0001\u0000" * 2


def _nested(depth: int) -> str:
    return f"nested {depth:,} deep, expected 100 at most"


def _near(shown: str, character: int, expected: str) -> str:
    return f'not JSON near "{shown}" (character {character}), expected {expected}'


CASES: Cases = {
    # Not JSON. msgspec finds the place; a new release may move it by a character.
    "nothing": (b"", f"the line ends before its JSON does, {AN_OBJECT}"),
    "no closing brace": (GOOD[:-1], f"the line ends before its JSON does, {AN_OBJECT}"),
    "not even a bracket": (b"event_id=e1", 'not JSON: "event_id=e1", ' + AN_OBJECT),
    "a key without quotes": (b"{event_id:1}", f"a key without double quotes, {AN_OBJECT}"),
    "single quotes": (b"{'event_id':1}", f"single quotes, as Python writes them, {AN_OBJECT}"),
    "a trailing comma": (GOOD[:-1] + b",}", f"a comma before a closing bracket, {AN_OBJECT}"),
    "two objects in a line": (GOOD + GOOD, f"several JSON values on a line, {AN_OBJECT}"),
    "a comment": (GOOD + b"//", f"a comment after the object, {AN_OBJECT}"),
    "a raw NUL behind it": (GOOD + b"\0", f'"\\u0000" after the object, {AN_OBJECT}'),
    "an unknown escape in a used field": (
        with_event_id(b'"\\x"'),
        _near(r"{\"event_id\":\"\\x\",\"payment_id\":\"p1\",", 16, "an escape that JSON knows"),
    ),
    "an unknown escape in a skipped field": (
        with_value(b'"\\x"'),
        _near(r"pe\":\"capture\",\"x\":\"\\x\"}", 59, "an escape that JSON knows"),
    ),
    "a raw control character in a used field": (
        with_event_id(b'"\n"'),
        _near(r"{\"event_id\":\"\n\",\"payment_id\":\"p1\"", 14, "an escape for a control character"),
    ),
    "a raw control character in a skipped field": (
        with_value(b'"\t"'),
        _near(r"ype\":\"capture\",\"x\":\"\t\"}", 58, "an escape for a control character"),
    ),
    "a leading zero": (with_value(b"01"), _near(r"ype\":\"capture\",\"x\":01}", 58, "a number as JSON writes it")),
    "NaN": (with_value(b"NaN"), f"NaN, which JSON lacks, {AN_OBJECT}"),
    "Infinity": (with_value(b"Infinity"), f"Infinity, which JSON lacks, {AN_OBJECT}"),
    "-Infinity": (with_value(b"-Infinity"), f"-Infinity, which JSON lacks, {AN_OBJECT}"),
    "NaN in a line that holds an escape": (
        with_value(b'NaN,"y":"\\u0041"'),
        f"NaN, which JSON lacks, {AN_OBJECT}",
    ),
    "NaN for an id": (with_event_id(b"NaN"), f"NaN, which JSON lacks, {AN_OBJECT}"),
    # Not an object.
    "array": (b"[]", f"an array, {AN_OBJECT}"),
    "an array of events": (b"[" + GOOD + b"]", f"an array, {AN_OBJECT}"),
    "number as it is written": (b"-1.50e3", f"the number -1.50e3, {AN_OBJECT}"),
    "string": (b'"x"', f'the string "x", {AN_OBJECT}'),
    "terminal control": (b'"\\u001b[31m"', f'the string "\\u001b[31m", {AN_OBJECT}'),
    "null": (b"null", f"null, {AN_OBJECT}"),
    "true": (b"true", f"true, {AN_OBJECT}"),
    "false": (b"false", f"false, {AN_OBJECT}"),
    # A bad character.
    "NUL in a value": (with_value(b'"a\\u0000b"'), f'"x": "a\\u0000b" {NUL}'),
    "NUL behind an escaped backslash": (with_value(b'"\\\\\\u0000"'), f'"x": "\\\\\\u0000" {NUL}'),
    "NUL in a nested value": (with_value(b'[1,{"y":[null,"\\u0000"]}]'), f'"x": "\\u0000" {NUL}'),
    "NUL in a key": (with_field(b'"a\\u0000":1'), f'"a\\u0000": "a\\u0000" {NUL}'),
    "NUL in a nested key": (with_value(b'[{"a\\u0000":1}]'), f'"x": "a\\u0000" {NUL}'),
    "a high surrogate alone in a value": (with_value(b'"a\\ud800b"'), f'"x": "a\\ud800b" {SURROGATE}'),
    "a low surrogate alone in a value": (with_value(b'"a\\udfff"'), f'"x": "a\\udfff" {SURROGATE}'),
    "a pair the wrong way round": (with_value(b'"\\ude00\\ud83d"'), f'"x": "\\ude00\\ud83d" {SURROGATE}'),
    "a high surrogate before a letter in a nested value": (
        with_value(b'[{"y":"\\uDBFF\\u0041"}]'),
        f'"x": "\\udbffA" {SURROGATE}',
    ),
    "a lone surrogate in a nested key": (with_value(b'{"y":{"\\ud800":1}}'), f'"x": "\\ud800" {SURROGATE}'),
    "a lone surrogate in a key": (with_field(b'"\\udc00":1'), f'"\\udc00": "\\udc00" {SURROGATE}'),
    "a lone surrogate in event_id": (with_event_id(b'"e\\ud800"'), f'"event_id": "e\\ud800" {SURROGATE}'),
    "a lone surrogate in type": (with_type(b'"\\udc00"'), f'"type": "\\udc00" {SURROGATE}'),
    # Not UTF-8.
    "nothing else": (b"\xff", f"not UTF-8: byte 0xff at offset 0, {UTF_8}"),
    "in a used field": (with_event_id(b'"e\xff"'), f"not UTF-8: byte 0xff at offset 14, {UTF_8}"),
    "in a skipped field": (with_value(b'"\xe9t\xe9"'), f"not UTF-8: byte 0xe9 at offset 57, {UTF_8}"),
    "in a key": (with_field(b'"\x80":1'), f"not UTF-8: byte 0x80 at offset 53, {UTF_8}"),
    "in a nested key": (with_value(b'{"\x80":1}'), f"not UTF-8: byte 0x80 at offset 58, {UTF_8}"),
    "a character cut short": (with_value(b'"\xe2\x82"'), f"not UTF-8: byte 0xe2 at offset 57, {UTF_8}"),
    "Java's overlong NUL": (with_value(b'"\xc0\x80"'), f"not UTF-8: byte 0xc0 at offset 57, {UTF_8}"),
    "a raw surrogate": (with_value(b'"\xed\xa0\x80"'), f"not UTF-8: byte 0xed at offset 57, {UTF_8}"),
    "beyond the last code point": (with_value(b'"\xf4\x90\x80\x80"'), f"not UTF-8: byte 0xf4 at offset 57, {UTF_8}"),
    "UTF-16": (GOOD.decode().encode("utf-16-le"), f"UTF-16 text, {UTF_8}"),
    "a binary file": (b"\0\0\0\1\0" * 2, f'not JSON: "{NULS_SHOWN}", {AN_OBJECT}'),
    # Too deep.
    "brackets never closed": (b"[" * 100_000, _nested(100_000)),
    "brackets": (b"[" * 100_000 + b"]" * 100_000, _nested(100_000)),
    "braces": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, _nested(100_000)),
    "deep in a skipped field": (with_value(b"[" * 100_000 + b"]" * 100_000), _nested(100_001)),
    "around a NUL": (with_value(b"[" * 100_000 + b'"\\u0000"' + b"]" * 100_000), _nested(100_001)),
    "around a lone surrogate": (with_value(b"[" * 100_000 + b'"\\ud800"' + b"]" * 100_000), _nested(100_001)),
    "deep in event_id": (with_event_id(b"[" * 100_000 + b"]" * 100_000), _nested(100_001)),
    "behind a field that is wrong": (b'{"event_id":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", _nested(100_001)),
    "one too deep": (with_value(b"[" * 100 + b"]" * 100), _nested(101)),
}


@pytest.mark.parametrize(("line", "error"), CASES.values(), ids=CASES)
def test_malformed_line_gets_a_sentence(line: bytes, error: str) -> None:
    parsed = parse_line(line)
    assert isinstance(parsed, Malformed)
    assert parsed.error == error


def test_malformed_lines_leave_no_cycles() -> None:
    """A run collects no garbage, so a cycle for each line would take memory without limit."""
    gc.collect()
    gc.disable()
    try:
        parse_lines([line for line, _ in CASES.values()])
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_byte_order_mark_begins_a_line() -> None:
    """Two files with a mark, concatenated by cat, are what they are one after the other."""
    assert parse_lines([GOOD, BOM + GOOD, BOM + BOM + GOOD]) == [(EVENT, GOOD.decode())] * 3


def test_brackets_count_where_they_nest() -> None:
    for value in (b"[" * 99 + b"]" * 99, b"[" + b"[],{}," * 500 + b"[]]", b'"' + b"[" * 500 + b'"'):
        line = with_value(value)
        assert parse_line(line) == (EVENT, line.decode())
    quoted = with_value(b'"\\"' + b"[{" * 500 + b'\\\\"')
    assert parse_line(quoted) == (EVENT, quoted.decode())
