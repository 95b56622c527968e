"""Input lines: each one parsed into a PaymentEvent, or into the reason why it is malformed.

Belongs here: the format of an input line. Nothing here knows the meaning of an event, or the file
that the line came from.

msgspec decodes the three fields that matter and checks the syntax of the rest without building it.
msgspec does not see three faults. Invalid UTF-8 in skipped fields is found by decoding the line.
Repeated keys are counted. NUL and lone surrogates need a \\u escape, so only such lines are
examined.

Ordinary lines are parsed fifty at a time, because each of these tests costs nearly as much for one
line as for fifty. If a test fails for the fifty, each line is parsed on its own, so results and
messages do not depend on the neighbours.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import msgspec

from payproc.envelopes import find_foreign
from payproc.explain import (
    BOM,
    EXPECTED_LINE,
    NONE,
    VALUE,
    Malformed,
    explain_encoding,
    explain_number_id,
    explain_syntax,
    explain_value,
    find_recipe,
    find_syntax_error,
    quote,
    shorten_value,
)
from payproc.logic import EventType

MAX_LINE_BYTES = 1 << 20
"""Longest line in bytes, without its line end. A payment event has a few hundred bytes."""

MAX_ID_CHARACTERS = 255
"""Longest event_id or payment_id: PSPs promise shorter ones, and every index can hold it."""

MAX_DEPTH = 100
"""Deepest nesting of arrays and objects, including the line's own object. Recursive readers, here
or in the database, could otherwise run out of stack, at a depth that depends on their caller."""

_PARSED_TOGETHER = 50
"""Ordinary lines parsed at once. More would gain little, and one odd line among them costs more."""

_EXPECTED_ID = f"a string of 1 to {MAX_ID_CHARACTERS} characters"
_EXPECTED_TYPE = "authorize, capture, refund, fail or flag"

TOO_LONG = f"line too long: over {MAX_LINE_BYTES:,} bytes, expected {EXPECTED_LINE} of at most 1 MiB"


class PaymentEvent(msgspec.Struct, frozen=True, gc=False):
    """The fields that payproc reads of an event.

    The rest of the line is kept verbatim, uninterpreted.
    """

    event_id: str
    payment_id: str
    type: EventType


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, repeated keys included."""


class _Number(str):
    """A JSON number as its text."""


_TYPES = frozenset(event_type.value for event_type in EventType)

_BRACKETS = re.compile(rb"[\[\]{}]")
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?')  # also an unterminated one, or every quote in it would be tried in turn

_decode = msgspec.json.Decoder(PaymentEvent).decode
_decode_lines = msgspec.json.Decoder(PaymentEvent).decode_lines


Parsed = tuple[PaymentEvent, str] | Malformed
"""An event and its line as text, or the reason why the line is malformed."""


def parse_lines(lines: Sequence[bytes]) -> list[Parsed]:
    """Parse lines without their line ends, each as `parse_line` does."""
    parsed: list[Parsed] = []
    for start in range(0, len(lines), _PARSED_TOGETHER):
        group = lines[start : start + _PARSED_TOGETHER]
        parsed += _parse_ordinary(group) or map(parse_line, group)
    return parsed


def _parse_ordinary(lines: Sequence[bytes]) -> list[Parsed] | None:
    """Parse lines that are all ordinary events; return None if one may not be."""
    count = len(lines)
    joined = b"\n".join(lines)
    if (
        len(joined) > MAX_LINE_BYTES
        # No JSON value holds this, so each line holds whole values: one event, with each identity
        # key once a line.
        or joined.count(b"}\n{") != count - 1
        or joined.count(b'"event_id"') != count
        or joined.count(b'"payment_id"') != count
        or joined.count(b'"type"') != count
        or (b"\\" in joined and b"\\u" in joined)  # the search for one byte is ten times as fast
        or (
            joined.count(b"{") + joined.count(b"[") > count - 1 + MAX_DEPTH
            and any(line.count(b"{") + line.count(b"[") > MAX_DEPTH for line in lines)
        )
    ):
        return None
    try:
        text = joined.decode()
        events = _decode_lines(joined)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    ids = ["", *[event.event_id for event in events], *[event.payment_id for event in events], ""]
    bounded = "|".join(ids)
    if (
        max(map(len, ids)) > MAX_ID_CHARACTERS
        or not bounded.isprintable()
        or "||" in bounded
        or (" " in bounded and ("| " in bounded or " |" in bounded))
    ):
        return None
    return list(zip(events, text.split("\n"), strict=True))


def parse_line(line: bytes) -> Parsed:
    """Parse one line without its line end. A byte order mark begins a concatenated file."""
    while line.startswith(BOM):
        line = line.removeprefix(BOM)
    if len(line) > MAX_LINE_BYTES:
        return Malformed(TOO_LONG)
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and (depth := _measure_depth(line)) > MAX_DEPTH:
        return Malformed(f"nested {depth:,} deep, expected {MAX_DEPTH} at most")
    try:
        text = line.decode()
        event = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _explain(line, error)
    problem = _check_id("event_id", event.event_id) or _check_id("payment_id", event.payment_id)
    if problem is None and _needs_closer_look(line):
        problem = _look_closer(text)
    return (event, text) if problem is None else Malformed(problem)


def _measure_depth(line: bytes) -> int:
    """Return the nesting of brackets and braces outside strings."""
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", line)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _check_id(field: str, value: str) -> str | None:
    """Return the problem of an id, or None.

    One test passes ordinary ids: printable text has no controls and no odd spaces.
    """
    if value.isprintable() and 0 < len(value) <= MAX_ID_CHARACTERS and value[0] != " " != value[-1]:
        return None
    if not value:
        return f"{field}: empty, expected {_EXPECTED_ID}"
    if len(value) > MAX_ID_CHARACTERS:
        return f"{field}: {len(value):,} characters, expected {_EXPECTED_ID}"
    if any(unicodedata.category(character) == "Cc" for character in value):
        return f"{field}: {quote(value)} holds a control character, expected none"
    if value != value.strip():
        return f"{field}: {quote(value)} has white space at an end, expected none"
    return None


def _needs_closer_look(line: bytes) -> bool:
    return (
        line.count(b'"event_id"') != 1
        or line.count(b'"payment_id"') != 1
        or line.count(b'"type"') != 1
        or b"\\u" in line
    )


def _look_closer(text: str) -> str | None:
    """Return a problem that msgspec cannot see, in the text of a JSON object with good fields."""
    pairs = _load(text)
    return _find_repeated_key(pairs) or _find_bad_text(pairs)


def _load(text: str) -> Any:
    # Numbers stay text. They are never interpreted, and so cannot be too large for Python.
    return json.loads(text, object_pairs_hook=_Pairs, parse_int=_Number, parse_float=_Number)


def _find_repeated_key(pairs: _Pairs) -> str | None:
    keys = [key for key, _ in pairs]
    for field in PaymentEvent.__struct_fields__:
        if keys.count(field) > 1:
            return f"{field}: given {keys.count(field)} times, expected once"
    return None


def _find_bad_text(pairs: _Pairs) -> str | None:
    for key, value in pairs:
        if problem := _find_bad_character(key) or _find_bad_character(value):
            return f"{quote(key)}: {problem}"
    return None


def _find_bad_character(value: object) -> str | None:
    """Return the problem of a NUL or a lone surrogate at any depth: PostgreSQL takes neither."""
    if isinstance(value, str):
        if "\0" in value:
            return f"{quote(value)} holds a NUL character (\\u0000), expected none in any string"
        if any("\ud800" <= character <= "\udfff" for character in value):
            return f"{quote(value)} holds a lone surrogate, expected whole Unicode characters"
    elif isinstance(value, (list, tuple)):
        for item in value:
            if problem := _find_bad_character(item):
                return problem
    return None


def _explain(line: bytes, error: msgspec.MsgspecError | UnicodeDecodeError) -> Malformed:
    """Return the reason why a line did not decode."""
    if isinstance(error, UnicodeDecodeError):
        return explain_encoding(line, error)
    if isinstance(error, msgspec.ValidationError):
        # msgspec stops at the first wrong field; the syntax after it may be wrong as well.
        if (found := find_syntax_error(line)) is None:
            return _explain_field(line)
    else:
        found = str(error)
    if b"\\u" in line and (problem := _find_lone_surrogate(line.decode())):
        return Malformed(problem)
    return explain_syntax(line, found)


def _find_lone_surrogate(text: str) -> str | None:
    """Return the problem of a lone surrogate.

    msgspec takes it for a syntax error. Python's decoder accepts it, so it can be named.
    """
    try:
        content = _load(text)
    except ValueError:
        return None
    return _find_bad_text(content) if isinstance(content, _Pairs) else None


def _explain_field(line: bytes) -> Malformed:
    """Return the problem of the first field that is missing, mistyped or of an unknown value."""
    if b"event_id" not in line and (recipe := find_recipe(line)):
        return recipe  # before the slow decoder
    content = _load(line.decode())
    if not isinstance(content, _Pairs):
        return explain_value(line, _name_type(content))
    if problem := _find_repeated_key(content):
        return Malformed(problem)
    fields = dict(content)
    for field in PaymentEvent.__struct_fields__:
        expected = _EXPECTED_TYPE if field == "type" else _EXPECTED_ID
        if field not in fields:
            if field.encode() in line and (foreign := find_foreign(field, line)):
                return foreign
            return Malformed(f"{field}: missing, expected {expected}", "", NONE if fields else VALUE)
        value = fields[field]
        if isinstance(value, _Number) and field != "type":
            return explain_number_id(field, _name_type(value), value)
        if not isinstance(value, str) or isinstance(value, _Number):
            return Malformed(f"{field}: {_name_type(value)}, expected {expected}")
        if field == "type" and value not in _TYPES:
            return Malformed(f"{field}: unknown {quote(value)}, expected {expected}")
    return Malformed(f"not an event, expected {EXPECTED_LINE}")


def _name_type(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, _Number):
        return f"the number {shorten_value(value)}"
    if isinstance(value, str):
        return f"the string {quote(value)}"
    return "an object" if isinstance(value, _Pairs) else "an array"
