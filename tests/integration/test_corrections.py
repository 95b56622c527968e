"""Corrections on a real database: any state to any other, refusals, and concurrent writers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest

from payproc.corrections import Correction, Standing, correct
from payproc.db.connection import Database
from payproc.errors import CannotFinish
from payproc.handlers import Recorder
from payproc.logic import Resolution, State
from payproc.payments import CorrectionEntry, load_payment
from payproc.review import ReviewDecision, resolve_review
from tests.support.events import input_events
from tests.support.postgres import Sql, contents

Verify = Callable[[], None]
"""Checks the records with `verify` and with the tests' own fold, corrections included."""

PATHS = {
    State.CREATED: ("capture",),
    State.AUTHORIZED: ("authorize",),
    State.CAPTURED: ("authorize", "capture"),
    State.REFUNDED: ("authorize", "capture", "refund"),
    State.FAILED: ("fail",),
}
"""Events after which a payment has a state. The first one needs review."""

STORED = "SELECT position, state_before, state_after, note, corrected_by FROM payproc.corrections ORDER BY 1"


def agree(_: Standing) -> bool:
    """Confirm every correction."""
    return True


def to(state: State, expected: State | None = None) -> Correction:
    return Correction(state, "seen at the bank", "alice", expected)


@pytest.mark.parametrize(("before", "after"), [*permutations(State, 2)])
def test_any_state_is_corrected_to_any_other(
    database: Database, recorder: Recorder, sql: Sql, verified: Verify, before: State, after: State
) -> None:
    """The payment moves with the time of its state, and the correction takes the next position."""
    path = PATHS[before]
    recorder.handle(input_events(*[(f"e{kind}", "p1", kind) for kind in path]))
    sql.rows("UPDATE payproc.payments SET state_since = '2026-01-01'")
    corrected = correct(database, "p1", to(after), agree)
    assert corrected is not None
    assert (corrected[0].state, corrected[0].version, corrected[1]) == (before, len(path), len(path) + 1)
    assert sql.rows("SELECT state, version, state_since > '2026-01-02' FROM payproc.payments") == [
        (after.value, len(path) + 1, True)
    ]
    assert sql.rows(STORED) == [(len(path) + 1, before.value, after.value, "seen at the bank", "alice")]
    verified()


def test_history_holds_the_correction(database: Database, recorder: Recorder, sql: Sql, verified: Verify) -> None:
    """Later events start from the corrected state."""
    recorder.handle(input_events(("e1", "p1", "fail"), ("e2", "p1", "capture")))
    correct(database, "p1", to(State.CAPTURED), agree)
    (result,) = recorder.handle(input_events(("e3", "p1", "refund"), first_line=3))
    assert result.decision.reason.value == "transition"  # type: ignore[union-attr]
    with database.transaction() as cursor:
        payment = load_payment(database, cursor, "p1")
    assert payment is not None
    assert [entry.position for entry in payment.history] == [1, 2, 3, 4]
    at = sql.value("SELECT corrected_at FROM payproc.corrections")
    assert payment.history[2] == CorrectionEntry(3, State.FAILED, State.CAPTURED, at, "seen at the bank", "alice")
    assert (payment.state, payment.version) == (State.REFUNDED, 4)
    verified()


def test_confirmation_shows_what_is_refused_or_open(database: Database, recorder: Recorder) -> None:
    """Reviews of the payment stay open, because a correction decides about none of them."""
    facts = [("e1", "p1", "fail"), ("e2", "p1", "authorize"), ("e3", "p1", "capture"), ("e4", "p1", "flag")]
    recorder.handle(input_events(*facts, ("x1", "other", "capture"), ("x2", "other", "refund")))
    resolve_review(database, "e4", ReviewDecision(Resolution.DISMISS, "n", "bob"), lambda *_: True)

    def confirm(standing: Standing) -> bool:
        assert (standing.payment_id, standing.rejected, standing.waiting) == ("p1", 1, 1)
        return True

    assert correct(database, "p1", to(State.CAPTURED), confirm)
    with database.transaction() as cursor:
        payment = load_payment(database, cursor, "p1")
    assert payment is not None
    assert [entry.event_id for entry in payment.open_reviews] == ["e2"]


# ---- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payment_id", "correction", "message"),
    [
        ("nope", to(State.FAILED), 'payment "nope": not found'),
        ("e1", to(State.FAILED), 'payment "e1": not found; it is an event_id of payment "p1"'),
        (
            "p2",
            to(State.CAPTURED),
            'payment "p2": not found; only a conflict names it, and none of its events is on record',
        ),
        (
            "p1",
            to(State.AUTHORIZED),
            'payment "p1": is already authorized, expected another state; nothing was changed',
        ),
        (
            "p1",
            to(State.CAPTURED, State.CREATED),
            'payment "p1": is authorized, expected created; nothing was changed',
        ),
        (
            "p1",
            to(State.AUTHORIZED, State.CREATED),
            'payment "p1": is authorized, expected created; nothing was changed',
        ),
    ],
)
def test_unfit_correction_is_refused(
    database: Database, recorder: Recorder, sql: Sql, payment_id: str, correction: Correction, message: str
) -> None:
    """Nobody is asked, and nothing changes."""
    recorder.handle(input_events(("e1", "p1", "authorize"), ("e1", "p2", "capture")))
    before = contents(sql)

    def never(_: Standing) -> bool:
        raise AssertionError

    with pytest.raises(CannotFinish) as raised:
        correct(database, payment_id, correction, never)
    assert str(raised.value) == message
    assert contents(sql) == before
    assert sql.rows(STORED) == []


def test_declined_correction_changes_nothing(database: Database, recorder: Recorder, sql: Sql) -> None:
    """`confirm` returned False."""
    recorder.handle(input_events(("e1", "p1", "authorize")))
    before = contents(sql)
    assert correct(database, "p1", to(State.CAPTURED), lambda _: False) is None
    assert contents(sql) == before
    assert sql.rows(STORED) == []


# ---- Writers at the same time --------------------------------------------------------------------


def test_second_of_two_same_corrections_is_refused(
    database: Database, recorder: Recorder, sql: Sql, verified: Verify
) -> None:
    """Both saw the same state. The second to write looks again and finds the payment there."""
    recorder.handle(input_events(("e1", "p1", "fail")))
    with ThreadPoolExecutor(2) as people:
        with sql.locked_payment("p1"):
            attempts = [people.submit(correct, database, "p1", to(State.CAPTURED), agree) for _ in range(2)]
            sql.wait_for_blocked(2)
        errors = [error for error in (attempt.exception() for attempt in attempts) if error is not None]
    assert [*map(str, errors)] == ['payment "p1": is already captured, expected another state; nothing was changed']
    assert len(sql.rows(STORED)) == 1
    verified()


def test_second_of_two_unlike_corrections_follows(
    database: Database, recorder: Recorder, sql: Sql, verified: Verify
) -> None:
    """The second to write is confirmed again, with the state that the first one left."""
    recorder.handle(input_events(("e1", "p1", "fail")))
    asked: list[State] = []

    def confirm(standing: Standing) -> bool:
        asked.append(standing.state)
        return True

    states = (State.CAPTURED, State.REFUNDED)
    with ThreadPoolExecutor(2) as people:
        with sql.locked_payment("p1"):
            attempts = [people.submit(correct, database, "p1", to(state), confirm) for state in states]
            sql.wait_for_blocked(2)
        assert all(attempt.result() for attempt in attempts)
    first, second = ((before, after) for _, before, after, *_ in sql.rows(STORED))
    assert first[0] == "failed"
    assert second[0] == first[1]
    assert {first[1], second[1]} == set(states)
    assert asked == [State.FAILED, State.FAILED, State(first[1])]
    verified()


def test_correction_beside_resolution_asks_again(database: Database, recorder: Recorder, verified: Verify) -> None:
    """A colleague resolves the review while the person reads."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    asked: list[tuple[str, int]] = []

    def meanwhile(standing: Standing) -> bool:
        asked.append((standing.state.value, standing.waiting))
        if len(asked) == 1:
            resolve_review(database, "e1", ReviewDecision(Resolution.APPLY, "n", "bob"), lambda *_: True)
        return True

    corrected = correct(database, "p1", to(State.FAILED), meanwhile)
    assert corrected is not None
    assert asked == [("created", 1), ("captured", 0)]
    assert corrected[1] == 3
    verified()


def test_correction_beside_an_ingest_is_asked_again(database: Database, recorder: Recorder, verified: Verify) -> None:
    """An event moves the payment while the person reads."""
    recorder.handle(input_events(("e1", "p1", "authorize")))
    asked: list[str] = []

    def meanwhile(standing: Standing) -> bool:
        asked.append(standing.state.value)
        if len(asked) == 1:
            recorder.handle(input_events(("e2", "p1", "capture"), first_line=2))
        return True

    corrected = correct(database, "p1", to(State.FAILED), meanwhile)
    assert corrected is not None
    assert asked == ["authorized", "captured"]
    assert corrected[1] == 3
    verified()


@pytest.mark.parametrize(
    ("correction", "message"),
    [
        (to(State.FAILED, State.AUTHORIZED), "is captured, expected authorized; nothing was changed"),
        (to(State.CAPTURED), "is already captured, expected another state; nothing was changed"),
    ],
    ids=["another state than expected", "the state that is wanted"],
)
def test_moved_payment_is_checked_again(
    database: Database, recorder: Recorder, sql: Sql, correction: Correction, message: str
) -> None:
    """The payment moves while the person reads."""
    recorder.handle(input_events(("e1", "p1", "authorize")))

    def meanwhile(_: Standing) -> bool:
        recorder.handle(input_events(("e2", "p1", "capture"), first_line=2))
        return True

    with pytest.raises(CannotFinish, match=message):
        correct(database, "p1", correction, meanwhile)
    assert sql.rows(STORED) == []


def test_ingest_decides_again_after_a_correction(
    database: Database, recorder: Recorder, sql: Sql, verified: Verify
) -> None:
    """The batch was decided before the correction, and is written after it."""
    recorder.handle(input_events(("e1", "p1", "fail"), ("e2", "slow", "authorize")))
    with ThreadPoolExecutor(1) as background:
        with sql.locked_payment("slow"):
            batch = input_events(("e3", "slow", "capture"), ("e4", "p1", "refund"), first_line=3)
            handling = background.submit(recorder.handle, batch)
            sql.wait_for_blocked()
            correct(database, "p1", to(State.CAPTURED), agree)
        results = handling.result()
    assert [result.decision.reason.value for result in results] == ["transition", "transition"]  # type: ignore[union-attr]
    assert sql.rows("SELECT state, version FROM payproc.payments WHERE payment_id = 'p1'") == [("refunded", 3)]
    verified()


@pytest.mark.slow
def test_payment_that_keeps_moving_is_refused(database: Database, recorder: Recorder, sql: Sql) -> None:
    """Each look finds another version."""
    recorder.handle(input_events(("e1", "p1", "authorize")))

    def meanwhile(_: Standing) -> bool:
        sql.rows("UPDATE payproc.payments SET version = version + 1")
        return True

    with pytest.raises(CannotFinish, match='payment "p1": keeps moving; nothing was changed, try again'):
        correct(database, "p1", to(State.FAILED), meanwhile)
    assert sql.rows(STORED) == []
