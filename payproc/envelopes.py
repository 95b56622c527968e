"""Envelopes: objects of a queue or a log with an event inside.

Belongs here: the search for the event, and jq's path to it. SNS, SQS and Docker keep it as text in
a string; EventBridge and many others keep it as an object.
"""

import json
import re
from typing import Any

from payproc.explain import EXPECTED_LINE, Malformed, find_recipe
from payproc.mends import has_number_id, keep_ids

_SAFE_KEY = re.compile(r"[\w:@/-]+", re.ASCII)
"""Keys that need no escape in a command. An event under another key is not found."""


def find_foreign(missing: str, line: bytes) -> Malformed | None:
    """Recognize an event of another system, or one inside another object."""
    recipe = find_recipe(line) if missing == "event_id" else None
    return recipe or (_find_envelope(line) if missing != "type" else None)


def _find_envelope(line: bytes) -> Malformed | None:
    """Return the way to an event inside an object without event_id or payment_id."""
    if b"payment_id" not in line or b"event_id" not in line:
        return None
    try:
        found = _find_event(json.loads(line, parse_int=str), "")
    except (ValueError, RecursionError):
        return None
    if found is None:
        return None
    path, is_text = found
    if not path:
        return Malformed(f"events in several places, expected {EXPECTED_LINE}")
    if " | " in path and has_number_id(line.replace(b"\\", b"")):
        return None  # the command that quotes ids misses those in a string
    mend = f"jq -r '{path}' FILE" if is_text else keep_ids(f"jq -c '{path}' FILE", line)
    return Malformed(f"an event inside {path.split(' ')[0]}, expected {EXPECTED_LINE}", mend)


def _find_event(value: Any, path: str) -> tuple[str, bool] | None:
    """Return jq's path to the events inside a value, and whether they are in a string.

    The path is empty if no single path leads to all of them.
    """
    if isinstance(value, str):
        if not value.lstrip().startswith("{") or "payment_id" not in value:
            return None
        found = _find_event(json.loads(value, parse_int=str), f"{path} | fromjson")
        return (path, True) if found == (f"{path} | fromjson", False) else found
    if isinstance(value, list):
        return _find_event(value[0], f"{path or '.'}[]") if value else None
    if isinstance(value, dict):
        if path and "event_id" in value and "payment_id" in value:
            return path, False
        places = {key: each for key, child in value.items() if (each := _find_event(child, path + _step(key)))}
        if len(places) > 1:
            is_map = all(isinstance(child, dict) and "event_id" in child for child in value.values())
            return (f"{path or '.'}[]" if is_map else "", False)
        return next((each for key, each in places.items() if _SAFE_KEY.fullmatch(key)), None)
    return None


def _step(key: str) -> str:
    """Return jq's step to the value of a key."""
    return f".{key}" if key.isidentifier() and key.isascii() else f'."{key}"'
