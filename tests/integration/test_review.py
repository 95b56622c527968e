"""Reviews on a real database: resolutions, one by one and at the same time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from payproc.db.connection import Database
from payproc.errors import CannotFinish
from payproc.handlers import Recorder
from payproc.logic import STATE_NAMED_BY, EventType, Outcome, Resolution, State
from payproc.payments import load_payment
from payproc.review import Review, ReviewDecision, count_open, resolve_review
from tests.support.events import input_events
from tests.support.postgres import Sql, contents

Verify = Callable[[], None]
"""Checks the records with `verify` and with the tests' own fold."""

APPLY = ReviewDecision(Resolution.APPLY, "it was paid", "alice")
DISMISS = ReviewDecision(Resolution.DISMISS, "a stale report", "bob")


def agree(_: Review, __: State) -> bool:
    """Confirm every resolution."""
    return True


PATHS = {
    State.CREATED: (),
    State.AUTHORIZED: ("authorize",),
    State.CAPTURED: ("authorize", "capture"),
    State.REFUNDED: ("authorize", "capture", "refund"),
    State.FAILED: ("fail",),
}
FLAGGED = [
    (State.CREATED, "capture"),
    (State.CREATED, "refund"),
    (State.AUTHORIZED, "refund"),
    (State.CAPTURED, "fail"),
    (State.REFUNDED, "capture"),
    (State.REFUNDED, "refund"),
    (State.REFUNDED, "fail"),
    (State.FAILED, "authorize"),
]


@pytest.mark.parametrize("state", State)
def test_flag_can_only_be_dismissed(
    database: Database, recorder: Recorder, sql: Sql, verified: Verify, state: State
) -> None:
    """A flag names no state, so there is nothing to apply."""
    path = PATHS[state]
    recorder.handle(input_events(*[(f"e{kind}", "p1", kind) for kind in path], ("dispute", "p1", "flag")))
    with pytest.raises(CannotFinish, match="is a flag, which names no state to apply, expected --dismiss"):
        resolve_review(database, "dispute", APPLY, agree)
    assert sql.value("SELECT count(*) FROM payproc.resolutions") == 0
    resolved = resolve_review(database, "dispute", DISMISS, agree)
    assert resolved is not None
    assert sql.rows("SELECT state, version FROM payproc.payments") == [(state.value, len(path) + 2)]
    verified()


@pytest.mark.parametrize("decision", [APPLY, DISMISS], ids=["apply", "dismiss"])
@pytest.mark.parametrize(("state", "kind"), FLAGGED)
def test_pending_event_is_applied_or_dismissed(
    database: Database,
    recorder: Recorder,
    sql: Sql,
    verified: Verify,
    state: State,
    kind: str,
    decision: ReviewDecision,
) -> None:
    """Each cell of the table that leads to a review is resolved both ways."""
    path = PATHS[state]
    recorder.handle(input_events(*[(f"e{kind}", "p1", kind) for kind in path], ("flagged", "p1", kind)))
    resolved = resolve_review(database, "flagged", decision, agree)
    assert resolved is not None
    after = STATE_NAMED_BY[EventType(kind)] if decision is APPLY else state
    assert sql.rows("SELECT state, version FROM payproc.payments") == [(after.value, len(path) + 2)]
    assert sql.rows(
        "SELECT event_id, position, resolution, state_before, state_after, note, resolved_by FROM payproc.resolutions"
    ) == [("flagged", len(path) + 2, decision.resolution.value, state.value, after.value, decision.note, decision.by)]
    assert count_open(database) == 0
    verified()


def test_later_events_start_from_the_resolved_state(database: Database, recorder: Recorder, verified: Verify) -> None:
    """The history holds the event, its resolution and the later event."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    resolve_review(database, "e1", APPLY, agree)
    (result,) = recorder.handle(input_events(("e2", "p1", "refund"), first_line=2))
    assert result.decision.outcome is Outcome.APPLY  # type: ignore[union-attr]
    with database.transaction() as cursor:
        payment = load_payment(database, cursor, "p1")
    assert payment is not None
    history = [(entry.position, getattr(entry, "event_id", None)) for entry in payment.history]
    assert history == [(1, "e1"), (2, "e1"), (3, "e2")]
    assert payment.open_reviews == []
    assert payment.state is State.REFUNDED
    verified()


@pytest.mark.parametrize(
    ("event_id", "decision", "message"),
    [
        ("nope", APPLY, 'event "nope": not found'),
        ("e1", APPLY, 'event "e1": has the outcome APPLY (transition), expected MANUAL_REVIEW; nothing was changed'),
        (
            "e2",
            APPLY,
            'event "e2": has the outcome IGNORE (already_in_state), expected MANUAL_REVIEW; nothing was changed',
        ),
        (
            "e3",
            ReviewDecision(Resolution.APPLY, "x", "y", State.CAPTURED),
            'payment "p1": is authorized, expected captured; nothing was changed',
        ),
    ],
)
def test_unresolvable_event_is_refused(
    database: Database, recorder: Recorder, sql: Sql, event_id: str, decision: ReviewDecision, message: str
) -> None:
    """Nothing changes."""
    recorder.handle(input_events(("e1", "p1", "authorize"), ("e2", "p1", "authorize"), ("e3", "p1", "refund")))
    before = contents(sql)
    with pytest.raises(CannotFinish) as raised:
        resolve_review(database, event_id, decision, agree)
    assert str(raised.value) == message
    assert contents(sql) == before
    assert sql.rows("SELECT * FROM payproc.resolutions") == []


def test_declined_confirmation_changes_nothing(database: Database, recorder: Recorder, sql: Sql) -> None:
    """`confirm` returned False."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    assert resolve_review(database, "e1", APPLY, lambda *_: False) is None
    assert sql.rows("SELECT * FROM payproc.resolutions") == []
    assert sql.rows("SELECT version FROM payproc.payments") == [(1,)]


def test_resolving_twice_names_the_first_resolution(database: Database, recorder: Recorder, sql: Sql) -> None:
    """The message has the person, the time and the note."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    resolve_review(database, "e1", APPLY, agree)
    with pytest.raises(CannotFinish) as raised:
        resolve_review(database, "e1", DISMISS, agree)
    at = sql.value(
        "SELECT to_char(resolved_at AT TIME ZONE 'UTC', 'YYYY-MM-DD \"at\" HH24:MI:SS') FROM payproc.resolutions"
    )
    assert str(raised.value) == (
        f'event "e1": already resolved: applied by alice on {at} UTC, with the note "it was paid"; nothing was changed'
    )
    assert sql.rows("SELECT state, version FROM payproc.payments") == [("captured", 2)]


@pytest.mark.parametrize(("length", "shown"), [(200, "x" * 200), (201, f"{'x' * 200}…")])
def test_resolving_twice_cuts_a_long_note(
    database: Database, recorder: Recorder, sql: Sql, length: int, shown: str
) -> None:
    """The record keeps all of it."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    resolve_review(database, "e1", ReviewDecision(Resolution.APPLY, "x" * length, "alice"), agree)
    with pytest.raises(CannotFinish, match=f'with the note "{shown}"; nothing was changed$'):
        resolve_review(database, "e1", DISMISS, agree)
    assert sql.value("SELECT length(note) FROM payproc.resolutions") == length


def test_one_of_two_concurrent_resolutions_wins(
    database: Database, recorder: Recorder, sql: Sql, verified: Verify
) -> None:
    """Both saw the same state. The second to write looks again and finds the event resolved."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    with ThreadPoolExecutor(2) as people:
        with sql.locked_payment("p1"):
            attempts = [people.submit(resolve_review, database, "e1", decision, agree) for decision in (APPLY, DISMISS)]
            sql.wait_for_blocked(2)
        errors = [error for error in (attempt.exception() for attempt in attempts) if error is not None]
    (message,) = map(str, errors)
    assert message.startswith('event "e1": already resolved: ')
    assert sql.value("SELECT count(*) FROM payproc.resolutions") == 1
    verified()


def test_moved_payment_is_confirmed_again(database: Database, recorder: Recorder, verified: Verify) -> None:
    """The payment moves while the person reads."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    asked: list[str] = []

    def meanwhile(review: Review, _: State) -> bool:
        asked.append(review.state.value)
        if len(asked) == 1:
            recorder.handle(input_events(("e2", "p1", "authorize"), first_line=2))
        return True

    resolved = resolve_review(database, "e1", APPLY, meanwhile)
    assert resolved is not None
    assert asked == ["created", "authorized"]
    assert resolved[1] == 3
    verified()


def test_invisible_resolution_is_found_before_writing(database: Database, recorder: Recorder, sql: Sql) -> None:
    """As after an edit of the tables: the payment's version has not shown the decision."""
    recorder.handle(input_events(("e1", "p1", "capture")))

    def meanwhile(review: Review, _: State) -> bool:
        assert review.version == 2
        sql.rows(
            "INSERT INTO payproc.resolutions (event_id, payment_id, position, resolution, state_before, state_after,"
            " note, resolved_by) VALUES ('e1', 'p1', 2, 'apply', 'created', 'captured', 'n', 'bob')"
        )
        return True

    sql.rows("UPDATE payproc.payments SET state = 'captured', version = 2 WHERE payment_id = 'p1'")
    with pytest.raises(CannotFinish, match=r'^event "e1": already resolved: applied by bob on '):
        resolve_review(database, "e1", DISMISS, meanwhile)
    assert sql.rows("SELECT version FROM payproc.payments") == [(2,)]
    assert sql.rows("SELECT resolved_by FROM payproc.resolutions") == [("bob",)]


def test_expected_state_is_checked_again(database: Database, recorder: Recorder, sql: Sql) -> None:
    """The payment moves while the person reads."""
    recorder.handle(input_events(("e1", "p1", "capture")))

    def meanwhile(_: Review, __: State) -> bool:
        recorder.handle(input_events(("e2", "p1", "authorize"), first_line=2))
        return True

    with pytest.raises(CannotFinish, match="is authorized, expected created"):
        resolve_review(database, "e1", ReviewDecision(Resolution.APPLY, "x", "y", State.CREATED), meanwhile)
    assert sql.rows("SELECT * FROM payproc.resolutions") == []


def test_ingest_decides_again_after_a_resolution(
    database: Database, recorder: Recorder, sql: Sql, verified: Verify
) -> None:
    """The batch was decided before the resolution, and is written after it."""
    recorder.handle(input_events(("e1", "p1", "capture"), ("e2", "slow", "authorize")))
    with ThreadPoolExecutor(1) as background:
        with sql.locked_payment("slow"):
            batch = input_events(("e3", "slow", "capture"), ("e4", "p1", "refund"), first_line=3)
            handling = background.submit(recorder.handle, batch)
            sql.wait_for_blocked()
            resolve_review(database, "e1", APPLY, agree)
        results = handling.result()
    assert [result.decision.reason.value for result in results] == ["transition", "transition"]  # type: ignore[union-attr]
    assert sql.rows("SELECT state, version FROM payproc.payments WHERE payment_id = 'p1'") == [("refunded", 3)]
    verified()
