"""A file of decisions: one JSON object a line, to orders or to the reasons why a line is malformed.

Belongs here: the format of such a line. A line of `review --format json` fits once it has a
`resolution` and a `note`, because other fields are ignored.
"""

import json
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import msgspec

from payproc import mends
from payproc.bulk import BulkResult, Fate, Order
from payproc.errors import CannotFinish
from payproc.escape import MAX_TEXT_CHARACTERS
from payproc.explain import (
    BOM,
    EXPECTED_LINE,
    NONE,
    Malformed,
    Part,
    explain_encoding,
    explain_syntax,
    explain_value,
    shorten_value,
)
from payproc.logic import Resolution, State
from payproc.review import ReviewDecision

MAX_ORDER_BYTES = 8 << 20
"""Longest line: a review with its event's line of 1 MiB, in which escapes may take six bytes."""

_FIELDS = ("event_id", "resolution", "note", "by", "expect", "version")

_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
"""The decoder of a line, which leaves numbers in other fields alone, as 1e400 in a payload."""

_CHECK_SYNTAX = msgspec.json.Decoder(msgspec.Raw).decode

_TOO_DEEP = Malformed(f"nested too deeply, expected {EXPECTED_LINE}")

_RESOLUTIONS = {each.value: each for each in Resolution}
_STATES = {each.value: each for each in State}


class Defaults(NamedTuple):
    """The values for fields that a line lacks.

    A line without a value is malformed, except `expect`.
    """

    resolution: Resolution | None
    note: str | None
    by: str
    expected: State | None


class MalformedOrder(NamedTuple):
    """A malformed line, and the reason."""

    source: str
    line: int
    reason: Malformed
    event_id: str | None = None

    @property
    def result(self) -> BulkResult:
        """Return its result."""
        fate = Fate.MALFORMED
        return BulkResult(self.source, self.line, self.event_id, None, None, fate, None, None, None, self.reason.error)


class _BadField(Exception):
    """A wrong field or line."""

    def __init__(self, error: str, mend: str = "", part: Part = NONE) -> None:
        super().__init__(error)
        self.reason = Malformed(error, mend, part)


def read_orders(
    file: IO[bytes], source: str, defaults: Defaults, check_start: Callable[[bytes], None]
) -> Iterator[Order | MalformedOrder]:
    """Yield an order for each line that is not blank, or the reason why it is malformed.

    `check_start` gets the first line of the file, and refuses one that holds no lines. Raises
    CannotFinish if the file cannot be read to its end.
    """
    number = 0
    while raw := _read_line(file, source):
        number += 1
        if number == 1:
            check_start(raw)
        if len(raw) > MAX_ORDER_BYTES and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = _read_line(file, source)
            yield MalformedOrder(source, number, Malformed(f"line too long: over {MAX_ORDER_BYTES:,} bytes"))
        elif line := raw.removeprefix(BOM).strip():
            yield parse_order(line, source, number, defaults)


def _read_line(file: IO[bytes], source: str) -> bytes:
    """Return the next line, or its first MAX_ORDER_BYTES and one more."""
    try:
        return file.readline(MAX_ORDER_BYTES + 1)
    except OSError as error:
        raise CannotFinish(
            f"{source}: cannot be read: {error.strerror}; recorded decisions stay recorded, and a rerun is safe"
        ) from error


def parse_order(raw: bytes, source: str, line: int, defaults: Defaults) -> Order | MalformedOrder:
    """Parse one line without white space around it."""
    try:
        fields = _decode_fields(raw)
    except _BadField as error:
        return MalformedOrder(source, line, error.reason)
    except UnicodeDecodeError as error:
        return MalformedOrder(source, line, explain_encoding(raw, error))
    except msgspec.MsgspecError as error:
        return MalformedOrder(source, line, explain_syntax(raw, str(error)))
    except RecursionError:
        return MalformedOrder(source, line, _TOO_DEEP)
    event_id = fields.get("event_id")
    try:
        _refuse_repeated_fields(raw)
        return Order(
            _take_text(fields, "event_id", None, strip=False),
            ReviewDecision(
                _take_word(fields, "resolution", _RESOLUTIONS, defaults.resolution, is_required=True),
                _take_text(fields, "note", defaults.note),
                _take_text(fields, "by", defaults.by),
                _take_word(fields, "expect", _STATES, defaults.expected, is_required=False),
            ),
            _take_version(fields),
            source,
            line,
        )
    except _BadField as error:
        return MalformedOrder(source, line, error.reason, event_id if isinstance(event_id, str) else None)
    except RecursionError:  # json has another limit than msgspec
        return MalformedOrder(source, line, _TOO_DEEP)


def _decode_fields(raw: bytes) -> dict[str, Any]:
    """Return the known fields of a line. Others need only be JSON in UTF-8."""
    raw.decode()  # msgspec does not check the text that it leaves alone
    try:
        given = _DECODER.decode(raw)
    except msgspec.ValidationError:
        _CHECK_SYNTAX(raw)  # msgspec saw only its beginning
        raise _BadField(*explain_value(raw, "not an object")) from None
    return {name: msgspec.json.decode(given[name]) for name in _FIELDS if name in given}


def _refuse_repeated_fields(raw: bytes) -> None:
    """Raise _BadField for a field given twice, of which a decoder would silently take the last."""
    has_escapes = b"\\u" in raw  # a key may hide in them, as in "event\\u005fid"
    if not has_escapes and all(raw.count(f'"{field}"'.encode()) <= 1 for field in _FIELDS):
        return
    objects: list[list[str]] = []
    # Python's int() has a limit of digits, and no number matters here.
    json.loads(raw, object_pairs_hook=lambda pairs: objects.append([key for key, _ in pairs]), parse_int=str)
    for field in _FIELDS:
        if (count := objects[-1].count(field)) > 1:  # the outermost object ends last
            raise _BadField(f"{field}: given {count} times, expected once")


def _take_text(fields: dict[str, Any], name: str, default: str | None, *, strip: bool = True) -> str:
    value = fields.get(name)
    if value is None:
        value = default
    if value is None:
        hint = "; --note TEXT gives one to every line that lacks it" if name == "note" else ""
        raise _BadField(f"{name}: missing, expected a string{hint}")
    if not isinstance(value, str):
        is_number_id = name == "event_id" and isinstance(value, int) and not isinstance(value, bool)
        raise _BadField(f"{name}: {_quote(value)}, expected a string", mends.QUOTE if is_number_id else "")
    if "\0" in value:
        raise _BadField(f"{name}: holds a NUL character, expected none")
    if not value.strip():
        raise _BadField(f"{name}: empty, expected some text")
    if len(value) > MAX_TEXT_CHARACTERS:
        raise _BadField(f"{name}: {len(value):,} characters, expected at most {MAX_TEXT_CHARACTERS:,}")
    return value.strip() if strip else value


def _take_word(fields: dict[str, Any], name: str, words: dict[str, Any], default: Any, *, is_required: bool) -> Any:
    value = fields.get(name)
    if value is None:
        if default is None and is_required:
            raise _BadField(f"{name}: missing, expected {_list(words)}; --apply or --dismiss gives one to every line")
        return default
    if not isinstance(value, str) or value not in words:
        raise _BadField(f"{name}: unknown {_quote(value)}, expected {_list(words)}")
    return words[value]


def _take_version(fields: dict[str, Any]) -> int | None:
    value = fields.get("version")
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise _BadField(f"version: {_quote(value)}, expected a whole number")


def _list(words: dict[str, Any]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"


def _quote(value: Any) -> str:
    return shorten_value(json.dumps(value))
