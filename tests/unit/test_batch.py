"""Decisions over known facts, and the events that are decided again after a contest.

Belongs here: anything about `payproc.batch`, without a database.
"""

from collections.abc import Sequence

import pytest

from payproc.batch import (
    EventResult,
    InputEvent,
    Known,
    RecordedByThisRun,
    RecordedEvent,
    decide,
    get_place,
    select_retries,
)
from payproc.logic import TABLE, Decision, EventType, Outcome, Reason, State
from payproc.schemas import PaymentEvent

AUTHORIZE, CAPTURE, REFUND, FAIL = EventType.AUTHORIZE, EventType.CAPTURE, EventType.REFUND, EventType.FAIL

Fact = tuple[str, str, EventType]
"""event_id, payment_id and type."""


def make_batch(*facts: Fact, source: int = 0, payloads: Sequence[str] = ()) -> list[InputEvent]:
    """Return events on lines 1, 2, … of a source."""
    lines = payloads or ["{}"] * len(facts)
    return [
        InputEvent(PaymentEvent(*fact), payload, source, line)
        for line, (fact, payload) in enumerate(zip(facts, lines, strict=True), 1)
    ]


def known(
    recorded: dict[str, RecordedEvent] | None = None, payments: dict[str, tuple[State, int]] | None = None
) -> Known:
    """Return facts without conflicts."""
    return Known(recorded or {}, payments or {}, {})


def recorded_by_this_run(fact: Fact, line: int, state: State) -> RecordedEvent:
    """Return an event that this run recorded, for a payment in this state."""
    _, payment_id, event_type = fact
    decision = TABLE[state][event_type]
    return RecordedEvent(payment_id, event_type, decision.outcome, "{}", RecordedByThisRun(0, line, decision))


def reasons(results: Sequence[EventResult]) -> list[str]:
    return [result.decision.reason.value for result in results]


def versions(results: Sequence[EventResult]) -> list[int]:
    return [result.version for result in results]


def states(results: Sequence[EventResult]) -> list[tuple[str, str]]:
    return [(result.decision.state_before.value, result.decision.state_after.value) for result in results]


# --- decide: state carried forward ----------------------------------------------------------------


def test_decide_carries_each_payment_forward() -> None:
    facts = known()
    batch = make_batch(
        ("e1", "p1", AUTHORIZE), ("e2", "p1", CAPTURE), ("e3", "p2", REFUND), ("e4", "p1", FAIL), ("e5", "p1", REFUND)
    )
    results = decide(batch, facts)
    assert reasons(results) == [
        "transition",
        "transition",
        "predecessor_missing",
        "failure_after_capture",
        "transition",
    ]
    assert versions(results) == [0, 1, 0, 2, 3]
    assert facts.payments == {"p1": (State.REFUNDED, 4), "p2": (State.CREATED, 1)}
    assert [result.input_event for result in results] == batch
    assert all(result.is_new and result.recorded is None for result in results)


def test_decide_starts_from_the_stored_state() -> None:
    facts = known(payments={"p1": (State.CAPTURED, 7)})
    (result,) = decide(make_batch(("e1", "p1", REFUND)), facts)
    assert (result.decision, result.version) == (TABLE[State.CAPTURED][REFUND], 7)
    assert facts.payments["p1"] == (State.REFUNDED, 8)


def test_decide_of_nothing_is_nothing() -> None:
    assert decide([], known()) == []


# --- decide: identity -----------------------------------------------------------------------------


def test_duplicate_in_batch_is_not_new() -> None:
    facts = known()
    first, duplicate = decide(make_batch(("e1", "p1", CAPTURE), ("e1", "p1", CAPTURE)), facts)
    assert reasons([first, duplicate]) == ["predecessor_missing", "duplicate_event"]
    assert not duplicate.is_new
    assert duplicate.recorded is not None
    assert duplicate.recorded.outcome is Outcome.MANUAL_REVIEW  # of the first delivery
    assert facts.payments["p1"] == (State.CREATED, 1)


def test_duplicate_of_another_run_is_not_new() -> None:
    original = RecordedEvent("p1", CAPTURE, Outcome.APPLY, "{}")
    facts = known({"e1": original}, {"p1": (State.CAPTURED, 2)})
    (result,) = decide(make_batch(("e1", "p1", CAPTURE)), facts)
    assert (result.decision.reason, result.is_new, result.recorded) == (Reason.DUPLICATE_EVENT, False, original)
    assert states([result]) == [("captured", "captured")]
    assert facts.payments["p1"] == (State.CAPTURED, 2)


def test_duplicate_with_other_content_differs() -> None:
    """It is compared with the first delivery, not with the one before it."""
    fact = ("e1", "p1", CAPTURE)
    batch = make_batch(*[fact] * 4, payloads=['{"x":1}', '{"x":2}', '{"x": 1}', '{"x":2}'])
    results = decide(batch, known())
    assert reasons(results[1:]) == ["duplicate_event"] * 3
    assert [(result.differs, result.is_new) for result in results] == [
        (False, True),
        (True, True),  # its content has to be kept
        (False, False),
        (True, True),
    ]
    assert select_retries(results, [results[0], results[1], results[3]], [1]) == batch


def test_conflict_does_not_differ() -> None:
    """It is kept as a conflict."""
    batch = make_batch(("e1", "p1", CAPTURE), ("e1", "p2", CAPTURE), payloads=['{"x":1}', '{"x":2}'])
    assert [result.differs for result in decide(batch, known())] == [False, False]


@pytest.mark.parametrize("fact", [("e1", "p2", CAPTURE), ("e1", "p1", REFUND)], ids=["payment", "type"])
def test_conflict_names_the_recorded_event(fact: Fact) -> None:
    original = RecordedEvent("p1", CAPTURE, Outcome.APPLY, "{}")
    facts = known({"e1": original}, {"p1": (State.CAPTURED, 2)})
    (result,) = decide(make_batch(fact), facts)
    assert (result.decision.reason, result.recorded) == (Reason.EVENT_ID_CONFLICT, original)
    assert result.is_new  # its evidence has to be written
    assert not result.is_known
    assert facts.payments == {"p1": (State.CAPTURED, 2)}
    assert facts.recorded == {"e1": original}


def test_conflict_repeated_in_batch_is_known() -> None:
    results = decide(
        make_batch(("e1", "p1", CAPTURE), ("e1", "p2", CAPTURE), ("e1", "p2", CAPTURE), ("e1", "p2", REFUND)), known()
    )
    assert [result.is_known for result in results] == [False, False, True, False]


def test_conflict_of_another_run_is_known() -> None:
    facts = Known({"e1": RecordedEvent("p1", CAPTURE, Outcome.APPLY, "{}")}, {}, {("e1", "p2", CAPTURE): None})
    (result,) = decide(make_batch(("e1", "p2", CAPTURE)), facts)
    assert (result.is_known, result.is_new) == (True, True)


@pytest.mark.parametrize(("place", "is_known"), [((0, 1), False), ((0, 9), True), ((1, 1), True)])
def test_conflict_of_an_earlier_attempt_is_not_known(place: tuple[int, int], is_known: bool) -> None:
    """An attempt that was cut off has recorded this very line's conflict; another line's is
    known.
    """
    facts = Known({"e1": RecordedEvent("p1", CAPTURE, Outcome.APPLY, "{}")}, {}, {("e1", "p2", CAPTURE): place})
    (result,) = decide(make_batch(("e1", "p2", CAPTURE)), facts)
    assert result.is_known is is_known


# --- decide: events of an earlier attempt ---------------------------------------------------------


def test_own_event_keeps_its_decision() -> None:
    """The attempt recorded e1 and e2, and was cut off before it could report them."""
    authorize, capture = ("e1", "p1", AUTHORIZE), ("e2", "p1", CAPTURE)
    facts = known(
        {
            "e1": recorded_by_this_run(authorize, 1, State.CREATED),
            "e2": recorded_by_this_run(capture, 2, State.AUTHORIZED),
        },
        {"p1": (State.CAPTURED, 2)},
    )
    results = decide(make_batch(authorize, capture, ("e3", "p1", REFUND)), facts)
    assert reasons(results) == ["transition", "transition", "transition"]
    assert states(results) == [("created", "authorized"), ("authorized", "captured"), ("captured", "refunded")]
    assert [result.is_new for result in results] == [False, False, True]
    assert versions(results)[2] == 2


def test_own_event_never_differs() -> None:
    """The database may return a line in another form."""
    fact = ("e1", "p1", AUTHORIZE)
    facts = known({"e1": recorded_by_this_run(fact, 1, State.CREATED)}, {"p1": (State.AUTHORIZED, 1)})
    (result,) = decide(make_batch(fact, payloads=['{"x":1}']), facts)
    assert (result.decision.reason, result.differs, result.is_new) == (Reason.TRANSITION, False, False)


def test_own_event_on_another_line_is_a_duplicate() -> None:
    fact = ("e1", "p1", AUTHORIZE)
    facts = known({"e1": recorded_by_this_run(fact, 1, State.CREATED)}, {"p1": (State.AUTHORIZED, 1)})
    assert reasons(decide(make_batch(fact, fact), facts)) == ["transition", "duplicate_event"]
    assert reasons(decide(make_batch(fact, source=1), facts)) == ["duplicate_event"]


def test_lines_between_own_events_see_their_state() -> None:
    """The payment has moved on, but a duplicate between the run's own events must not show its
    end.
    """
    authorize, capture = ("e1", "p1", AUTHORIZE), ("e2", "p1", CAPTURE)
    facts = known(
        {
            "e0": RecordedEvent("p0", FAIL, Outcome.APPLY, "{}"),
            "e1": recorded_by_this_run(authorize, 2, State.CREATED),
            "e2": recorded_by_this_run(capture, 4, State.AUTHORIZED),
        },
        {"p1": (State.CAPTURED, 2)},
    )
    batch = make_batch(
        ("e0", "p1", FAIL), authorize, authorize, capture, ("e0", "p1", FAIL), ("e3", "p1", REFUND), authorize
    )
    results = decide(batch, facts)
    assert reasons(results) == [
        "event_id_conflict",
        "transition",
        "duplicate_event",
        "transition",
        "event_id_conflict",
        "transition",
        "duplicate_event",
    ]
    assert [before for before, _ in states(results)] == [
        "created",
        "created",
        "authorized",
        "authorized",
        "captured",
        "captured",
        "refunded",
    ]


# --- select_retries -------------------------------------------------------------------------------


def retried(batch: list[InputEvent], *contested: int, facts: Known | None = None) -> list[int]:
    """Return the lines that are decided again if these events, counted among the new ones, are
    contested.
    """
    results = decide(batch, facts or known())
    return [
        input_event.line
        for input_event in select_retries(results, [each for each in results if each.is_new], contested)
    ]


def test_retries_hold_later_events_of_the_payment() -> None:
    batch = make_batch(("e1", "p1", AUTHORIZE), ("e2", "p1", CAPTURE), ("e3", "p2", AUTHORIZE), ("e4", "p1", REFUND))
    assert retried(batch, 2) == [2, 4]


def test_retries_hold_later_events_of_the_event_id() -> None:
    batch = make_batch(("e1", "p1", AUTHORIZE), ("e1", "p2", AUTHORIZE), ("e2", "p2", CAPTURE), ("e3", "p3", FAIL))
    assert retried(batch, 1) == [1, 2, 3]  # the payment of the conflict depends on it in turn


def test_retries_count_new_events_only() -> None:
    facts = known({"e0": RecordedEvent("p0", CAPTURE, Outcome.APPLY, "{}")})
    batch = make_batch(("e0", "p0", CAPTURE), ("e1", "p1", AUTHORIZE), ("e2", "p2", AUTHORIZE))
    assert retried(batch, 2, facts=facts) == [3]


def test_retries_keep_order_without_repeats() -> None:
    batch = make_batch(*((f"e{number}", f"p{number % 2}", AUTHORIZE) for number in range(6)))
    assert retried(batch, 1, 3) == [1, 3, 5]
    assert retried(batch, 2, 1) == [1, 2, 3, 4, 5, 6]


def test_place_is_source_and_line() -> None:
    assert [get_place(each) for each in make_batch(("e1", "p1", FAIL), ("e1", "p1", FAIL), source=3)] == [
        (3, 1),
        (3, 2),
    ]


def test_a_decision_equals_its_row() -> None:
    """Recorded rows are compared with decisions as text, in `verify` and `export`."""
    assert Decision(Outcome.APPLY, Reason.TRANSITION, State.CREATED, State.FAILED) == (
        "APPLY",
        "transition",
        "created",
        "failed",
    )
