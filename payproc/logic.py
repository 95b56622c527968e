"""The rules: states, events, outcomes, reasons, the decision table and `classify`.

Belongs here: everything that decides, and nothing else. This module is pure and deterministic. It
imports the standard library alone, and reads no clock, no file and no database. It holds no SQL and
no text for people, and knows no source of an event.

Theory. A payment is in one of five states. Four types of events each name the state that it has
reached; legally it moves along five edges only:

    created ── authorize ──▶ authorized ── capture ──▶ captured ── refund ──▶ refunded
    created ── fail ──▶ failed
    authorized ── fail ──▶ failed

A fifth type, flag, names no state. It reports something that only a person can judge: a dispute, a
chargeback, a refund or capture that failed afterwards, a refund of a part.

Events arrive duplicated, out of order and contradicting each other, so the table below is total: it
answers for every state and every event, without a default. Each answer is one of four outcomes:

    APPLY          safe: the payment moves along an edge
    IGNORE         safe: there is nothing left to do
    REJECT         a violation that no later event can make legal
    MANUAL_REVIEW  ambiguous: a person decides, with more than three fields to look at

Only APPLY moves the payment. The property that the table must keep (tests/unit/test_histories.py
checks it exhaustively): deliver any legal history in any order with any repeats; either the payment
ends where the in-order history ends, or at least one event was REJECT or MANUAL_REVIEW. The result
is never silently wrong.

Why these cells:

* An authorize that comes late moves no money: IGNORE superseded.
* A second capture under another event_id is usually one fact reported twice: IGNORE
  already_in_state. A second refund is money out twice: MANUAL_REVIEW.
* A capture or refund whose predecessor has not been seen may be out of order, a sale without
  authorization, or carry a wrong payment_id. Three fields cannot tell: MANUAL_REVIEW. (Rejecting it
  would burn its event_id and leave the payment wrong for ever.)
* A failure after money moved may be a stale decline or goods shipped unpaid: MANUAL_REVIEW.
* A flag never moves a payment, whatever its state, and can only be dismissed: MANUAL_REVIEW.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Protocol


class _Word(str, Enum):
    """A word of a closed set.

    It hashes as its text, because Enum's own hash takes several times as long.
    """

    __hash__ = str.__hash__


class State(_Word):
    """The state of a payment. A payment without history is `created`."""

    CREATED = "created"
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    REFUNDED = "refunded"
    FAILED = "failed"


class EventType(_Word):
    """The step of its payment that an event reports."""

    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    REFUND = "refund"
    FAIL = "fail"
    FLAG = "flag"


class Outcome(_Word):
    """The fate of an event. Reports list outcomes in this order."""

    APPLY = "APPLY"
    IGNORE = "IGNORE"
    REJECT = "REJECT"
    MANUAL_REVIEW = "MANUAL_REVIEW"


class Resolution(_Word):
    """A person's decision about an event in MANUAL_REVIEW."""

    APPLY = "apply"
    DISMISS = "dismiss"


class Reason(_Word):
    """The reason of an outcome.

    The order is the order of precedence: identity is decided first, before any state is looked at.
    """

    EVENT_ID_CONFLICT = "event_id_conflict"
    DUPLICATE_EVENT = "duplicate_event"
    TRANSITION = "transition"
    ALREADY_IN_STATE = "already_in_state"
    SUPERSEDED = "superseded"
    PAYMENT_FAILED = "payment_failed"
    PREDECESSOR_MISSING = "predecessor_missing"
    FAILURE_AFTER_CAPTURE = "failure_after_capture"
    CAPTURE_AFTER_REFUND = "capture_after_refund"
    REPEATED_REFUND = "repeated_refund"
    AUTHORIZE_AFTER_FAILURE = "authorize_after_failure"
    FLAGGED = "flagged"


OUTCOME_OF: Mapping[Reason, Outcome] = {
    Reason.EVENT_ID_CONFLICT: Outcome.REJECT,
    Reason.DUPLICATE_EVENT: Outcome.IGNORE,
    Reason.TRANSITION: Outcome.APPLY,
    Reason.ALREADY_IN_STATE: Outcome.IGNORE,
    Reason.SUPERSEDED: Outcome.IGNORE,
    Reason.PAYMENT_FAILED: Outcome.REJECT,
    Reason.PREDECESSOR_MISSING: Outcome.MANUAL_REVIEW,
    Reason.FAILURE_AFTER_CAPTURE: Outcome.MANUAL_REVIEW,
    Reason.CAPTURE_AFTER_REFUND: Outcome.MANUAL_REVIEW,
    Reason.REPEATED_REFUND: Outcome.MANUAL_REVIEW,
    Reason.AUTHORIZE_AFTER_FAILURE: Outcome.MANUAL_REVIEW,
    Reason.FLAGGED: Outcome.MANUAL_REVIEW,
}
"""Every reason belongs to exactly one outcome, so counting reasons counts outcomes."""


class Decision(NamedTuple):
    """The outcome of one event, its reason, and its effect on the payment's state."""

    outcome: Outcome
    reason: Reason
    state_before: State
    state_after: State


STATE_NAMED_BY: Mapping[EventType, State] = {
    EventType.AUTHORIZE: State.AUTHORIZED,
    EventType.CAPTURE: State.CAPTURED,
    EventType.REFUND: State.REFUNDED,
    EventType.FAIL: State.FAILED,
}
"""The state that an event says the payment has reached. A flag names none."""

_REASONS: Mapping[State, Mapping[EventType, Reason]] = {
    State.CREATED: {
        EventType.AUTHORIZE: Reason.TRANSITION,
        EventType.CAPTURE: Reason.PREDECESSOR_MISSING,
        EventType.REFUND: Reason.PREDECESSOR_MISSING,
        EventType.FAIL: Reason.TRANSITION,
        EventType.FLAG: Reason.FLAGGED,
    },
    State.AUTHORIZED: {
        EventType.AUTHORIZE: Reason.ALREADY_IN_STATE,
        EventType.CAPTURE: Reason.TRANSITION,
        EventType.REFUND: Reason.PREDECESSOR_MISSING,
        EventType.FAIL: Reason.TRANSITION,
        EventType.FLAG: Reason.FLAGGED,
    },
    State.CAPTURED: {
        EventType.AUTHORIZE: Reason.SUPERSEDED,
        EventType.CAPTURE: Reason.ALREADY_IN_STATE,
        EventType.REFUND: Reason.TRANSITION,
        EventType.FAIL: Reason.FAILURE_AFTER_CAPTURE,
        EventType.FLAG: Reason.FLAGGED,
    },
    State.REFUNDED: {
        EventType.AUTHORIZE: Reason.SUPERSEDED,
        EventType.CAPTURE: Reason.CAPTURE_AFTER_REFUND,
        EventType.REFUND: Reason.REPEATED_REFUND,
        EventType.FAIL: Reason.FAILURE_AFTER_CAPTURE,
        EventType.FLAG: Reason.FLAGGED,
    },
    State.FAILED: {
        EventType.AUTHORIZE: Reason.AUTHORIZE_AFTER_FAILURE,
        EventType.CAPTURE: Reason.PAYMENT_FAILED,
        EventType.REFUND: Reason.PAYMENT_FAILED,
        EventType.FAIL: Reason.ALREADY_IN_STATE,
        EventType.FLAG: Reason.FLAGGED,
    },
}


def _make_decision(reason: Reason, state: State, event_type: EventType) -> Decision:
    moves = reason is Reason.TRANSITION
    return Decision(OUTCOME_OF[reason], reason, state, STATE_NAMED_BY[event_type] if moves else state)


TABLE: Mapping[State, Mapping[EventType, Decision]] = {
    state: {event_type: _make_decision(reason, state, event_type) for event_type, reason in row.items()}
    for state, row in _REASONS.items()
}
"""The decision table: 5 states x 5 events."""


def is_legal(state: State, event_type: EventType) -> bool:
    """Return whether the table applies such an event to a payment in this state."""
    return TABLE[state][event_type].outcome is Outcome.APPLY


_CONFLICT: Mapping[State, Decision] = {
    state: Decision(Outcome.REJECT, Reason.EVENT_ID_CONFLICT, state, state) for state in State
}
_DUPLICATE: Mapping[State, Decision] = {
    state: Decision(Outcome.IGNORE, Reason.DUPLICATE_EVENT, state, state) for state in State
}


class Identity(Protocol):
    """The identity of an event. Its other fields may differ between deliveries."""

    @property
    def payment_id(self) -> str: ...

    @property
    def type(self) -> EventType: ...


def classify(event: Identity, recorded: Identity | None, state: State) -> Decision:
    """Return the decision about an event.

    `recorded` is the event on record under its event_id, if any; `state` is its payment's state. An
    event_id is an idempotency key. On record with the same payment and type, the event is a
    duplicate, for any outcome of the first delivery. With another payment or type it is a hard
    violation, never a duplicate.
    """
    if recorded is not None:
        if recorded.payment_id != event.payment_id or recorded.type is not event.type:
            return _CONFLICT[state]
        return _DUPLICATE[state]
    return TABLE[state][event.type]
