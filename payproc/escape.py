"""Text from outside, made safe to show.

Belongs here: the form of ids, notes, names and payloads on a terminal and in JSON. They are data:
nothing in them may move a cursor, change a colour, reverse the reading order or stay invisible. A
shown id identifies exactly one id, and no message shows a password. This module imports the
standard library alone, so every other module may import it.
"""

import re
import unicodedata

SPACE = "\u2423"
"""A visible space, for cells that wrap at spaces; a wrapped `a b` would look like `ab`."""

MAX_TEXT_CHARACTERS = 10_000
"""Longest note, name or label that a person may give; a bulk decision stores its note per event."""

_MAX_SHORT_TEXT = 200
"""Characters of a note, name or label in a message or a listing; `show` and JSON have all."""

HIDDEN = "***"
"""The mask over a password."""

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters that str.isprintable accepts but a terminal hides.

They are fillers, joiners, variation selectors, and a blank.
"""

_MAX_MARKS = 3
"""Marks shown on one letter. Words of every script have no more; dozens would cover other rows."""

_END = r"""(?= ["')]* [:;,.]* (?:\s|$) )"""
"""End of a URL or a value in a message, before the punctuation around it."""

_PASSWORD = re.compile(
    rf"""
    (?P<mark> ://)
    (?! USER:PASSWORD@HOST:PORT/ )                              # the form that messages ask for
    (?: [^\s\[]*? (?: : (?! \d[\d,]*[/:] | [\d,]*{_END} ) | %3A )   # a colon before anything but a port,
      | [^\s:]* : \S* (?: @ | %40 )                             # a colon before an @,
      | \S*? \? (?! service= )                                  # or parameters
    )
    (?: (?: (?!://). )* (?: @ | %40 ) )? \S*? {_END}            # up to the last @, because a password may hold spaces
    |
    (?<=password) \s* (?P<equals> = | %3D ) \s* (?: '(?:[^'\\]|\\.)*' | \S+? ) {_END}
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
"""A URL that may hold a password, from its `://` on, or the value of libpq's `password=`."""


def redact(text: str) -> str:
    """Return a message without passwords.

    It masks a URL with a password, with parameters, or with a port that is not a number, because
    an unescaped password may be cut anywhere. It keeps the names of databases that messages show,
    such as `postgresql://alice@db:5432/payments`.
    """
    return _PASSWORD.sub(rf"\g<mark>\g<equals>{HIDDEN}", text)


def printable(text: str) -> str:
    """Return a text, or a whole message, with an escape for each character that is not visible."""
    return text if text.isascii() and text.isprintable() else _escape(text, "")


def unambiguous(text: str) -> str:
    """Return a printable text that differs for different texts, so a backslash is doubled."""
    return text if text.isascii() and text.isprintable() and "\\" not in text else _escape(text, "\\" + SPACE)


def cell_text(text: str) -> str:
    """Return an unambiguous text with visible spaces, for a table cell that wraps."""
    return unambiguous(text).replace(" ", SPACE)


def shorten(text: str) -> str:
    """Return the beginning of a note, name or label, unambiguous, for a message or a listing."""
    return unambiguous(text if len(text) <= _MAX_SHORT_TEXT else f"{text[:_MAX_SHORT_TEXT]}…")


def _escape(text: str, also: str) -> str:
    """Return a text with escapes for its invisible or ambiguous characters and those in `also`."""
    # A letter followed by an accent looks like the composed letter; only the composed one is shown.
    is_composed = unicodedata.is_normalized("NFC", text)
    marks = _MAX_MARKS  # a mark at the beginning would sit on the character before the text
    shown = []
    for character in text:
        is_mark = unicodedata.category(character).startswith("M")
        marks = marks + 1 if is_mark else 0
        if (
            _is_visible(character)
            and character not in also
            and marks <= _MAX_MARKS
            and (is_composed or not (is_mark or _composes(character)))
        ):
            shown.append(character)
        else:
            shown.append(character.encode("unicode_escape").decode())
    return "".join(shown)


def _is_visible(character: str) -> bool:
    return character.isprintable() and not _INVISIBLE.match(character)


def _composes(character: str) -> bool:
    """Return whether NFC changes the character, by itself or together with the one before."""
    return "\u1160" <= character <= "\u11ff" or not unicodedata.is_normalized("NFC", character)


def printable_json(text: str) -> str:
    """Return a JSON document of the same content in visible characters.

    Line feeds between values stay; other white space becomes a space. Every other invisible
    character is inside a string, where JSON has escapes.
    """
    if text.replace("\n", "").isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(map(_escape_in_json, text))


def _escape_in_json(character: str) -> str:
    if character in "\t\r":
        return " "
    if character == "\n" or _is_visible(character):
        return character
    import json  # 2 ms of CPU, rarely needed, and --help imports this module too

    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
