"""A reference parser for input lines: slow, plain, and independent of payproc's.

The rules are those of the README's "Input", written with the standard library alone. Nothing is
shared with payproc, so a mistake of one parser shows as a difference between the two.
"""

import json
import unicodedata
from typing import NamedTuple, NoReturn

MAX_LINE_BYTES = 1_048_576
MAX_DEPTH = 100
_TYPES = ("authorize", "capture", "refund", "fail", "flag")


class Event(NamedTuple):
    """The three fields of an event that decide."""

    event_id: str
    payment_id: str
    type: str


class _Object(list[tuple[str, object]]):
    """A JSON object as its pairs, which keeps repeated keys."""


def read_event(line: bytes) -> Event | None:
    """Return the event in a line, or None if the line is malformed."""
    while line.startswith(b"\xef\xbb\xbf"):
        line = line[3:]
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        text = line.decode("utf-8")
        if _depth(text) > MAX_DEPTH:
            return None
        # Integers are read as floats because Python limits the digits of an int. No number is used.
        content = json.loads(text, object_pairs_hook=_Object, parse_int=float, parse_constant=_refuse)
    except ValueError:
        return None
    if not isinstance(content, _Object) or not _can_be_stored(content):
        return None
    values = []
    for field in Event._fields:
        given = [value for key, value in content if key == field]
        if len(given) != 1 or not isinstance(given[0], str):
            return None
        values.append(given[0])
    event = Event(*values)
    return event if _is_id(event.event_id) and _is_id(event.payment_id) and event.type in _TYPES else None


def _refuse(constant: str) -> NoReturn:
    """Refuse NaN, Infinity and -Infinity, which Python reads and JSON lacks."""
    raise ValueError(constant)


def _depth(text: str) -> int:
    """Return the nesting depth, counted character by character.

    0 if there are too few brackets to be too deep.
    """
    if sum(map(text.count, "[{")) <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _can_be_stored(value: object) -> bool:
    """Return True if no string at any depth holds NUL or half a surrogate pair."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, (list, tuple)):
        return all(map(_can_be_stored, value))
    return True


def _is_id(text: str) -> bool:
    """Return True for 1 to 255 characters without control characters and outer white space."""
    has_controls = any(unicodedata.category(character) == "Cc" for character in text)
    return 1 <= len(text) <= 255 and text == text.strip() and not has_controls
