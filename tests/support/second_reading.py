"""What an input line may look like, read a second time: apart from payproc's parser, slowly, by the standard library.

What belongs here: section 3 of the design as plainly as it can be written. Nothing here is shared with payproc, so that
the two can only agree on a line by both being right about it, or both being wrong in the same way.
"""

import json
import unicodedata
from typing import NamedTuple, NoReturn

LONGEST_LINE_BYTES = 1_048_576
DEEPEST = 100


class Event(NamedTuple):
    """What counts of an event."""

    event_id: str
    payment_id: str
    type: str


class _Object(list[tuple[str, object]]):
    """A JSON object as its pairs, so that repeated keys are seen."""


def second_reading(line: bytes) -> Event | None:
    """The event that a line is, or None if it is malformed."""
    if len(line) > LONGEST_LINE_BYTES:
        return None
    try:
        text = line.decode("utf-8")
        if _depth(text) > DEEPEST:
            return None
        # Numbers are not looked at; as floats they can be as long as they like.
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
    is_one = _is_id(event.event_id) and _is_id(event.payment_id) and event.type in _TYPES
    return event if is_one else None


_TYPES = ("authorize", "capture", "refund", "fail", "flag")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN, Infinity and -Infinity are Python's, not JSON's


def _depth(text: str) -> int:
    """How deep it is nested, character by character."""
    if sum(map(text.count, "[{")) <= DEEPEST:
        return 0  # whatever it is, it is deep enough
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
    """Whether no string in it, at any depth, holds NUL or half a surrogate pair."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, (list, tuple)):
        return all(map(_can_be_stored, value))
    return True


def _is_id(text: str) -> bool:
    has_controls = any(unicodedata.category(character) == "Cc" for character in text)
    return 1 <= len(text) <= 255 and text == text.strip() and not has_controls
