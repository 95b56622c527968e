"""Reviews on a real database: the queue, resolutions, and resolutions at the same time."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from payproc import review_queue
from payproc.db.connection import Database
from payproc.errors import CannotFinish
from payproc.handlers import Recorder
from payproc.logic import STATE_NAMED_BY, EventType, Outcome, Resolution, State
from payproc.payments import load_payment
from payproc.review import Review, ReviewDecision, count_open, resolve_review
from payproc.review_queue import ReviewFilter, open_reviews
from payproc.verify import VerifySummary, verify_histories
from tests.support.events import input_events
from tests.support.postgres import Sql, contents, fill_queue, wait_for

APPLY = ReviewDecision(Resolution.APPLY, "it was paid", "alice")
DISMISS = ReviewDecision(Resolution.DISMISS, "a stale report", "bob")


def agree(_: Review, __: State) -> bool:
    """Confirm every resolution."""
    return True


@pytest.fixture
def recorder(database: Database, sql: Sql) -> Iterator[Recorder]:
    run_id = sql.value("INSERT INTO payproc.runs (sources) VALUES ('{test}') RETURNING run_id")
    with closing(Recorder(database, run_id)) as recorder:
        yield recorder


@pytest.fixture
def verified(database: Database) -> Callable[[], None]:
    """Checks the records with `verify`, resolutions included."""

    def check() -> None:
        assert list(verify_histories(database, VerifySummary())) == []

    return check


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
    database: Database, recorder: Recorder, sql: Sql, verified: Callable[[], None], state: State
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
@pytest.mark.parametrize(("state", "flagged"), FLAGGED)
def test_pending_event_is_applied_or_dismissed(
    database: Database,
    recorder: Recorder,
    sql: Sql,
    verified: Callable[[], None],
    state: State,
    flagged: str,
    decision: ReviewDecision,
) -> None:
    """Each cell of the table that leads to a review is resolved both ways."""
    path = PATHS[state]
    recorder.handle(input_events(*[(f"e{kind}", "p1", kind) for kind in path], ("flagged", "p1", flagged)))
    resolved = resolve_review(database, "flagged", decision, agree)
    assert resolved is not None
    after = STATE_NAMED_BY[EventType(flagged)] if decision is APPLY else state
    assert sql.rows("SELECT state, version FROM payproc.payments") == [(after.value, len(path) + 2)]
    assert sql.rows(
        "SELECT event_id, position, resolution, state_before, state_after, note, resolved_by FROM payproc.resolutions"
    ) == [("flagged", len(path) + 2, decision.resolution.value, state.value, after.value, decision.note, decision.by)]
    assert count_open(database) == 0
    verified()


def test_queue_is_oldest_first_with_current_states(database: Database, recorder: Recorder) -> None:
    """A review shows both the state now and the state when it was flagged."""
    recorder.handle(input_events(("e1", "p1", "capture"), ("e2", "p1", "authorize"), ("e3", "p2", "refund")))
    recorder.handle(input_events(("e4", "p1", "refund"), ("e5", "p2", "capture"), first_line=4))
    queue = list(open_reviews(database))
    assert [(review.event_id, review.state.value, review.state_when_flagged.value) for review in queue] == [
        ("e1", "authorized", "created"),
        ("e3", "created", "created"),
        ("e4", "authorized", "authorized"),
        ("e5", "created", "created"),
    ]
    assert [review.event_id for review in open_reviews(database, limit=2)] == ["e1", "e3"]
    assert [review.event_id for review in open_reviews(database, ReviewFilter(reason=queue[0].reason))] == [
        "e1",
        "e3",
        "e4",
        "e5",
    ]
    resolve_review(database, "e3", DISMISS, agree)
    assert [review.event_id for review in open_reviews(database)] == ["e1", "e4", "e5"]
    assert count_open(database) == 3


def test_paged_queue_is_whole_and_in_order(
    database: Database, recorder: Recorder, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some events have the same time, and the first ones are of payments that are gone."""
    facts = [(f"e{number}", f"p{number}", "capture") for number in range(9)]
    recorder.handle(input_events(*facts))
    sql.rows("UPDATE payproc.events SET recorded_at = '2026-01-01' WHERE event_id > 'e1'")
    monkeypatch.setattr(review_queue, "FETCH_LINES", 2)
    monkeypatch.setattr(review_queue, "FETCH_ROWS", 3)
    expected = [*(event_id for event_id, *_ in facts[2:]), "e0", "e1"]
    assert [review.event_id for review in open_reviews(database)] == expected
    assert [review.event_id for review in open_reviews(database, limit=5)] == expected[:5]
    sql.rows("DELETE FROM payproc.payments WHERE payment_id IN ('p2', 'p3')")
    assert [review.event_id for review in open_reviews(database, limit=5)] == expected[2:7]
    assert [review.event_id for review in open_reviews(database, limit=1)] == expected[2:3]
    sql.rows("DELETE FROM payproc.payments WHERE payment_id IN ('p4', 'p7')")
    assert [review.event_id for review in open_reviews(database)] == [*expected[3:5], *expected[6:]]


def test_queue_with_resolved_pages_is_whole(
    database: Database, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole page of resolved events lies between pending ones."""
    facts = [(f"e{number}", f"p{number}", "capture") for number in range(9)]
    recorder.handle(input_events(*facts))
    monkeypatch.setattr(review_queue, "FETCH_ROWS", 3)
    for event_id in ("e0", "e3", "e4", "e5", "e7"):
        resolve_review(database, event_id, DISMISS, agree)
    assert [review.event_id for review in open_reviews(database)] == ["e1", "e2", "e6", "e8"]


@pytest.mark.parametrize(
    "known", [pytest.param(0, marks=pytest.mark.slow), 3_000], ids=["nothing", "the first of them"]
)
def test_long_queue_is_read_once(database: Database, sql: Sql, known: int) -> None:
    """After a big ingest statistics are stale.

    Still each row is found and fetched once, not once a page.
    """
    count = 20_000
    sql.rows("ALTER TABLE payproc.events SET (autovacuum_enabled = off)")
    for first, last in ((1, known), (known + 1, count)):
        fill_queue(sql, first, last)
        sql.rows(
            "UPDATE payproc.events SET recorded_at = timestamptz '2026-01-01' + substr(event_id, 3)::integer"
            " * interval '1 ms' WHERE substr(event_id, 3)::integer >= %s",
            first,
        )
        if last == known > 0:
            sql.rows("ANALYZE payproc.events")
    rows_read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relid = 'payproc.events'::regclass"
    sql.rows("SELECT pg_stat_force_next_flush()")
    before = sql.value(rows_read)
    assert len(list(open_reviews(database))) == count
    assert count <= wait_for(lambda: sql.value(rows_read) - before) <= 3 * count


def test_later_events_start_from_the_resolved_state(
    database: Database, recorder: Recorder, verified: Callable[[], None]
) -> None:
    """The history holds the event, its resolution and the later event."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    resolve_review(database, "e1", APPLY, agree)
    (result,) = recorder.handle(input_events(("e2", "p1", "refund"), first_line=2))
    assert result.decision.outcome is Outcome.APPLY  # type: ignore[union-attr]
    with database.transaction() as cursor:
        payment = load_payment(cursor, "p1")
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


def test_one_of_two_concurrent_resolutions_wins(
    database: Database, recorder: Recorder, sql: Sql, verified: Callable[[], None]
) -> None:
    """Both saw the same state. The second to write looks again and finds the event resolved."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    with ThreadPoolExecutor(2) as people:
        with sql.locked_payment("p1"):
            attempts = [people.submit(resolve_review, database, "e1", decision, agree) for decision in (APPLY, DISMISS)]
            wait_for(lambda: sql.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 2)
        errors = [error for error in (attempt.exception() for attempt in attempts) if error is not None]
    (message,) = map(str, errors)
    assert message.startswith('event "e1": already resolved: ')
    assert sql.value("SELECT count(*) FROM payproc.resolutions") == 1
    verified()


def test_moved_payment_is_confirmed_again(database: Database, recorder: Recorder, verified: Callable[[], None]) -> None:
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
    """Over several machines, a payment may visibly change before its resolution is visible."""
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
    database: Database, recorder: Recorder, sql: Sql, verified: Callable[[], None]
) -> None:
    """The batch was decided before the resolution, and is written after it."""
    recorder.handle(input_events(("e1", "p1", "capture"), ("e2", "slow", "authorize")))
    with ThreadPoolExecutor(1) as background:
        with sql.locked_payment("slow"):
            batch = input_events(("e3", "slow", "capture"), ("e4", "p1", "refund"), first_line=3)
            handling = background.submit(recorder.handle, batch)
            sql.wait_for_blocked_call()
            resolve_review(database, "e1", APPLY, agree)
        results = handling.result()
    assert [result.decision.reason.value for result in results] == ["transition", "transition"]  # type: ignore[union-attr]
    assert sql.rows("SELECT state, version FROM payproc.payments WHERE payment_id = 'p1'") == [("refunded", 3)]
    verified()
