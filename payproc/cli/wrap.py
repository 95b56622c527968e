"""Text in cells of a terminal: its width, and its lines in a width.

Belongs here: measuring and wrapping one text. The module is pure, and knows no tables.
"""

import re
from collections.abc import Sequence

_ONE_CELL = frozenset(map(chr, range(0x20, 0x7F))) | frozenset("→␣…–·─")
"""Characters known to take one cell each. Others need Rich's tables of widths."""

_WORD = re.compile(r"\s*\S+\s*")


def wrap(text: str, width: int) -> list[str]:
    """Wrap a text into lines of at most `width` cells.

    Lines break between words, and inside a word that is longer than a line.
    """
    if measure_text(text) <= width:
        return [text]
    lines = []
    line = ""
    for word in _WORD.findall(text):
        if measure_text(line + word.rstrip()) <= width:
            line += word
            continue
        if line:
            lines.append(line.rstrip())
        *full, line = _chop(word, width)
        lines += full
    return [*lines, line.rstrip()]


def join_parts(parts: Sequence[str], separator: str, width: int) -> list[str]:
    """Join parts into lines of at most `width` cells, which break only between two parts."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}{separator}{part}"
        if measure_text(f"{longer}{separator.rstrip()}") <= width:
            lines[-1] = longer
        else:
            lines[-1] += separator.rstrip()
            lines.append(part)
    return lines


def _chop(word: str, width: int) -> list[str]:
    """Break a word into full lines. A character of no width stays with the one before it."""
    if _ONE_CELL.issuperset(word):
        bare = word.rstrip()
        *full, last = [bare[start : start + width] for start in range(0, len(bare), width)] or [""]
        return [*full, last + word[len(bare) :]]
    lines = [""]
    taken = 0
    for character in word:
        size = measure_text(character)
        if taken + size > width and not character.isspace():
            lines.append("")
            taken = 0
        lines[-1] += character
        taken += size
    return lines


def measure_text(text: str) -> int:
    """Return the width of a text in cells of a terminal."""
    if text.isascii() or _ONE_CELL.issuperset(text):
        return len(text)
    from rich.cells import cell_len  # 2 ms of CPU for widths that ordinary tables do not need

    return cell_len(text)
