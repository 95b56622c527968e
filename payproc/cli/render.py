"""Parts of results that several commands share: JSON, times, origins, counts, styles of outcomes.

Belongs here: a part that two or more commands show. A table is in the file of its command. Text
from events is data: it passes through escape.py, so it cannot drive a terminal.
"""

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from payproc.cli.options import Format
from payproc.cli.place import Place
from payproc.cli.table import Styled
from payproc.escape import printable_json, unambiguous
from payproc.logic import Outcome, Reason, Resolution

if TYPE_CHECKING:
    from payproc.history import ConflictEntry
    from payproc.payments import Conflict, EventEntry, Redelivery
    from payproc.review import Review

_OUTCOME_STYLES = {
    Outcome.APPLY: "green",
    Outcome.IGNORE: "dim",
    Outcome.REJECT: "red",
    Outcome.MANUAL_REVIEW: "yellow",
}

DONE = {Resolution.APPLY: "applied", Resolution.DISMISS: "dismissed"}
"""Resolutions in the past tense."""

MEANING = {
    Reason.EVENT_ID_CONFLICT: "its event_id is already used by another event",
    Reason.DUPLICATE_EVENT: "this event is already recorded",
    Reason.TRANSITION: "a legal step",
    Reason.ALREADY_IN_STATE: "an earlier event reported the same state",
    Reason.SUPERSEDED: "it is late: the payment has moved past this state",
    Reason.PAYMENT_FAILED: "the payment has failed",
    Reason.PREDECESSOR_MISSING: "the step before it is missing",
    Reason.FAILURE_AFTER_CAPTURE: "it reports a failure after money moved",
    Reason.CAPTURE_AFTER_REFUND: "it captures again after the refund",
    Reason.REPEATED_REFUND: "it refunds again: money out twice",
    Reason.AUTHORIZE_AFTER_FAILURE: "it authorizes after the failure",
    Reason.FLAGGED: "it is a report that only a person can judge",
}
"""Every reason in words for people. logic.py stays free of prose."""


def to_json(value: Any, output_format: Format) -> str:
    """Return one JSON document, indented unless the format is JSONL."""
    import msgspec  # late

    if output_format is Format.JSONL:
        return to_json_line(value)
    return printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def to_json_line(value: Any) -> str:
    """Return one JSON document on one line."""
    import msgspec  # late

    return printable_json(msgspec.json.encode(value).decode())


def style_outcome(outcome: Outcome) -> Styled:
    """Return an outcome in its colour."""
    return Styled(outcome.value, _OUTCOME_STYLES[outcome])


def format_time(moment: datetime) -> str:
    """Return a time in UTC, to the second."""
    return moment.astimezone(timezone.utc).isoformat(" ")[:19]


def format_origin(entry: "EventEntry | Conflict | ConflictEntry | Redelivery | Review") -> Place:
    """Return the run, file and line that an event came from."""
    return Place(f"run {entry.run_id}, ", unambiguous(entry.source), f":{entry.line}")


def format_count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, as in `1 entry` and `2 entries`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def describe_rejected(count: int, run_id: int | None) -> str:
    """Return the number of events that a run rejected, with the command that lists them."""
    rejected = format_count(count, "event was", "events were")
    return f"{rejected} rejected; run payproc history --run {run_id} --outcome REJECT"


def format_age(age: timedelta) -> str:
    """Return an age in its largest unit: 12 s, 5 min, 3 h, 9 d."""
    seconds = max(int(age.total_seconds()), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
