"""Text from outside, fit to be shown.

What belongs here: how ids, notes, names and payloads look on a terminal and in JSON, whatever is in them. They are
data: nothing in them may move a cursor, change a colour, turn the reading order round or stay invisible, and what is
shown of an id says exactly which id it is. The standard library alone, so that every module may use it.
"""

import re
import unicodedata

SPACE = "\u2423"
"""Stands for a space where a line may be broken at one, which would make `a b` look like `ab`."""

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""What str.isprintable takes for visible and a terminal does not: fillers, joiners, variation selectors, a blank."""

_MOST_MARKS = 3
"""Marks on one letter that are shown. No script has more in ordinary words; dozens would reach over other rows."""


def printable(text: str) -> str:
    """Text, or a whole message, that a terminal shows as it stands: what is not visible becomes an escape."""
    return text if text.isascii() and text.isprintable() else _escaped(text, "")


def unambiguous(text: str) -> str:
    """The same so that no two texts look the same; therefore a backslash of its own is written twice."""
    return text if text.isascii() and text.isprintable() and "\\" not in text else _escaped(text, "\\" + SPACE)


def unbroken(text: str) -> str:
    """The same with visible spaces, for a cell of a table, where lines are broken."""
    return unambiguous(text).replace(" ", SPACE)


def _escaped(text: str, too: str) -> str:
    # A letter with an accent of its own looks like the letter that has one built in; only the latter is composed.
    is_composed = unicodedata.is_normalized("NFC", text)
    marks = _MOST_MARKS  # at the beginning a mark would stand on whatever comes before
    shown = []
    for character in text:
        is_mark = unicodedata.category(character).startswith("M")
        marks = marks + 1 if is_mark else 0
        if (
            _is_visible(character)
            and character not in too
            and marks <= _MOST_MARKS
            and (is_composed or not (is_mark or _composes(character)))
        ):
            shown.append(character)
        else:
            shown.append(character.encode("unicode_escape").decode())
    return "".join(shown)


def _is_visible(character: str) -> bool:
    return character.isprintable() and not _INVISIBLE.match(character)


def _composes(character: str) -> bool:
    """Whether it is another way to write a character, or becomes one together with the one before."""
    return "\u1160" <= character <= "\u11ff" or not unicodedata.is_normalized("NFC", character)


def printable_json(text: str) -> str:
    """A JSON document of the same content that a terminal shows as it stands; line feeds between values are kept.

    Other white space is a space. Whatever else is not visible can only be inside a string, where an escape means it.
    """
    if text.replace("\n", "").isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(map(_in_json, text))


def _in_json(character: str) -> str:
    if character in "\t\r":
        return " "
    if character == "\n" or _is_visible(character):
        return character
    import json  # rarely needed, and this module is imported even for --help

    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
