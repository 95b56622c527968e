"""The pure half of a batch: decisions over known facts.

Belongs here: everything about a batch that needs no database. The caller looks up the known
facts, and records the results; this module carries the facts forward from event to event.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from payproc.content import has_same_content
from payproc.explain import Malformed
from payproc.logic import Decision, EventType, Outcome, Reason, State, classify
from payproc.schemas import PaymentEvent

# The structs below are made for every event and cannot be part of a cycle: gc=False keeps the
# collector away from them.


class InputEvent(msgspec.Struct, frozen=True, gc=False):
    """An event, the index of its source in the run, and its line there, counted from 1."""

    event: PaymentEvent
    payload: str
    source: int
    line: int


class RecordedByThisRun(msgspec.Struct, frozen=True, gc=False):
    """The line that this run has recorded under an event_id, or is about to, and its decision."""

    source: int
    line: int
    decision: Decision


class RecordedEvent(msgspec.Struct, frozen=True, gc=False):
    """The event on record under an event_id."""

    payment_id: str
    type: EventType
    outcome: Outcome | None
    """None for an event_id that is claimed on Citus, and whose event is not on record yet."""
    line: str
    """The line as received. If it is large and was looked up, its digest."""
    by_this_run: RecordedByThisRun | None = None


class EventResult(msgspec.Struct, frozen=True, gc=False):
    """The decision about an event, and the version of its payment that it was based on."""

    input_event: InputEvent
    decision: Decision
    version: int
    is_new: bool
    """True for a result to write. False for equal duplicates, and for events recorded by an earlier
    attempt of this run."""
    recorded: RecordedEvent | None = None
    """The event that was on record under its event_id before it, if any."""
    is_known: bool = False
    """True for a conflict that is on record already."""
    differs: bool = False
    """True for a duplicate whose content is not that of the event on record."""


Result = EventResult | Malformed
"""Malformed only for an event that the database itself refuses to store."""

Place = tuple[int, int]
"""Source and line of an event."""


class Known(NamedTuple):
    """The facts that decisions are based on.

    Each decision adds to them, and the next one builds on it.
    """

    recorded: dict[str, RecordedEvent]
    """By event_id."""
    payments: dict[str, tuple[State, int]]
    """State and version by payment_id. A payment without history is missing."""
    conflicts: dict[tuple[str, str, EventType], Place | None]
    """Recorded conflicts by event_id, payment_id and type; None if another run recorded it."""


_NEW_PAYMENT = (State.CREATED, 0)


def decide(batch: Sequence[InputEvent], known: Known) -> list[EventResult]:
    """Classify events in order, carrying the facts forward in `known`."""
    recorded, payments, conflicts = known
    states_seen = _find_states_before(batch, known)
    results = []
    for input_event in batch:
        event = input_event.event
        event_id, payment_id = event.event_id, event.payment_id
        original = recorded.get(event_id)
        state, version = payments.get(payment_id, _NEW_PAYMENT)
        if original is None or (original.outcome is None and _is_own_claim(original, event)):
            decision = classify(event, None, state)
            own = RecordedByThisRun(input_event.source, input_event.line, decision)
            recorded[event_id] = RecordedEvent(payment_id, event.type, decision.outcome, input_event.payload, own)
            payments[payment_id] = (decision.state_after, version + 1)
            if states_seen:
                states_seen.pop(payment_id, None)  # after the run's own events, the stored state is the one to report
            results.append(EventResult(input_event, decision, version, True))
        elif (earlier := original.by_this_run) is not None and _is_of_line(earlier, input_event):
            # An earlier attempt recorded this line, but was interrupted before its report.
            states_seen[payment_id] = earlier.decision.state_after
            results.append(EventResult(input_event, earlier.decision, version, False))
        else:
            decision = classify(event, original, states_seen.get(payment_id, state))
            if decision.reason is Reason.EVENT_ID_CONFLICT:
                # An interrupted attempt may have recorded this conflict, so its own place does not
                # count.
                place = get_place(input_event)
                is_known = conflicts.setdefault((event_id, payment_id, event.type), place) != place
                results.append(EventResult(input_event, decision, version, True, original, is_known))
            else:
                differs = not has_same_content(input_event.payload, original.line)
                results.append(EventResult(input_event, decision, version, differs, original, False, differs))
    return results


def select_retries(
    results: Sequence[EventResult], written: Sequence[EventResult], contested: Sequence[int]
) -> list[InputEvent]:
    """Return the contested events, and every later event of the batch that depends on one.

    `contested` holds places in `written`, counted from 1. An event depends on those with its
    event_id or payment.
    """
    places = {get_place(written[number - 1].input_event) for number in contested}
    event_ids = set()
    payment_ids = set()
    events = []
    for result in results:
        input_event = result.input_event
        event = input_event.event
        if get_place(input_event) in places or event.event_id in event_ids or event.payment_id in payment_ids:
            event_ids.add(event.event_id)
            payment_ids.add(event.payment_id)
            events.append(input_event)
    return events


def get_place(input_event: InputEvent) -> Place:
    """Return the source and line of an event, which identify it within a run."""
    return input_event.source, input_event.line


def _find_states_before(batch: Sequence[InputEvent], known: Known) -> dict[str, State]:
    """Return the states to report: those before an earlier attempt of this run moved payments."""
    states: dict[str, State] = {}
    for input_event in batch if known.recorded else ():
        original = known.recorded.get(input_event.event.event_id)
        earlier = original.by_this_run if original is not None else None
        if earlier is not None and _is_of_line(earlier, input_event):
            states.setdefault(input_event.event.payment_id, earlier.decision.state_before)
    return states


def _is_own_claim(original: RecordedEvent, event: PaymentEvent) -> bool:
    """Return whether an event_id that is only claimed is claimed for this event.

    Another event of the batch, which conflicts with the claim, has brought the claim here.
    """
    return (original.payment_id, original.type) == (event.payment_id, event.type)


def _is_of_line(recorded: RecordedByThisRun, input_event: InputEvent) -> bool:
    """Return whether this run recorded it for this very line."""
    return recorded.line == input_event.line and recorded.source == input_event.source
