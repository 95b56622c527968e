"""The rules, checked from outside: the table cell by cell, then what must hold for every state, event and order.

What belongs here: anything about `payproc.logic`. Expected answers are written out from the README's decision table,
never taken from the code. No database, no file but the source of logic.py, no mock.
"""

import ast
import inspect
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import pytest

from payproc import logic
from payproc.logic import OUTCOME_OF, TABLE, Decision, EventType, Outcome, Reason, State, classify

AUTHORIZE, CAPTURE, REFUND, FAIL = EventType.AUTHORIZE, EventType.CAPTURE, EventType.REFUND, EventType.FAIL

EVERY_CELL = list(product(State, EventType))


class Fact(NamedTuple):
    """What an event_id stands for, without the rest of an event."""

    payment_id: str
    type: EventType


class Delivery(NamedTuple):
    """One arrival of an event. The same event_id twice is a redelivery; another id may still report the same fact."""

    event_id: str
    type: EventType


def fold(deliveries: Sequence[Delivery]) -> list[Decision]:
    """What a correct caller does for one payment, in the fewest words: first delivery on record, state carried on."""
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


def a_person_or_a_report_hears_of_it(decisions: Sequence[Decision]) -> bool:
    return any(decision.outcome in {Outcome.REJECT, Outcome.MANUAL_REVIEW} for decision in decisions)


# --- the table -------------------------------------------------------------------------------------------------------

CELLS = [
    # state, event type, outcome, reason, next state
    ("created", "authorize", "APPLY", "transition", "authorized"),
    ("created", "capture", "MANUAL_REVIEW", "predecessor_missing", "created"),
    ("created", "refund", "MANUAL_REVIEW", "predecessor_missing", "created"),
    ("created", "fail", "APPLY", "transition", "failed"),
    ("created", "flag", "MANUAL_REVIEW", "flagged", "created"),
    ("authorized", "authorize", "IGNORE", "already_in_state", "authorized"),
    ("authorized", "capture", "APPLY", "transition", "captured"),
    ("authorized", "refund", "MANUAL_REVIEW", "predecessor_missing", "authorized"),
    ("authorized", "fail", "APPLY", "transition", "failed"),
    ("authorized", "flag", "MANUAL_REVIEW", "flagged", "authorized"),
    ("captured", "authorize", "IGNORE", "superseded", "captured"),
    ("captured", "capture", "IGNORE", "already_in_state", "captured"),
    ("captured", "refund", "APPLY", "transition", "refunded"),
    ("captured", "fail", "MANUAL_REVIEW", "failure_after_capture", "captured"),
    ("captured", "flag", "MANUAL_REVIEW", "flagged", "captured"),
    ("refunded", "authorize", "IGNORE", "superseded", "refunded"),
    ("refunded", "capture", "MANUAL_REVIEW", "capture_after_refund", "refunded"),
    ("refunded", "refund", "MANUAL_REVIEW", "repeated_refund", "refunded"),
    ("refunded", "fail", "MANUAL_REVIEW", "failure_after_capture", "refunded"),
    ("refunded", "flag", "MANUAL_REVIEW", "flagged", "refunded"),
    ("failed", "authorize", "MANUAL_REVIEW", "authorize_after_failure", "failed"),
    ("failed", "capture", "REJECT", "payment_failed", "failed"),
    ("failed", "refund", "REJECT", "payment_failed", "failed"),
    ("failed", "fail", "IGNORE", "already_in_state", "failed"),
    ("failed", "flag", "MANUAL_REVIEW", "flagged", "failed"),
]


@pytest.mark.parametrize(("state", "event_type", "outcome", "reason", "next_state"), CELLS)
def test_each_cell_decides_as_the_design_says(
    state: str, event_type: str, outcome: str, reason: str, next_state: str
) -> None:
    decision = classify(Fact("p1", EventType(event_type)), None, State(state))

    # Compared as text: the names are what the database and the reports hold.
    assert [field.value for field in decision] == [outcome, reason, state, next_state]


def test_the_literal_table_above_names_every_state_and_event_once() -> None:
    assert len(CELLS) == 25
    assert {(state, event_type) for state, event_type, *_ in CELLS} == set(
        product(
            ["created", "authorized", "captured", "refunded", "failed"],
            ["authorize", "capture", "refund", "fail", "flag"],
        )
    )


def test_the_table_answers_for_every_state_and_every_event() -> None:
    assert set(TABLE) == set(State)
    for state in State:
        assert set(TABLE[state]) == set(EventType)
    assert sum(len(row) for row in TABLE.values()) == 25


@pytest.mark.parametrize(("state", "event_type"), EVERY_CELL)
def test_classify_answers_a_new_event_from_the_table(state: State, event_type: EventType) -> None:
    assert classify(Fact("p1", event_type), None, state) == TABLE[state][event_type]


def test_every_reason_belongs_to_an_outcome() -> None:
    assert set(OUTCOME_OF) == set(Reason)
    assert set(OUTCOME_OF.values()) == set(Outcome)


@pytest.mark.parametrize(("state", "event_type"), EVERY_CELL)
def test_the_outcome_in_each_cell_is_the_one_its_reason_belongs_to(state: State, event_type: EventType) -> None:
    decision = TABLE[state][event_type]

    assert decision.outcome is OUTCOME_OF[decision.reason]


def test_every_reason_but_those_of_identity_stands_in_the_table_and_those_come_first() -> None:
    in_the_table = {decision.reason for row in TABLE.values() for decision in row.values()}

    assert [reason for reason in Reason if reason not in in_the_table] == [
        Reason.EVENT_ID_CONFLICT,
        Reason.DUPLICATE_EVENT,
    ]
    assert list(Reason)[:2] == [Reason.EVENT_ID_CONFLICT, Reason.DUPLICATE_EVENT]


# --- identity comes before the state ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "state", "expected"),
    [
        # A capture for p1 arrives. Row 1 breaks every rule; each next row mends one of them.
        pytest.param(
            Fact("p2", REFUND),
            State.FAILED,
            Decision(Outcome.REJECT, Reason.EVENT_ID_CONFLICT, State.FAILED, State.FAILED),
            id="on record for another payment, as another type, and the payment has failed",
        ),
        pytest.param(
            Fact("p1", REFUND),
            State.FAILED,
            Decision(Outcome.REJECT, Reason.EVENT_ID_CONFLICT, State.FAILED, State.FAILED),
            id="the payment mended: still another type",
        ),
        pytest.param(
            Fact("p1", CAPTURE),
            State.FAILED,
            Decision(Outcome.IGNORE, Reason.DUPLICATE_EVENT, State.FAILED, State.FAILED),
            id="the type mended: still on record",
        ),
        pytest.param(
            None,
            State.FAILED,
            Decision(Outcome.REJECT, Reason.PAYMENT_FAILED, State.FAILED, State.FAILED),
            id="nothing on record: the payment has still failed",
        ),
        pytest.param(
            None,
            State.CREATED,
            Decision(Outcome.MANUAL_REVIEW, Reason.PREDECESSOR_MISSING, State.CREATED, State.CREATED),
            id="not failed: still not authorized",
        ),
        pytest.param(
            None,
            State.AUTHORIZED,
            Decision(Outcome.APPLY, Reason.TRANSITION, State.AUTHORIZED, State.CAPTURED),
            id="nothing left to mend",
        ),
    ],
)
def test_the_first_broken_rule_is_the_one_named(recorded: Fact | None, state: State, expected: Decision) -> None:
    assert classify(Fact("p1", CAPTURE), recorded, state) == expected


@pytest.mark.parametrize(("state", "event_type"), EVERY_CELL)
def test_a_redelivered_event_is_a_duplicate_in_every_state(state: State, event_type: EventType) -> None:
    decision = classify(Fact("p1", event_type), Fact("p1", event_type), state)

    assert decision == Decision(Outcome.IGNORE, Reason.DUPLICATE_EVENT, state, state)


@pytest.mark.parametrize(("state", "event_type"), EVERY_CELL)
def test_an_id_on_record_for_another_payment_is_a_conflict_in_every_state(state: State, event_type: EventType) -> None:
    decision = classify(Fact("p1", event_type), Fact("p2", event_type), state)

    assert decision == Decision(Outcome.REJECT, Reason.EVENT_ID_CONFLICT, state, state)


@pytest.mark.parametrize(
    ("state", "event_type", "recorded_type"),
    [triple for triple in product(State, EventType, EventType) if triple[1] is not triple[2]],
)
@pytest.mark.parametrize("recorded_payment", ["p1", "p2"])
def test_an_id_on_record_as_another_type_is_a_conflict_whatever_the_payment(
    state: State, event_type: EventType, recorded_type: EventType, recorded_payment: str
) -> None:
    decision = classify(Fact("p1", event_type), Fact(recorded_payment, recorded_type), state)

    assert decision == Decision(Outcome.REJECT, Reason.EVENT_ID_CONFLICT, state, state)


@pytest.mark.parametrize(
    ("payment_id", "recorded_payment"),
    [
        pytest.param("p1", "P1", id="case"),
        pytest.param("p1", "p01", id="leading zero"),
        pytest.param("caf\u00e9", "cafe\u0301", id="Unicode normal form"),
    ],
)
def test_payment_ids_that_only_look_alike_are_different_payments(payment_id: str, recorded_payment: str) -> None:
    decision = classify(Fact(payment_id, CAPTURE), Fact(recorded_payment, CAPTURE), State.AUTHORIZED)

    assert decision.reason is Reason.EVENT_ID_CONFLICT


def test_a_duplicate_of_an_event_under_review_stays_a_duplicate_though_it_would_now_fit() -> None:
    decisions = fold([Delivery("c", CAPTURE), Delivery("a", AUTHORIZE), Delivery("c", CAPTURE)])

    assert [(decision.reason, decision.state_after) for decision in decisions] == [
        (Reason.PREDECESSOR_MISSING, State.CREATED),
        (Reason.TRANSITION, State.AUTHORIZED),
        (Reason.DUPLICATE_EVENT, State.AUTHORIZED),
    ]


def test_a_duplicate_of_a_rejected_event_is_a_duplicate_and_not_rejected_again() -> None:
    decisions = fold([Delivery("f", FAIL), Delivery("r", REFUND), Delivery("r", REFUND)])

    assert [(decision.outcome, decision.reason) for decision in decisions] == [
        (Outcome.APPLY, Reason.TRANSITION),
        (Outcome.REJECT, Reason.PAYMENT_FAILED),
        (Outcome.IGNORE, Reason.DUPLICATE_EVENT),
    ]


# --- never silently wrong --------------------------------------------------------------------------------------------

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
    """Every order and every repetition, up to `longest` arrivals, in which each fact of the history arrives at all."""
    arriving = [Delivery(f"{fact.value}-{copy}", fact) for fact in history for copy in range(ids_a_fact)]
    for length in range(len(history), longest + 1):
        for sequence in product(arriving, repeat=length):
            if {delivery.type for delivery in sequence} == set(history):
                yield sequence


def test_the_histories_above_are_all_paths_along_the_five_edges() -> None:
    assert sorted(paths()) == sorted(LEGAL_HISTORIES)


@pytest.mark.parametrize(("history", "end"), LEGAL_HISTORIES)
def test_a_legal_history_in_order_is_applied_event_by_event(history: Sequence[EventType], end: State) -> None:
    decisions = fold([Delivery(fact.value, fact) for fact in history])

    assert [decision.outcome for decision in decisions] == [Outcome.APPLY] * len(history)
    assert end_state(decisions) is end


@pytest.mark.parametrize(
    ("ids_a_fact", "longest"),
    [
        pytest.param(1, 8, id="redelivered under the same id"),
        # Stronger than "the same event again": a sender that gives one fact a second event_id is not caught by
        # identity, only by the table, which is what already_in_state, superseded and repeated_refund are for.
        pytest.param(2, 6, id="reported again under a second id, and redelivered"),
    ],
)
@pytest.mark.parametrize(("history", "end"), LEGAL_HISTORIES)
def test_no_order_and_no_repetition_of_a_legal_history_is_silently_wrong(
    history: Sequence[EventType], end: State, ids_a_fact: int, longest: int
) -> None:
    silently_wrong = []
    for delivered in deliveries_of(history, ids_a_fact=ids_a_fact, longest=longest):
        decisions = fold(delivered)
        if end_state(decisions) is not end and not a_person_or_a_report_hears_of_it(decisions):
            silently_wrong.append([delivery.event_id for delivery in delivered])

    assert silently_wrong == []


def test_the_deliveries_checked_above_are_every_order_with_every_repetition() -> None:
    def spelled(*, ids_a_fact: int, longest: int) -> list[str]:
        deliveries = deliveries_of((AUTHORIZE, FAIL), ids_a_fact=ids_a_fact, longest=longest)
        return sorted(" ".join(delivery.event_id for delivery in delivered) for delivered in deliveries)

    assert spelled(ids_a_fact=1, longest=3) == [
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
    assert len(spelled(ids_a_fact=2, longest=3)) == (16 - 2 * 4) + (64 - 2 * 8)


def test_some_orders_do_end_elsewhere_so_the_property_is_not_empty() -> None:
    decisions = fold([Delivery("c", CAPTURE), Delivery("a", AUTHORIZE), Delivery("r", REFUND)])

    assert end_state(decisions) is State.AUTHORIZED
    assert [decision.outcome for decision in decisions] == [Outcome.MANUAL_REVIEW, Outcome.APPLY, Outcome.MANUAL_REVIEW]


# --- how a payment may move ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folded() -> list[list[Decision]]:
    """The decisions on all sequences of six events under fresh ids. Their beginnings are all the shorter sequences."""
    return [
        fold([Delivery(str(position), event_type) for position, event_type in enumerate(sequence)])
        for sequence in product(EventType, repeat=6)
    ]


def test_a_payment_moves_along_the_five_edges_only_and_along_each_of_them(folded: list[list[Decision]]) -> None:
    walked = {
        (decision.state_before, event_type, decision.state_after)
        for decisions, sequence in zip(folded, product(EventType, repeat=6), strict=True)
        for decision, event_type in zip(decisions, sequence, strict=True)
        if decision.state_after is not decision.state_before
    }

    assert walked == EDGES


def test_a_payment_moves_exactly_when_the_outcome_is_apply(folded: list[list[Decision]]) -> None:
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


def test_each_decision_starts_from_the_state_the_one_before_left(folded: list[list[Decision]]) -> None:
    for decisions in folded:
        assert decisions[0].state_before is State.CREATED
        assert all(earlier.state_after is later.state_before for earlier, later in pairwise(decisions))


# --- purity ----------------------------------------------------------------------------------------------------------


def test_the_rules_import_the_standard_library_alone() -> None:
    # The source is read, not sys.modules: by the time a test runs, others have imported everything.
    imported: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(logic))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or ""))

    assert "enum" in imported, "no import found: this test no longer sees what it should"
    assert {module for module in imported if module.partition(".")[0] not in sys.stdlib_module_names} == set()
