"""A person's decision against a real database: what it changes, and what happens when something gets in the way."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from payproc import review as review_module
from payproc.db.connection import Database
from payproc.errors import CannotFinish
from payproc.handlers import Recorder
from payproc.logic import STATE_NAMED_BY, EventType, Outcome, Resolution, State
from payproc.payments import load_payment
from payproc.review import Review, ReviewDecision, count_open, open_reviews, resolve
from payproc.verify import VerifySummary, verify
from tests.support.events import input_events
from tests.support.postgres import Sql, contents, fill_queue, wait_for

APPLY = ReviewDecision(Resolution.APPLY, "it was paid", "alice")
DISMISS = ReviewDecision(Resolution.DISMISS, "a stale report", "bob")


def agree(_: Review, __: State) -> bool:
    return True


@pytest.fixture
def recorder(database: Database, sql: Sql) -> Iterator[Recorder]:
    run_id = sql.value("INSERT INTO payproc.runs (sources) VALUES ('{test}') RETURNING run_id")
    with closing(Recorder(database, run_id)) as recorder:
        yield recorder


@pytest.fixture
def verified(database: Database) -> Callable[[], None]:
    """Checks that the books are right by `verify`, resolutions included."""

    def check() -> None:
        assert list(verify(database, VerifySummary())) == []

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
def test_a_flag_can_only_be_dismissed(
    database: Database, recorder: Recorder, sql: Sql, verified: Callable[[], None], state: State
) -> None:
    path = PATHS[state]
    recorder.handle(input_events(*[(f"e{kind}", "p1", kind) for kind in path], ("dispute", "p1", "flag")))
    with pytest.raises(CannotFinish, match="is a flag, which names no state to apply, expected --dismiss"):
        resolve(database, "dispute", APPLY, agree)
    assert sql.value("SELECT count(*) FROM payproc.resolutions") == 0
    resolved = resolve(database, "dispute", DISMISS, agree)
    assert resolved is not None
    assert sql.rows("SELECT state, version FROM payproc.payments") == [(state.value, len(path) + 2)]
    verified()


@pytest.mark.parametrize("verdict", [APPLY, DISMISS], ids=["apply", "dismiss"])
@pytest.mark.parametrize(("state", "flagged"), FLAGGED)
def test_whatever_is_flagged_can_be_applied_or_dismissed(
    database: Database,
    recorder: Recorder,
    sql: Sql,
    verified: Callable[[], None],
    state: State,
    flagged: str,
    verdict: ReviewDecision,
) -> None:
    path = PATHS[state]
    recorder.handle(input_events(*[(f"e{kind}", "p1", kind) for kind in path], ("flagged", "p1", flagged)))
    resolved = resolve(database, "flagged", verdict, agree)
    assert resolved is not None
    after = STATE_NAMED_BY[EventType(flagged)] if verdict is APPLY else state
    assert sql.rows("SELECT state, version FROM payproc.payments") == [(after.value, len(path) + 2)]
    assert sql.rows(
        "SELECT event_id, position, resolution, state_before, state_after, note, resolved_by FROM payproc.resolutions"
    ) == [("flagged", len(path) + 2, verdict.resolution.value, state.value, after.value, verdict.note, verdict.by)]
    assert count_open(database) == 0
    verified()


def test_the_queue_is_oldest_first_and_shows_the_state_now(database: Database, recorder: Recorder) -> None:
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
    assert [review.event_id for review in open_reviews(database, reason=queue[0].reason)] == ["e1", "e3", "e4", "e5"]
    resolve(database, "e3", DISMISS, agree)
    assert [review.event_id for review in open_reviews(database)] == ["e1", "e4", "e5"]
    assert count_open(database) == 3


def test_a_queue_of_many_pages_is_whole_and_in_order(
    database: Database, recorder: Recorder, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where events were recorded at the same moment, and where the first ones are of payments that are gone."""
    facts = [(f"e{number}", f"p{number}", "capture") for number in range(9)]
    recorder.handle(input_events(*facts))
    sql.rows("UPDATE payproc.events SET recorded_at = '2026-01-01' WHERE event_id > 'e1'")
    monkeypatch.setattr(review_module, "FETCH_LINES", 2)
    monkeypatch.setattr(review_module, "FETCH_ROWS", 3)
    expected = [*(event_id for event_id, *_ in facts[2:]), "e0", "e1"]
    assert [review.event_id for review in open_reviews(database)] == expected
    assert [review.event_id for review in open_reviews(database, limit=5)] == expected[:5]
    sql.rows("DELETE FROM payproc.payments WHERE payment_id IN ('p2', 'p3')")
    assert [review.event_id for review in open_reviews(database, limit=5)] == expected[2:7]
    assert [review.event_id for review in open_reviews(database, limit=1)] == expected[2:3]
    sql.rows("DELETE FROM payproc.payments WHERE payment_id IN ('p4', 'p7')")
    assert [review.event_id for review in open_reviews(database)] == [*expected[3:5], *expected[6:]]


def test_a_queue_of_which_pages_are_resolved_is_whole(
    database: Database, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [(f"e{number}", f"p{number}", "capture") for number in range(9)]
    recorder.handle(input_events(*facts))
    monkeypatch.setattr(review_module, "FETCH_ROWS", 3)
    for event_id in ("e0", "e3", "e4", "e5", "e7"):
        resolve(database, event_id, DISMISS, agree)
    assert [review.event_id for review in open_reviews(database)] == ["e1", "e2", "e6", "e8"]


@pytest.mark.parametrize("known", [0, 3_000], ids=["nothing", "the first of them"])
def test_a_long_queue_is_read_once_whatever_statistics_know_of_it(database: Database, sql: Sql, known: int) -> None:
    """As after a big ingest: each row is found, and fetched, not all that are left for each page."""
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


def test_what_comes_after_a_resolution_is_decided_on_the_state_that_it_left(
    database: Database, recorder: Recorder, verified: Callable[[], None]
) -> None:
    recorder.handle(input_events(("e1", "p1", "capture")))
    resolve(database, "e1", APPLY, agree)
    (result,) = recorder.handle(input_events(("e2", "p1", "refund"), first_line=2))
    assert result.decision.outcome is Outcome.APPLY  # type: ignore[union-attr]
    with database.transaction() as cursor:
        payment = load_payment(cursor, "p1")
    assert payment is not None
    assert [(entry.position, entry.event_id) for entry in payment.history] == [(1, "e1"), (2, "e1"), (3, "e2")]
    assert payment.open_reviews == []
    assert payment.state is State.REFUNDED
    verified()


@pytest.mark.parametrize(
    ("event_id", "verdict", "said"),
    [
        ("nope", APPLY, 'event "nope": is not on record'),
        ("e1", APPLY, 'event "e1": came out APPLY (transition), so there is nothing to decide'),
        ("e2", APPLY, 'event "e2": came out IGNORE (already_in_state), so there is nothing to decide'),
        (
            "e3",
            ReviewDecision(Resolution.APPLY, "x", "y", State.CAPTURED),
            'payment "p1": is authorized, expected captured; nothing was changed',
        ),
    ],
)
def test_what_cannot_be_resolved_is_refused_and_nothing_changes(
    database: Database, recorder: Recorder, sql: Sql, event_id: str, verdict: ReviewDecision, said: str
) -> None:
    recorder.handle(input_events(("e1", "p1", "authorize"), ("e2", "p1", "authorize"), ("e3", "p1", "refund")))
    before = contents(sql)
    with pytest.raises(CannotFinish) as raised:
        resolve(database, event_id, verdict, agree)
    assert str(raised.value) == said
    assert contents(sql) == before
    assert sql.rows("SELECT * FROM payproc.resolutions") == []


def test_saying_no_changes_nothing(database: Database, recorder: Recorder, sql: Sql) -> None:
    recorder.handle(input_events(("e1", "p1", "capture")))
    assert resolve(database, "e1", APPLY, lambda *_: False) is None
    assert sql.rows("SELECT * FROM payproc.resolutions") == []
    assert sql.rows("SELECT version FROM payproc.payments") == [(1,)]


def test_resolving_twice_tells_who_decided_what_and_when(database: Database, recorder: Recorder, sql: Sql) -> None:
    recorder.handle(input_events(("e1", "p1", "capture")))
    resolve(database, "e1", APPLY, agree)
    with pytest.raises(CannotFinish) as raised:
        resolve(database, "e1", DISMISS, agree)
    at = sql.value(
        "SELECT to_char(resolved_at AT TIME ZONE 'UTC', 'YYYY-MM-DD \"at\" HH24:MI:SS') FROM payproc.resolutions"
    )
    assert str(raised.value) == (
        f'event "e1": was applied by alice on {at} UTC, with the note "it was paid"; nothing was changed'
    )
    assert sql.rows("SELECT state, version FROM payproc.payments") == [("captured", 2)]


def test_of_two_people_who_decide_at_once_one_wins(
    database: Database, recorder: Recorder, sql: Sql, verified: Callable[[], None]
) -> None:
    """Both have seen the same state; the one that is second to write looks again, and finds it decided."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    with ThreadPoolExecutor(2) as people:
        with sql.locked_payment("p1"):
            attempts = [people.submit(resolve, database, "e1", verdict, agree) for verdict in (APPLY, DISMISS)]
            while sql.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") < 2:
                pass
        errors = [error for error in (attempt.exception() for attempt in attempts) if error is not None]
    (said,) = map(str, errors)
    assert said.startswith('event "e1": was ')
    assert sql.value("SELECT count(*) FROM payproc.resolutions") == 1
    verified()


def test_a_payment_that_moves_between_look_and_decision_is_shown_again(
    database: Database, recorder: Recorder, verified: Callable[[], None]
) -> None:
    recorder.handle(input_events(("e1", "p1", "capture")))
    asked: list[str] = []

    def meanwhile(review: Review, _: State) -> bool:
        asked.append(review.state.value)
        if len(asked) == 1:
            recorder.handle(input_events(("e2", "p1", "authorize"), first_line=2))
        return True

    resolved = resolve(database, "e1", APPLY, meanwhile)
    assert resolved is not None
    assert asked == ["created", "authorized"]
    assert resolved[1] == 3
    verified()


def test_a_decision_that_was_not_to_be_seen_yet_is_found_before_anything_is_changed(
    database: Database, recorder: Recorder, sql: Sql
) -> None:
    """As over several machines: what another person's transaction did to the payment is seen, its decision not yet."""
    recorder.handle(input_events(("e1", "p1", "capture")))

    def meanwhile(review: Review, _: State) -> bool:
        assert review.version == 2
        sql.rows(
            "INSERT INTO payproc.resolutions (event_id, payment_id, position, resolution, state_before, state_after,"
            " note, resolved_by) VALUES ('e1', 'p1', 2, 'apply', 'created', 'captured', 'n', 'bob')"
        )
        return True

    sql.rows("UPDATE payproc.payments SET state = 'captured', version = 2 WHERE payment_id = 'p1'")
    with pytest.raises(CannotFinish, match=r'^event "e1": was applied by bob on '):
        resolve(database, "e1", DISMISS, meanwhile)
    assert sql.rows("SELECT version FROM payproc.payments") == [(2,)]
    assert sql.rows("SELECT resolved_by FROM payproc.resolutions") == [("bob",)]


def test_an_expected_state_is_checked_again_when_the_payment_moves(
    database: Database, recorder: Recorder, sql: Sql
) -> None:
    recorder.handle(input_events(("e1", "p1", "capture")))

    def meanwhile(_: Review, __: State) -> bool:
        recorder.handle(input_events(("e2", "p1", "authorize"), first_line=2))
        return True

    with pytest.raises(CannotFinish, match="is authorized, expected created"):
        resolve(database, "e1", ReviewDecision(Resolution.APPLY, "x", "y", State.CREATED), meanwhile)
    assert sql.rows("SELECT * FROM payproc.resolutions") == []


def test_an_ingest_of_the_same_payment_looks_again_after_a_resolution(
    database: Database, recorder: Recorder, sql: Sql, verified: Callable[[], None]
) -> None:
    """The batch was decided before the person's decision, and is written after it."""
    recorder.handle(input_events(("e1", "p1", "capture"), ("e2", "slow", "authorize")))
    with ThreadPoolExecutor(1) as background:
        with sql.locked_payment("slow"):
            batch = input_events(("e3", "slow", "capture"), ("e4", "p1", "refund"), first_line=3)
            handling = background.submit(recorder.handle, batch)
            sql.wait_for_blocked_call()
            resolve(database, "e1", APPLY, agree)
        results = handling.result()
    assert [result.decision.reason.value for result in results] == ["transition", "transition"]  # type: ignore[union-attr]
    assert sql.rows("SELECT state, version FROM payproc.payments WHERE payment_id = 'p1'") == [("refunded", 3)]
    verified()
