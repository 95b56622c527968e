"""The queue of reviews on a real database: its order, its pages, and its cost."""

from typing import Any

import pytest

from payproc import review_queue
from payproc.db.connection import Database
from payproc.db.rows import open_stream
from payproc.handlers import Recorder
from payproc.logic import Resolution, State
from payproc.review import Review, ReviewDecision, count_open, resolve_review
from payproc.review_queue import ReviewFilter, open_reviews
from tests.support.events import input_events
from tests.support.postgres import IS_FOR_CITUS, Sql, fill_queue, wait_for

DISMISS = ReviewDecision(Resolution.DISMISS, "a stale report", "bob")


def agree(_: Review, __: State) -> bool:
    """Confirm every resolution."""
    return True


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


def test_details_are_few_queries_on_citus(database: Database, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes to every shard. On one server each is small, so that it uses the index."""
    fill_queue(sql, 1, 7)
    monkeypatch.setattr(review_queue, "FETCH_LINES", 2)
    monkeypatch.setattr(review_queue, "FETCH_ROWS", 4)
    asked: list[int] = []

    def count(connection: Any, query: str, arguments: Any, **options: Any) -> Any:
        if "event_ids" in (arguments or {}):
            asked.append(len(arguments["event_ids"]))
        return open_stream(connection, query, arguments, **options)

    monkeypatch.setattr(review_queue, "open_stream", count)
    assert len(list(open_reviews(database))) == 7
    assert asked == ([4, 3] if IS_FOR_CITUS else [2, 2, 2, 1])


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
    assert sorted(review.event_id for review in open_reviews(database)) == ["e1", "e2", "e6", "e8"]


@pytest.mark.skipif(IS_FOR_CITUS, reason="a page of details is one query there, which may read a shard")
@pytest.mark.parametrize(
    "known", [pytest.param(0, marks=pytest.mark.slow), 1_000], ids=["nothing", "the first of them"]
)
def test_long_queue_is_read_once(database: Database, sql: Sql, known: int) -> None:
    """After a big ingest statistics are stale.

    Still each row is found and fetched once, not once a page.
    """
    count = 8_000
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
