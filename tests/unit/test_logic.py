"""The rules cell by cell, and the precedence of identity over state.

Belongs here: anything about `payproc.logic` and one event; histories are in test_histories.py.
Expected answers are written out here, never taken from the code. No database, no file but the
source of logic.py, no mock.
"""

import ast
import inspect
import sys
from itertools import product
from typing import NamedTuple

import pytest

from payproc import logic
from payproc.logic import OUTCOME_OF, TABLE, Decision, EventType, Outcome, Reason, State, classify

CAPTURE, REFUND = EventType.CAPTURE, EventType.REFUND

EVERY_CELL = list(product(State, EventType))


class Fact(NamedTuple):
    """The identity of an event."""

    payment_id: str
    type: EventType


# --- the table ------------------------------------------------------------------------------------

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
def test_each_cell_decides_as_written(state: str, event_type: str, outcome: str, reason: str, next_state: str) -> None:
    decision = classify(Fact("p1", EventType(event_type)), None, State(state))

    # Compared as text: the database and the reports hold these names.
    assert [field.value for field in decision] == [outcome, reason, state, next_state]


def test_the_written_cells_are_complete() -> None:
    assert len(CELLS) == 25
    assert {(state, event_type) for state, event_type, *_ in CELLS} == set(
        product(
            ["created", "authorized", "captured", "refunded", "failed"],
            ["authorize", "capture", "refund", "fail", "flag"],
        )
    )


def test_table_is_total() -> None:
    assert set(TABLE) == set(State)
    for state in State:
        assert set(TABLE[state]) == set(EventType)
    assert sum(len(row) for row in TABLE.values()) == 25


@pytest.mark.parametrize(("state", "event_type"), EVERY_CELL)
def test_new_event_is_decided_by_the_table(state: State, event_type: EventType) -> None:
    assert classify(Fact("p1", event_type), None, state) == TABLE[state][event_type]


def test_every_reason_belongs_to_an_outcome() -> None:
    assert set(OUTCOME_OF) == set(Reason)
    assert set(OUTCOME_OF.values()) == set(Outcome)


@pytest.mark.parametrize(("state", "event_type"), EVERY_CELL)
def test_each_cell_has_the_outcome_of_its_reason(state: State, event_type: EventType) -> None:
    decision = TABLE[state][event_type]

    assert decision.outcome is OUTCOME_OF[decision.reason]


def test_reasons_outside_the_table_come_first() -> None:
    in_the_table = {decision.reason for row in TABLE.values() for decision in row.values()}

    assert [reason for reason in Reason if reason not in in_the_table] == [
        Reason.EVENT_ID_CONFLICT,
        Reason.DUPLICATE_EVENT,
    ]
    assert list(Reason)[:2] == [Reason.EVENT_ID_CONFLICT, Reason.DUPLICATE_EVENT]


# --- identity comes before the state --------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "state", "expected"),
    [
        # A capture for p1 arrives. Row 1 breaks every rule; each next row mends one.
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
def test_the_first_broken_rule_is_named(recorded: Fact | None, state: State, expected: Decision) -> None:
    assert classify(Fact("p1", CAPTURE), recorded, state) == expected


@pytest.mark.parametrize(("state", "event_type"), EVERY_CELL)
def test_redelivery_is_a_duplicate_in_every_state(state: State, event_type: EventType) -> None:
    decision = classify(Fact("p1", event_type), Fact("p1", event_type), state)

    assert decision == Decision(Outcome.IGNORE, Reason.DUPLICATE_EVENT, state, state)


@pytest.mark.parametrize(("state", "event_type"), EVERY_CELL)
def test_id_of_another_payment_is_a_conflict(state: State, event_type: EventType) -> None:
    decision = classify(Fact("p1", event_type), Fact("p2", event_type), state)

    assert decision == Decision(Outcome.REJECT, Reason.EVENT_ID_CONFLICT, state, state)


@pytest.mark.parametrize(
    ("state", "event_type", "recorded_type"),
    [triple for triple in product(State, EventType, EventType) if triple[1] is not triple[2]],
)
@pytest.mark.parametrize("recorded_payment", ["p1", "p2"])
def test_id_of_another_type_is_a_conflict(
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
def test_payment_ids_that_look_alike_differ(payment_id: str, recorded_payment: str) -> None:
    decision = classify(Fact(payment_id, CAPTURE), Fact(recorded_payment, CAPTURE), State.AUTHORIZED)

    assert decision.reason is Reason.EVENT_ID_CONFLICT


# --- purity ---------------------------------------------------------------------------------------


def test_rules_import_the_standard_library_alone() -> None:
    # The source is read, not sys.modules: by the time a test runs, others have imported everything.
    imported: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(logic))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or ""))

    assert "enum" in imported, "no import found: this test no longer sees the imports"
    assert {module for module in imported if module.partition(".")[0] not in sys.stdlib_module_names} == set()
