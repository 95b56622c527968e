"""Malformed lines in everyday words: the problem, and the command that mends the file.

Belongs here: the shapes of files that people have instead of JSON Lines. This code runs for
malformed lines only.
"""

import json
import re
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from payproc import mends

EXPECTED_LINE = "one JSON object a line"
BOM = b"\xef\xbb\xbf"


class Part(Enum):
    """The part that a line may have in a JSON value over several lines."""

    NONE = auto()
    PIECE = auto()
    """It is no whole value."""
    ELEMENT = auto()
    """An object beside a comma: an element of an array that is open."""
    VALUE = auto()
    """A whole value, which pretty-printed JSON may have on a line of its own."""


NONE, PIECE, ELEMENT, VALUE = Part  # a look-up in the enum calls a function, before Python 3.12


class Malformed(NamedTuple):
    """The reason why a line is not an event: found and expected, to follow `FILE:LINE: `."""

    error: str
    mend: str = ""
    """Command that prints the mended FILE. That of a piece mends the value that it is part of."""
    part: Part = NONE


_EXPECTED = f"expected {EXPECTED_LINE}"
_ENDS_EARLY = f"the line ends before its JSON does, {_EXPECTED}"
_PIECE = f"a piece of JSON, {_EXPECTED}"
_RAW_EVENT = "expected event_id, payment_id and type"

_SHOWN_CHARACTERS = 60
"""Characters of a wrong value that a message quotes."""

_SHOWN_AROUND = 20
"""Bytes that a message shows on each side of a fault."""

_KEY = re.compile(rb'"(?:[^"\\]|\\.)*"\s*:')
_BARE_KEY = re.compile(rb"[A-Za-z_]+\s*:")
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STRIPE = re.compile(rb'"object"\s*:\s*"event"')
_THIN = re.compile(rb'"object"\s*:\s*"v2\.core\.event"')
_FOREIGN_WORD = re.compile(rb"-?(?:NaN|nan|Infinity|None|undefined)\b")
_SQL = re.compile(rb"(?:INSERT|CREATE|COPY|SELECT|SET|BEGIN|UPDATE|ALTER|DROP)\s|--", re.IGNORECASE)
_PLACE = re.compile(r" \(byte (\d+)\)")

_WORDS = {
    "expected ',' or '}'": "expected a comma or }",
    "expected ',' or ']'": "expected a comma or ]",
    "expected ':'": "expected a colon",
    "object keys must be strings": "expected a key in double quotes",
    "expected '\"'": "expected a key in double quotes",
    "invalid number": "expected a number as JSON writes it",
    "number out of range": "expected a smaller number",
    "invalid escape character in string": "expected an escape that JSON knows",
    "invalid escaped character": "expected an escape that JSON knows",
}
"""Everyday words for those of msgspec that a user can act on."""

_check_syntax = msgspec.json.Decoder(msgspec.Raw).decode


def explain_syntax(line: bytes, error: str) -> Malformed:
    """Return the problem of a line in UTF-8 that is not JSON, from msgspec's error."""
    found = error.removeprefix("JSON is malformed: ").lower()
    place = _PLACE.search(found)
    at = int(place[1]) if place else len(line)
    if found.startswith("trailing characters"):
        at -= 1  # msgspec counts these from one
    text = line.strip()
    return (
        _explain_utf_16(line)
        or _explain_piece(line, text)
        or _explain_surroundings(text)
        or (_explain_several(line, line[at:]) if found.startswith("trailing characters") else None)
        or (_explain_end(text) if found.startswith("input data was truncated") else None)
        or _explain_start(text)
        or _explain_place(line, at, _PLACE.sub("", found))
    )


def explain_encoding(line: bytes, error: UnicodeDecodeError) -> Malformed:
    """Return the problem of a line that is not UTF-8."""
    return _explain_utf_16(line) or Malformed(
        f"not UTF-8: byte 0x{line[error.start]:02x} at offset {error.start}, expected UTF-8 text"
    )


def explain_value(line: bytes, name: str) -> Malformed:
    """Return the problem of a JSON value that is not an object."""
    text = line.strip()
    error = f"{name}, {_EXPECTED}"
    if text.startswith(b"["):
        if recipe := find_recipe(line):
            return recipe
        return Malformed(error, mends.keep_ids(mends.ARRAY, line)) if b"{" in line else Malformed(error, part=VALUE)
    if text.startswith(b'"{'):
        return Malformed(f"JSON inside a string, {_EXPECTED}", mends.TEXTS)
    return Malformed(error, part=VALUE)


def explain_number_id(field: str, name: str, number: str) -> Malformed:
    """Return the problem of an id that is a number."""
    is_whole = number.removeprefix("-").isdigit()
    if mends.is_rounded(number):
        return Malformed(f"{field}: {name}, probably rounded, expected a string; take it from the original file")
    rounded = ", which jq before 1.7 rounds" if is_whole and len(number) > mends.MAX_EXACT_DIGITS else ""
    return Malformed(
        f"{field}: {name}{rounded}, expected a string of 1 to 255 characters", mends.QUOTE if is_whole else ""
    )


def find_recipe(line: bytes) -> Malformed | None:
    """Return the recipe for a PSP's own event, in a line without event_id."""
    if b'"object"' not in line and b'"notificationItems"' not in line:
        return None
    if _STRIPE.search(line):
        return Malformed(f"a raw Stripe event, {_RAW_EVENT}", mends.STRIPE)
    if _THIN.search(line):
        return Malformed(f"a thin Stripe event, which names no state, {_RAW_EVENT}; subscribe to snapshot events")
    if b'"notificationItems"' in line:
        return Malformed(f"a raw Adyen webhook, {_RAW_EVENT}", mends.ADYEN)
    return None


def find_syntax_error(line: bytes) -> str | None:
    """Return msgspec's error as text, because an exception in a variable would be a cycle."""
    try:
        _check_syntax(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        return str(error)
    return None


def quote(value: str) -> str:
    """Return a string from an input line as shortened JSON in ASCII, safe for any terminal."""
    return json.dumps(shorten_value(value))


def shorten_value(text: str) -> str:
    """Return a value from an input line, or its beginning if it is long."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _explain_utf_16(line: bytes) -> Malformed | None:
    """Recognize UTF-16: most pairs of bytes have a NUL, all on one side. Binary files differ."""
    text = line.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    nuls = text.count(b"\0")
    if not nuls or nuls * 3 < len(text) or text[::2].count(0) not in (0, nuls):
        return None
    # Without its NULs, a pair without one would be two other characters.
    is_ascii = nuls * 2 >= len(text) - 1 and text.replace(b"\0", b"").isascii()
    return Malformed("UTF-16 text, expected UTF-8 text", mends.NULS if is_ascii else "")


def _explain_piece(line: bytes, text: bytes) -> Malformed | None:
    """Recognize a line inside pretty-printed JSON, from its beginning or its end."""
    if text[:1] in (b"}", b"]"):
        return Malformed(_PIECE, mends.LIST if line.startswith(b"},") else mends.JOIN, PIECE)
    if text.startswith(b'"') and _KEY.match(text):
        if _STRIPE.match(text):
            return Malformed(_PIECE, mends.STRIPE, PIECE)
        if text.startswith(b'"notificationItems"'):
            return Malformed(_PIECE, mends.ADYEN, PIECE)
        return Malformed(_PIECE, mends.keep_ids(mends.JOIN, text), PIECE)
    if text.endswith(b",") and (b"{" not in text or text == b"{},") and find_syntax_error(text[:-1]) is None:
        return Malformed(_PIECE, mends.JOIN, PIECE)  # an element of an array that is open
    return None


def _explain_surroundings(text: bytes) -> Malformed | None:
    """Recognize a whole object with something around it."""
    if text == b",":
        return Malformed(f"a comma without an object, {_EXPECTED}", mends.COMMAS, ELEMENT)
    if text.startswith(b"\x1e"):
        return Malformed(f"a record separator (RFC 7464), {_EXPECTED}", mends.SEPARATORS)
    start, end = text.find(b"{"), text.rfind(b"}") + 1
    if not 0 <= start < end or end - start == len(text) or find_syntax_error(text[start:end]) is not None:
        return None
    before, after = text[:start].strip(), text[end:].strip()
    if before in (b"", b",") and after in (b"", b","):
        verb = "ends" if after else "begins"
        return Malformed(f"a comma {verb} the line, {_EXPECTED}", mends.keep_ids(mends.COMMAS, text), ELEMENT)
    if before in (b"", b"[", b",") and after in (b"", b"]", b","):
        return Malformed(_PIECE, mends.keep_ids(mends.ARRAY if before == b"[" else mends.JOIN, text), PIECE)
    if after.startswith((b"//", b"#", b"/*")):
        return Malformed(f"a comment after the object, {_EXPECTED}", mends.AROUND)
    where, extra = ("before", before) if before else ("after", after)
    return Malformed(f"{quote(extra.decode())} {where} the object, {_EXPECTED}", mends.AROUND)


def _explain_several(line: bytes, rest: bytes) -> Malformed | None:
    """Recognize more than one value on a line; `rest` follows the first."""
    if not line.lstrip().startswith((b"{", b"[")):
        return None
    if rest.startswith(BOM):
        return Malformed(f"a byte order mark inside the line, {_EXPECTED}", mends.BOMS)
    if rest.startswith(b"\x1e"):
        return Malformed(f"a record separator (RFC 7464), {_EXPECTED}", mends.SEPARATORS)
    if rest.startswith((b"{", b"[")):
        return Malformed(f"several JSON values on a line, {_EXPECTED}", mends.keep_ids(mends.JOIN, line))
    if rest.startswith(b",") and rest[1:].lstrip().startswith(b"{"):
        mend = mends.keep_ids(mends.LIST_ON_A_LINE, line)
        return Malformed(f"several objects with commas between them, {_EXPECTED}", mend)
    return None


def _explain_end(text: bytes) -> Malformed:
    """Return the problem of a line that ends early: cut off, or a piece if no string is open."""
    is_string_open = _ESCAPE.sub(b"", text).count(b'"') % 2
    if is_string_open or not text.startswith((b"{", b"[")):
        return Malformed(_ENDS_EARLY)
    recipe = find_recipe(text)
    mend = mends.keep_ids(mends.ARRAY if text.startswith(b"[") else mends.JOIN, text)
    return Malformed(_ENDS_EARLY, recipe.mend if recipe else mend, PIECE)


def _explain_start(text: bytes) -> Malformed | None:
    """Recognize another format by the beginning of a line."""
    if text.startswith(b"{'") and text.endswith(b"}"):
        return Malformed(f"single quotes, as Python writes them, {_EXPECTED}", mends.PYTHON)
    if text.startswith((b"{\xe2\x80\x9c", b"{ \xe2\x80\x9c")):
        return Malformed(f"curly quotes, {_EXPECTED}", mends.STRAIGHT_QUOTES)
    if text.startswith(b'"{""'):
        return Malformed(f"JSON in a cell of CSV, {_EXPECTED}", mends.CSV_CELLS)
    if text.startswith((b"//", b"#", b"/*")):
        return Malformed(f"a comment, {_EXPECTED}", mends.COMMENTS)
    if text.startswith(b"<"):
        return Malformed(f"HTML or XML, {_EXPECTED}")
    if _SQL.match(text):
        return Malformed(f"SQL, expected {EXPECTED_LINE}; select the rows with row_to_json")
    if re.fullmatch(rb"sep=.", text):
        return Malformed(f"Excel's first line of CSV, {_EXPECTED}")
    if b"{" not in text and b"event_id" in text and b"payment_id" in text:
        for delimiter in (",", ";", r"\t", "|"):
            if delimiter.encode().replace(b"\\t", b"\t") in text:
                return Malformed(f"the header of CSV, {_EXPECTED}", mends.CSV.replace("{}", delimiter))
    if text and not text.startswith((b"{", b"[", b'"')):
        return Malformed(f"not JSON: {quote(text.decode())}, {_EXPECTED}")
    return None


def _explain_place(line: bytes, at: int, found: str) -> Malformed:
    """Return the place of a problem, and the commands for those that have one."""
    rest = line[at:]
    if word := _FOREIGN_WORD.match(line, at - 1) or _FOREIGN_WORD.match(line, at):
        return Malformed(f"{word[0].decode()}, which JSON lacks, {_EXPECTED}", mends.NULLS)
    if found.startswith("trailing comma"):
        return Malformed(f"a comma before a closing bracket, {_EXPECTED}", mends.LAST_COMMAS)
    if found.startswith("object keys") and _BARE_KEY.match(rest):
        return Malformed(f"a key without double quotes, {_EXPECTED}", mends.KEYS)
    expected = _WORDS.get(found, _EXPECTED)
    if not rest:
        return Malformed(f"not JSON: {found}, {expected}")
    if rest[:1] < b" ":
        expected = "expected an escape for a control character"
    near = line[max(0, at - _SHOWN_AROUND) : at + _SHOWN_AROUND].decode(errors="ignore")
    return Malformed(
        f"not JSON near {quote(near)} (character {len(line[:at].decode(errors='ignore')) + 1:,}), {expected}"
    )
