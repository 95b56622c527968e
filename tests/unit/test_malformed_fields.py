"""JSON objects that are no events because of a field.

Belongs here: the sentences of `payproc.schemas.parse_line` on event_id, payment_id and type. They
are compared whole, because they are part of the command.
"""

import pytest

from payproc.explain import Malformed
from payproc.schemas import parse_line
from tests.support.event_lines import (
    AN_OBJECT,
    GOOD,
    UTF_8,
    Cases,
    with_event_id,
    with_field,
    with_payment_id,
    with_type,
)

AN_ID = "expected a string of 1 to 255 characters"
A_TYPE = "expected authorize, capture, refund, fail or flag"
CONTROL = "holds a control character, expected none"
SPACE = "has white space at an end, expected none"
TWICE = "given 2 times, expected once"

CASES: Cases = {
    # Missing.
    "all three": (b"{}", f"event_id: missing, {AN_ID}"),
    "no event_id": (b'{"payment_id":"p1","type":"capture"}', f"event_id: missing, {AN_ID}"),
    "no payment_id": (b'{"event_id":"e1","type":"capture"}', f"payment_id: missing, {AN_ID}"),
    "no type": (b'{"event_id":"e1","payment_id":"p1"}', f"type: missing, {A_TYPE}"),
    "event_id in capitals": (b'{"Event_ID":"e1","payment_id":"p1","type":"capture"}', f"event_id: missing, {AN_ID}"),
    "event_id in a nested object only": (
        b'{"payment_id":"p1","type":"capture","x":{"event_id":"e1"}}',
        f"event_id: missing, {AN_ID}",
    ),
    # Mistyped.
    "null": (with_event_id(b"null"), f"event_id: null, {AN_ID}"),
    "true": (with_event_id(b"true"), f"event_id: true, {AN_ID}"),
    "a number": (with_event_id(b"17"), f"event_id: the number 17, {AN_ID}"),
    "a number as it is written": (with_event_id(b"1.0"), f"event_id: the number 1.0, {AN_ID}"),
    "an integer longer than Python converts": (
        with_event_id(b"9" * 5_000),
        f"event_id: the number {'9' * 57}..., which jq before 1.7 rounds, {AN_ID}",
    ),
    "an array": (with_event_id(b'["e1"]'), f"event_id: an array, {AN_ID}"),
    "an object": (with_event_id(b'{"id":"e1"}'), f"event_id: an object, {AN_ID}"),
    "payment_id, false": (with_payment_id(b"false"), f"payment_id: false, {AN_ID}"),
    "type, an array": (with_type(b'["capture"]'), f"type: an array, {A_TYPE}"),
    "type, null": (with_type(b"null"), f"type: null, {A_TYPE}"),
    "all three, whatever their order": (b'{"type":1,"payment_id":2,"event_id":3}', f"event_id: the number 3, {AN_ID}"),
    # Of an unknown type.
    "another word": (with_type(b'"void"'), f'type: unknown "void", {A_TYPE}'),
    "empty": (with_type(b'""'), f'type: unknown "", {A_TYPE}'),
    "a capital": (with_type(b'"Capture"'), f'type: unknown "Capture", {A_TYPE}'),
    "a space behind it": (with_type(b'"capture "'), f'type: unknown "capture ", {A_TYPE}'),
    "a state's name": (with_type(b'"captured"'), f'type: unknown "captured", {A_TYPE}'),
    "shown in plain ASCII": (with_type(b'"\xc3\xa9\\u001b"'), f'type: unknown "\\u00e9\\u001b", {A_TYPE}'),
    # Repeated.
    "event_id, the same": (with_field(b'"event_id":"e1"'), f"event_id: {TWICE}"),
    "event_id, another": (with_field(b'"event_id":"e2"'), f"event_id: {TWICE}"),
    "payment_id, three times": (
        with_field(b'"payment_id":"p2","payment_id":"p3"'),
        "payment_id: given 3 times, expected once",
    ),
    "type, another": (with_field(b'"type":"refund"'), f"type: {TWICE}"),
    "the second event_id with an escape": (with_field(b'"event_\\u0069d":"e2"'), f"event_id: {TWICE}"),
    "the first payment_id with an escape": (b'{"\\u0070ayment_id":"p2",' + GOOD[1:], f"payment_id: {TWICE}"),
    "both types with an escape": (
        b'{"\\u0074ype":"fail","typ\\u0065":"refund","event_id":"e1","payment_id":"p1"}',
        f"type: {TWICE}",
    ),
    "the first empty": (b'{"event_id":"",' + GOOD[1:], f"event_id: {TWICE}"),
    "once more in a nested object, which does not count": (
        with_field(b'"x":{"type":1},"type":"capture"'),
        f"type: {TWICE}",
    ),
    # Bad ids.
    "empty event_id": (with_event_id(b'""'), f"event_id: empty, {AN_ID}"),
    "empty payment_id": (with_payment_id(b'""'), f"payment_id: empty, {AN_ID}"),
    "one too many": (with_event_id(b'"' + b"x" * 256 + b'"'), f"event_id: 256 characters, {AN_ID}"),
    "far too many": (with_payment_id(b'"' + b"x" * 1_256 + b'"'), f"payment_id: 1,256 characters, {AN_ID}"),
    "one astral character too many": (
        with_event_id(b'"' + b"\xf0\x9f\x98\x80" * 256 + b'"'),
        f"event_id: 256 characters, {AN_ID}",
    ),
    "line feed": (with_event_id(b'"a\\nb"'), f'event_id: "a\\nb" {CONTROL}'),
    "NUL": (with_event_id(b'"e\\u0000"'), f'event_id: "e\\u0000" {CONTROL}'),
    "the last of C0": (with_payment_id(b'"\\u001f"'), f'payment_id: "\\u001f" {CONTROL}'),
    "DEL, unescaped": (with_event_id(b'"a\x7fb"'), f'event_id: "a\\u007fb" {CONTROL}'),
    "the first of C1, unescaped": (with_event_id(b'"a\xc2\x80b"'), f'event_id: "a\\u0080b" {CONTROL}'),
    "the last of C1, escaped": (with_payment_id(b'"a\\u009fb"'), f'payment_id: "a\\u009fb" {CONTROL}'),
    "NEL, a control character before it is white space": (
        with_event_id(b'"\\u0085e"'),
        f'event_id: "\\u0085e" {CONTROL}',
    ),
    "a space in front": (with_event_id(b'" e1"'), f'event_id: " e1" {SPACE}'),
    "a space behind": (with_payment_id(b'"p1 "'), f'payment_id: "p1 " {SPACE}'),
    "nothing but a space": (with_event_id(b'" "'), f'event_id: " " {SPACE}'),
    "U+00A0 in front": (with_event_id(b'"\xc2\xa0e1"'), f'event_id: "\\u00a0e1" {SPACE}'),
    "U+00A0 behind, escaped": (with_event_id(b'"e1\\u00a0"'), f'event_id: "e1\\u00a0" {SPACE}'),
    "U+2028 behind": (with_event_id(b'"e1\xe2\x80\xa8"'), f'event_id: "e1\\u2028" {SPACE}'),
    "U+3000 in front": (with_payment_id(b'"\xe3\x80\x80p1"'), f'payment_id: "\\u3000p1" {SPACE}'),
}


@pytest.mark.parametrize(("line", "error"), CASES.values(), ids=CASES)
def test_malformed_field_gets_a_sentence(line: bytes, error: str) -> None:
    parsed = parse_line(line)
    assert isinstance(parsed, Malformed)
    assert parsed.error == error


SEVERAL_FAULTS: Cases = {
    "an unknown type before an empty id": (
        b'{"event_id":"","payment_id":"p1","type":"void"}',
        f'type: unknown "void", {A_TYPE}',
    ),
    "a bad id before a NUL elsewhere": (with_event_id(b'" "')[:-1] + b',"x":"\\u0000"}', f'event_id: " " {SPACE}'),
    "event_id before payment_id, its length before its white space": (
        b'{"event_id":"' + b" " * 256 + b'","payment_id":"","type":"capture"}',
        f"event_id: 256 characters, {AN_ID}",
    ),
    "a key given twice before a NUL": (with_field(b'"event_id":"e2","x":"\\u0000"'), f"event_id: {TWICE}"),
    "invalid UTF-8 before bad JSON": (GOOD[:-1] + b',"x":"\xff"', f"not UTF-8: byte 0xff at offset 57, {UTF_8}"),
}


@pytest.mark.parametrize(("line", "error"), SEVERAL_FAULTS.values(), ids=SEVERAL_FAULTS)
def test_of_several_faults_one_is_named(line: bytes, error: str) -> None:
    parsed = parse_line(line)
    assert isinstance(parsed, Malformed)
    assert parsed.error == error


BEHIND_A_FIELD: Cases = {
    "the first of two types unknown": (b'{"type":"void",' + GOOD[1:], f"type: {TWICE}"),
    "the first of two ids mistyped": (b'{"event_id":1,' + GOOD[1:], f"event_id: {TWICE}"),
    "NaN behind a field that is wrong": (
        with_event_id(b"1")[:-1] + b',"x":NaN}',
        f"NaN, which JSON lacks, {AN_OBJECT}",
    ),
    "bad JSON behind a field that is wrong": (
        with_event_id(b"1")[:-1] + b',"x":nul}',
        f'not JSON near "ype\\":\\"capture\\",\\"x\\":nul}}" (character 55), {AN_OBJECT}',
    ),
}


@pytest.mark.parametrize(("line", "error"), BEHIND_A_FIELD.values(), ids=BEHIND_A_FIELD)
def test_fault_behind_a_wrong_field_is_named(line: bytes, error: str) -> None:
    parsed = parse_line(line)
    assert isinstance(parsed, Malformed)
    assert parsed.error == error
