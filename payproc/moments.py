"""Ages and times as people type them: `7d`, `2026-11-18`, `2026-11-18T04:47:54Z`.

Belongs here: parsing them. The module is pure: the time that an age counts from is an argument.
"""

import re
from datetime import datetime, timedelta, timezone

MAX_AGE_DAYS = 36_500
"""Largest age: a century, which no record reaches and every calendar can subtract."""

AGES = "an age such as 7d, 12h or 30m"
"""Right ages, for messages and help."""

TIMES = f"a date such as 2026-11-18, a time such as 2026-11-18T04:47:54Z, or {AGES}"
"""Right times, for messages and help."""

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_AGE = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)

_TIME = re.compile(
    r"""
    (?P<date> \d{4}-\d\d-\d\d )
    (?: [Tt ] (?P<time> \d\d:\d\d (?: :\d\d )? ) (?: \. (?P<fraction> \d{1,9} ) )? (?P<zone> [Zz] | [+-]\d\d:\d\d )? )?
    """,
    re.ASCII | re.VERBOSE,
)
"""A date, or RFC 3339 with less: seconds may be missing, and without a zone it is UTC."""


def parse_age(text: str) -> timedelta:
    """Return an age. Raise ValueError with the value and right ones."""
    age = _match_age(text)
    if age is None:
        raise ValueError(f"'{text}' is not an age, expected {AGES}, and at most {MAX_AGE_DAYS}d")
    return age


def parse_moment(text: str, now: datetime) -> datetime:
    """Return a time in UTC; an age is subtracted from `now`, and a date is its first moment.

    Raise ValueError with the value and right ones.
    """
    age = _match_age(text)
    moment = _match_time(text) if age is None else now - age
    if moment is None:
        raise ValueError(f"'{text}' is not a time, expected {TIMES}")
    return moment


def _match_age(text: str) -> timedelta | None:
    matched = _AGE.fullmatch(text)
    if matched is None:
        return None
    age = timedelta(**{_UNITS[matched[2]]: int(matched[1])})
    return age if age <= timedelta(MAX_AGE_DAYS) else None


def _match_time(text: str) -> datetime | None:
    matched = _TIME.fullmatch(text)
    if matched is None:
        return None
    microseconds = f"{matched['fraction'] or '':0<6}"[:6]
    zone = (matched["zone"] or "Z").upper().replace("Z", "+00:00")
    time = matched["time"] or "00:00"
    seconds = time if time.count(":") == 2 else f"{time}:00"
    try:
        return datetime.fromisoformat(f"{matched['date']}T{seconds}.{microseconds}{zone}").astimezone(timezone.utc)
    except (ValueError, OverflowError):  # as 2026-02-30, or a zone that leads before the year 1
        return None
