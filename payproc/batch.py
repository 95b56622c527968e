"""The pure half of a batch: decisions over known facts."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from payproc.logic import Decision, EventType, Outcome, Reason, State, classify
from payproc.schemas import Malformed, PaymentEvent

# The structs below are made for every event and cannot be part of a cycle: gc=False keeps the collector away from them.


class InputEvent(msgspec.Struct, frozen=True, gc=False):
    """An event and where it came from: the index of its source in the run, and its line there, counted from 1."""

    event: PaymentEvent
    payload: str
    source: int
    line: int


class RecordedEvent(msgspec.Struct, frozen=True, gc=False):
    """The event on record under an event_id. The rest is known only if this run has recorded it, or is about to."""

    payment_id: str
    type: EventType
    outcome: Outcome
    source: int | None = None
    line: int | None = None
    decision: Decision | None = None


class EventResult(msgspec.Struct, frozen=True, gc=False):
    """The decision about an event, and the version of its payment that it was based on."""

    received: InputEvent
    decision: Decision
    version: int
    is_new: bool
    """Whether it has to be written: duplicates do not, nor events that an earlier attempt of this run has recorded."""
    recorded: RecordedEvent | None = None
    """The event that its event_id already stood for, if any."""
    is_known: bool = False
    """Only for a conflict: the same conflict is on record already."""


Result = EventResult | Malformed
"""Malformed only where the database itself refuses to store an event."""


class Known(NamedTuple):
    """What decisions are based on. It grows with each decision, so that the next one builds on it."""

    recorded: dict[str, RecordedEvent]
    """By event_id."""
    payments: dict[str, tuple[State, int]]
    """State and version by payment_id; a payment nobody has heard of is not in it."""
    conflicts: dict[tuple[str, str, EventType], tuple[int, int] | None]
    """Recorded conflicts by event_id, payment_id and type: source and line, or None if another run recorded it."""


class ThisRun(NamedTuple):
    """The run whose events are its own, not duplicates. Its number alone is not enough: numbers may start again."""

    run_id: int
    since: datetime | str
    """Nothing older is the run's own; by the server's clock."""


NO_RUN = ThisRun(0, "infinity")
"""The run of no event: runs are numbered from 1."""

_UNKNOWN_PAYMENT = (State.CREATED, 0)


def decide(batch: Sequence[InputEvent], known: Known) -> list[EventResult]:
    """Classify events in order, carrying what is on record and each payment's state forward in `known`."""
    recorded, payments, conflicts = known
    as_reported = _states_before_own_events(batch, known)
    verdicts = []
    for received in batch:
        event = received.event
        event_id, payment_id = event.event_id, event.payment_id
        on_record = recorded.get(event_id)
        state, version = payments.get(payment_id, _UNKNOWN_PAYMENT)
        if on_record is None:
            decision = classify(event, None, state)
            recorded[event_id] = RecordedEvent(
                payment_id, event.type, decision.outcome, received.source, received.line, decision
            )
            payments[payment_id] = (decision.state_after, version + 1)
            if as_reported:
                as_reported.pop(payment_id, None)  # behind the run's own events, what is stored is what lines see
            verdicts.append(EventResult(received, decision, version, True))
        elif (decided := _decided_before(received, on_record)) is not None:
            # Recorded by an attempt that was cut off before it could tell: this very line, not a duplicate.
            as_reported[payment_id] = decided.state_after
            verdicts.append(EventResult(received, decided, version, False))
        else:
            decision = classify(event, on_record, as_reported.get(payment_id, state))
            is_conflict = decision.reason is Reason.EVENT_ID_CONFLICT
            # The place is this line's own if an attempt that was cut off has recorded the conflict.
            place = place_of(received)
            is_known = is_conflict and conflicts.setdefault((event_id, payment_id, event.type), place) != place
            verdicts.append(EventResult(received, decision, version, is_conflict, on_record, is_known))
    return verdicts


def _states_before_own_events(batch: Sequence[InputEvent], known: Known) -> dict[str, State]:
    """Where an attempt that was cut off has already moved payments: their states before that, as lines saw them."""
    states: dict[str, State] = {}
    for received in batch if known.recorded else ():
        on_record = known.recorded.get(received.event.event_id)
        if on_record is not None and (decided := _decided_before(received, on_record)) is not None:
            states.setdefault(received.event.payment_id, decided.state_before)
    return states


def _decided_before(received: InputEvent, on_record: RecordedEvent) -> Decision | None:
    """Return the decision of this run if this very line is the one on record."""
    is_this_line = on_record.line == received.line and on_record.source == received.source
    return on_record.decision if is_this_line else None


def retry_set(
    verdicts: Sequence[EventResult], new: Sequence[EventResult], contested_places: Sequence[int]
) -> list[InputEvent]:
    """What was contested, and all that was judged by it: whatever came later under its event_id or its payment."""
    contested = {place_of(new[place - 1].received) for place in contested_places}
    event_ids = set()
    payment_ids = set()
    again = []
    for verdict in verdicts:
        received = verdict.received
        event = received.event
        if place_of(received) in contested or event.event_id in event_ids or event.payment_id in payment_ids:
            event_ids.add(event.event_id)
            payment_ids.add(event.payment_id)
            again.append(received)
    return again


def place_of(received: InputEvent) -> tuple[int, int]:
    return received.source, received.line
