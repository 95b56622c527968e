"""Hostile text: control sequences, markup, reading order turned round, invisible characters, SQL.

Here are the strings, and a check of any text that is shown. It shares no code with payproc.
"""

import re
import unicodedata

INJECTIONS = [
    "'; DROP SCHEMA payproc CASCADE; --",
    "'); DELETE FROM payproc.events; --",
    "\\'; DROP SCHEMA payproc CASCADE; --",
    '"; DROP SCHEMA payproc CASCADE; --',
    "$$; DROP SCHEMA payproc CASCADE; $$",
    "1; UPDATE payproc.payments SET state = 'refunded'",
    "' UNION SELECT 1; COMMIT; DROP SCHEMA payproc CASCADE; --",
    "' OR '1'='1",
    "x' || pg_sleep(60) || '",
    "%s %(payment_id)s %% {0} {payment_id} :x $1",
    "{a,b} NULL \\N \\. (1,2)",
]

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

IDS = [
    *("[red]x[/red]", "[/]", "[link=http://evil.example]x[/link]", "[bold", "\\[red]", ":smile:", "[on red] x [/]"),
    *(f"pay{control}1" for control in BIDI),
    *("\u202epay1\u202c", "pay\u2066\u2067\u20681", "\u200bpay1", "pay1\u200b", "pay\u200c1", "pay\u200d1"),
    *("pay\u20601", "pay\ufeff1", "pay\u00ad1", "pay\u034f1", "pay\u115f1", "pay\u31641", "pay\uffa01", "pay\ufe0f1"),
    *("pay\U000e01001", "pay\U000e00411", "pay\u28001", "pay\u180e1", "pay\ue0001", "pay\U0010ffff1", "pay\ufffd1"),
    *("pay\ufff91", "pay1"),
    *("pay\u20281", "pay\u20291", "pay\u00a01", "pay\u30001", "pay 1", "pay  1", "pay \u24231", "pay\u24231"),
    *("pay\\u202e1", "pay\\1", "pay\\\\1", "pay\\x201", "pay\\", "\\", "pay\\n1"),
    *("caf\u00e9", "cafe\u0301", "\u0301pay1", "x" + "\u0302" * 60, "\uac00", "\u1100\u1161", "\u212b", "\u00c5"),
    *("日本" * 60, "\U0001f600" * 255, "x" * 255, "\u202e" * 255, "a " * 127 + "a", "שלום", "─────"),
    *("│ APPLY │", "$(id)`id`"),
    *INJECTIONS,
]
"""Possible ids: anything but control characters. Many of these look alike, or like `pay1`."""

TEXTS = [
    "\x1b[1A",
    *("\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b]8;;http://evil.example\x1b\\x\x1b]8;;\x1b\\", "\x1bc"),
    *("\x1b[2J\x1b[H", "\x9b31mred", "\x9d0;title\x9c", "\x90q\x9c", "a\x85b", "x\ry", "x\b\b\by", "x\ty", "x\ny\nz"),
    "\x0e\x0f",
    *("\x7f", "\x07", "\x1b[1A\x1b[2K", "x\x0b\x0cy", "\x1f"),
    *(text for text in IDS if len(text) < 70),
]
"""Possible notes, names, file names and arguments: they may hold control characters as well."""

SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""The control sequences of a program that only colours its text and draws a bar."""


def harmful(shown: str) -> set[str]:
    """Return the characters that hide, turn or break a line, or control a terminal."""
    return {each for each in set(shown) if each != "\n" and unicodedata.category(each) in _HARMFUL_CATEGORIES}


_HARMFUL_CATEGORIES = ("Cc", "Cf", "Zl", "Zp", "Cs", "Co")


def unescape(shown: str) -> str:
    """Return the text behind a shown one, as a reader would."""
    return re.sub(
        r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))",
        lambda found: (found[4] and _LETTERS.get(found[4], found[4])) or chr(int(found[1] or found[2] or found[3], 16)),
        shown.replace("\u2423", " "),
    )


_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}
