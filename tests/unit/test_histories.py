"""Histories of one payment, delivered in every order with every repetition.

Belongs here: properties of `payproc.logic` over several events. Expected answers are written out
here, never taken from the code.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from functools import cache
from itertools import pairwise, product
from typing import NamedTuple

import pytest

from payproc.corrections import Correction, Standing, check_correction
from payproc.errors import CannotFinish
from payproc.logic import STATE_NAMED_BY, Decision, EventType, Outcome, Reason, State, classify
from payproc.verify import check_history

AUTHORIZE, CAPTURE, REFUND, FAIL = EventType.AUTHORIZE, EventType.CAPTURE, EventType.REFUND, EventType.FAIL


class Fact(NamedTuple):
    """The identity of an event."""

    payment_id: str
    type: EventType


class Delivery(NamedTuple):
    """One arrival of an event. Another event_id may report the same fact again."""

    event_id: str
    type: EventType


def fold(deliveries: Sequence[Delivery]) -> list[Decision]:
    """Decide deliveries as a correct caller does: record the first one, carry the state forward."""
    recorded: dict[str, Fact] = {}
    state = State.CREATED
    decisions = []
    for event_id, event_type in deliveries:
        fact = Fact("p1", event_type)
        decision = classify(fact, recorded.get(event_id), state)
        recorded.setdefault(event_id, fact)
        state = decision.state_after
        decisions.append(decision)
    return decisions


def end_state(decisions: Sequence[Decision]) -> State:
    return decisions[-1].state_after if decisions else State.CREATED


def is_reported(decisions: Sequence[Decision]) -> bool:
    return any(decision.outcome in {Outcome.REJECT, Outcome.MANUAL_REVIEW} for decision in decisions)


# --- duplicates in a history ----------------------------------------------------------------------


def test_duplicate_of_a_flagged_event_is_not_applied() -> None:
    """The capture under review would fit by now, but its event_id is on record."""
    decisions = fold([Delivery("c", CAPTURE), Delivery("a", AUTHORIZE), Delivery("c", CAPTURE)])

    assert [(decision.reason, decision.state_after) for decision in decisions] == [
        (Reason.PREDECESSOR_MISSING, State.CREATED),
        (Reason.TRANSITION, State.AUTHORIZED),
        (Reason.DUPLICATE_EVENT, State.AUTHORIZED),
    ]


def test_duplicate_of_a_rejected_event_is_ignored() -> None:
    decisions = fold([Delivery("f", FAIL), Delivery("r", REFUND), Delivery("r", REFUND)])

    assert [(decision.outcome, decision.reason) for decision in decisions] == [
        (Outcome.APPLY, Reason.TRANSITION),
        (Outcome.REJECT, Reason.PAYMENT_FAILED),
        (Outcome.IGNORE, Reason.DUPLICATE_EVENT),
    ]


# --- never silently wrong -------------------------------------------------------------------------

EDGES = {
    (State.CREATED, AUTHORIZE, State.AUTHORIZED),
    (State.AUTHORIZED, CAPTURE, State.CAPTURED),
    (State.CAPTURED, REFUND, State.REFUNDED),
    (State.CREATED, FAIL, State.FAILED),
    (State.AUTHORIZED, FAIL, State.FAILED),
}

LEGAL_HISTORIES: list[tuple[tuple[EventType, ...], State]] = [
    ((), State.CREATED),
    ((AUTHORIZE,), State.AUTHORIZED),
    ((AUTHORIZE, CAPTURE), State.CAPTURED),
    ((AUTHORIZE, CAPTURE, REFUND), State.REFUNDED),
    ((FAIL,), State.FAILED),
    ((AUTHORIZE, FAIL), State.FAILED),
]


def paths(state: State = State.CREATED) -> Iterator[tuple[tuple[EventType, ...], State]]:
    yield (), state
    for before, event_type, after in EDGES:
        if before is state:
            for rest, end in paths(after):
                yield (event_type, *rest), end


def deliveries_of(history: Sequence[EventType], *, ids_a_fact: int, longest: int) -> Iterator[tuple[Delivery, ...]]:
    """Yield every order and repetition, up to `longest` arrivals, in which each fact of the history
    arrives.
    """
    arriving = [Delivery(f"{fact.value}-{copy}", fact) for fact in history for copy in range(ids_a_fact)]
    for length in range(len(history), longest + 1):
        for sequence in product(arriving, repeat=length):
            if {delivery.type for delivery in sequence} == set(history):
                yield sequence


def test_legal_histories_are_all_legal_paths() -> None:
    assert sorted(paths()) == sorted(LEGAL_HISTORIES)


@pytest.mark.parametrize(("history", "end"), LEGAL_HISTORIES)
def test_legal_history_in_order_is_applied(history: Sequence[EventType], end: State) -> None:
    decisions = fold([Delivery(fact.value, fact) for fact in history])

    assert [decision.outcome for decision in decisions] == [Outcome.APPLY] * len(history)
    assert end_state(decisions) is end


@pytest.mark.parametrize(
    ("ids_a_fact", "longest"),
    [
        pytest.param(1, 8, id="redelivered under the same id"),
        # Stronger than "the same event again": a sender that gives one fact a second event_id is
        # not caught by identity, only by the table: by already_in_state, superseded and
        # repeated_refund.
        pytest.param(2, 6, id="reported again under a second id, and redelivered"),
    ],
)
@pytest.mark.parametrize(("history", "end"), LEGAL_HISTORIES)
def test_no_delivery_is_silently_wrong(history: Sequence[EventType], end: State, ids_a_fact: int, longest: int) -> None:
    silently_wrong = []
    for delivered in deliveries_of(history, ids_a_fact=ids_a_fact, longest=longest):
        decisions = fold(delivered)
        if end_state(decisions) is not end and not is_reported(decisions):
            silently_wrong.append([delivery.event_id for delivery in delivered])

    assert silently_wrong == []


# --- and put right by a person --------------------------------------------------------------------

Entry = tuple[str, int | None, str | None, str, str, str, str]
"""A row that `verify` folds: payment, position, type, outcome, reason, state before and after."""

MOMENT = datetime(2026, 1, 1, tzinfo=timezone.utc)


def entries_of(deliveries: Sequence[Delivery]) -> list[Entry]:
    """Return the history of a payment: duplicates are not recorded."""
    entries: list[Entry] = []
    for delivery, decision in zip(deliveries, fold(deliveries), strict=True):
        if decision.reason is not Reason.DUPLICATE_EVENT:
            entries.append(("p1", len(entries) + 1, delivery.type, *decision))
    return entries


def resolved(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Yield the history as it is, and with each decision about one of its reviews."""
    yield [*entries]
    state = entries[-1][-1]
    for _, _, event_type, outcome, *_ in entries:
        if outcome == Outcome.MANUAL_REVIEW and event_type is not None:
            named = STATE_NAMED_BY[EventType(event_type)]
            for resolution, after in (("apply", named), ("dismiss", state)):
                yield [*entries, ("p1", len(entries) + 1, event_type, resolution, "resolution", state, after)]


@cache
def is_correctable(state: str, to: str) -> bool:
    """Return whether `payproc correct` takes a payment from one state to another."""
    standing = Standing("p1", State(state), 1, MOMENT, 0, 0)
    try:
        check_correction(standing, Correction(State(to), "a note", "alice"))
    except CannotFinish:
        return False
    return True


@pytest.mark.parametrize(("ids_a_fact", "longest"), [(1, 8), (2, 5)])
@pytest.mark.parametrize(("history", "end"), LEGAL_HISTORIES)
def test_every_delivery_can_be_put_right(
    history: Sequence[EventType], end: State, ids_a_fact: int, longest: int
) -> None:
    """The second half of the property: people reach the right state from wherever a delivery ended.

    They may decide about no review or about any one of them, even wrongly. Then at most one
    correction leads to the right state. `verify` finds the books right, and no redelivery changes
    them.
    """
    stuck = []
    for delivered in deliveries_of(history, ids_a_fact=ids_a_fact, longest=longest):
        for entries in resolved(entries_of(delivered)) if delivered else ():
            state, version = entries[-1][-1], len(entries)
            if state != end and is_correctable(state, end):
                version += 1
                entries.append(("p1", version, None, "state", "correction", state, end))
            stored: Entry = ("p1", None, None, "", str(version), "", end)
            if [*check_history("p1", [*entries, stored])]:
                stuck.append(entries)
        if any(
            classify(fact, fact, end).state_after is not end for fact in {Fact("p1", each.type) for each in delivered}
        ):
            stuck.append([])

    assert stuck == []


def test_refused_capture_needs_a_correction() -> None:
    """No decision about the only review leads to captured."""
    entries = entries_of([Delivery("f", FAIL), Delivery("a", AUTHORIZE), Delivery("c", CAPTURE)])

    assert entries[-1][3] is Outcome.REJECT
    assert {history[-1][-1] for history in resolved(entries)} == {State.AUTHORIZED, State.FAILED}
    assert is_correctable(State.AUTHORIZED, State.CAPTURED)
    assert not is_correctable(State.CAPTURED, State.CAPTURED)


def test_deliveries_are_every_order_and_repetition() -> None:
    def spell(*, ids_a_fact: int, longest: int) -> list[str]:
        deliveries = deliveries_of((AUTHORIZE, FAIL), ids_a_fact=ids_a_fact, longest=longest)
        return sorted(" ".join(delivery.event_id for delivery in delivered) for delivered in deliveries)

    assert spell(ids_a_fact=1, longest=3) == [
        "authorize-0 authorize-0 fail-0",
        "authorize-0 fail-0",
        "authorize-0 fail-0 authorize-0",
        "authorize-0 fail-0 fail-0",
        "fail-0 authorize-0",
        "fail-0 authorize-0 authorize-0",
        "fail-0 authorize-0 fail-0",
        "fail-0 fail-0 authorize-0",
    ]
    # Of 4**2 pairs and 4**3 triples over four ids, those that hold both facts.
    assert len(spell(ids_a_fact=2, longest=3)) == (16 - 2 * 4) + (64 - 2 * 8)


def test_some_deliveries_end_elsewhere() -> None:
    decisions = fold([Delivery("c", CAPTURE), Delivery("a", AUTHORIZE), Delivery("r", REFUND)])

    assert end_state(decisions) is State.AUTHORIZED
    assert [decision.outcome for decision in decisions] == [
        Outcome.MANUAL_REVIEW,
        Outcome.APPLY,
        Outcome.MANUAL_REVIEW,
    ]


# --- how a payment may move -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folded() -> list[list[Decision]]:
    """Return the decisions on all sequences of six events under fresh ids. They begin with all
    shorter sequences.
    """
    return [
        fold([Delivery(str(position), event_type) for position, event_type in enumerate(sequence)])
        for sequence in product(EventType, repeat=6)
    ]


def test_payment_moves_along_exactly_the_five_edges(folded: list[list[Decision]]) -> None:
    walked = {
        (decision.state_before, event_type, decision.state_after)
        for decisions, sequence in zip(folded, product(EventType, repeat=6), strict=True)
        for decision, event_type in zip(decisions, sequence, strict=True)
        if decision.state_after is not decision.state_before
    }

    assert walked == EDGES


def test_payment_moves_only_on_apply(folded: list[list[Decision]]) -> None:
    seen = {
        (decision.outcome, decision.state_after is not decision.state_before)
        for decisions in folded
        for decision in decisions
    }

    assert seen == {
        (Outcome.APPLY, True),
        (Outcome.IGNORE, False),
        (Outcome.REJECT, False),
        (Outcome.MANUAL_REVIEW, False),
    }


def test_decision_starts_where_the_last_ended(folded: list[list[Decision]]) -> None:
    for decisions in folded:
        assert decisions[0].state_before is State.CREATED
        assert all(earlier.state_after is later.state_before for earlier, later in pairwise(decisions))
