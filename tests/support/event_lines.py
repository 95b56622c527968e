"""Lines of events for the tests of the parser: a good one, and ways to change it.

Belongs here: lines that more than one test module needs.
"""

from payproc.logic import EventType
from payproc.schemas import PaymentEvent

GOOD = b'{"event_id":"e1","payment_id":"p1","type":"capture"}'
"""A good line of 52 bytes. The value of a field `,"x":` added behind it is at byte 56."""

EVENT = PaymentEvent("e1", "p1", EventType.CAPTURE)
"""The event of the good line."""


Cases = dict[str, tuple[bytes, str]]
"""Malformed lines and their errors, by the name of the case."""

AN_OBJECT = "expected one JSON object a line"
UTF_8 = "expected UTF-8 text"


def with_field(field: bytes) -> bytes:
    """Return the good line with one more field at its end."""
    return GOOD[:-1] + b"," + field + b"}"


def with_value(value: bytes) -> bytes:
    """Return the good line with a field `x` of this value at its end."""
    return with_field(b'"x":' + value)


def with_event_id(value: bytes) -> bytes:
    """Return the good line with this value for its event_id."""
    return GOOD.replace(b'"e1"', value)


def with_payment_id(value: bytes) -> bytes:
    """Return the good line with this value for its payment_id."""
    return GOOD.replace(b'"p1"', value)


def with_type(value: bytes) -> bytes:
    """Return the good line with this value for its type."""
    return GOOD.replace(b'"capture"', value)
