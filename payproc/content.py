"""Two lines under one event_id, compared by content.

Belongs here: the comparison of a redelivery with the event on record. Content is the JSON value:
white space, the order of keys and escapes are not content. Numbers are compared as text, because
they are never interpreted.
"""

import json
from typing import Any

MAX_COMPARED_BYTES = 8 << 10
"""Size of the largest recorded line that is compared by content, others by text. PSPs send a few
thousand bytes."""

MAX_LOOKED_UP_BYTES = MAX_COMPARED_BYTES + 4
"""Size, as stored with a header, of the largest recorded line that is looked up whole. A batch of
larger ones would take a lot of memory, so only their digest is looked up."""


def has_same_content(line: str, recorded: str) -> bool:
    """Return whether a line has the content of the recorded one, given whole or as its digest.

    White space and the order of keys make a large line differ, looked up or not.
    """
    if line == recorded:
        return True
    if "{" not in recorded:
        return digest(line) == recorded
    if len(recorded.encode()) > MAX_COMPARED_BYTES:
        return False
    return bool(_load(line) == _load(recorded))


def digest(line: str) -> str:
    """Return the digest of a line's text, as lookup.py gets it for a large line."""
    import hashlib  # loads OpenSSL, 2 ms that almost no run needs

    return hashlib.sha256(line.encode()).hexdigest()


def _load(line: str) -> Any:
    return json.loads(line, parse_int=_keep_number, parse_float=_keep_number)


def _keep_number(text: str) -> tuple[str]:
    """Return a number as something that equals no other JSON value."""
    return (text,)
