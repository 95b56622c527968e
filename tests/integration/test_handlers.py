"""One batch on a real database: results, records, contention and lost connections.

Disturbances come at a known moment: the test locks a payment's row, and acts once the CALL waits
for the lock.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import URL

from payproc.batch import EventResult, Known, RecordedEvent
from payproc.db.connection import Database
from payproc.errors import CannotFinish
from payproc.handlers import DryRun, Recorder
from payproc.logic import EventType, Outcome
from payproc.lookup import NO_RUN, look_up_conflicts
from tests.support.events import input_events, reasons
from tests.support.postgres import IS_FOR_CITUS, Sql, assert_books_right, contents


@pytest.fixture
def run_id(sql: Sql) -> int:
    return int(sql.value("INSERT INTO payproc.runs (sources) VALUES ('{test}') RETURNING run_id"))


@pytest.fixture
def recorder(database: Database, run_id: int) -> Iterator[Recorder]:
    with closing(Recorder(database, run_id)) as recorder:
        yield recorder


@pytest.fixture
def other(database: Database, sql: Sql) -> Iterator[Recorder]:
    """A run of another process, as the database sees it."""
    other_run = sql.value("INSERT INTO payproc.runs (sources) VALUES ('{other}') RETURNING run_id")
    with closing(Recorder(database, other_run)) as recorder:
        yield recorder


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_batch_is_decided_in_order(recorder: Recorder, sql: Sql) -> None:
    """Each event is decided on the state that the events before it left."""
    batch = input_events(
        ("e1", "p1", "authorize"),
        ("e2", "p1", "capture"),
        ("e2", "p1", "capture"),
        ("e2", "p2", "capture"),
        ("e2", "p1", "refund"),
        ("e3", "p1", "fail"),
        ("e4", "p3", "refund"),
        ("e5", "p4", "fail"),
        ("e6", "p4", "refund"),
    )
    assert reasons(recorder.handle(batch)) == [
        "transition",
        "transition",
        "duplicate_event",
        "event_id_conflict",
        "event_id_conflict",
        "failure_after_capture",
        "predecessor_missing",
        "transition",
        "payment_failed",
    ]
    assert_books_right(sql)


def test_duplicates_and_conflicts_name_the_record(recorder: Recorder) -> None:
    """A duplicate has the first outcome; a conflict has the recorded payment and type."""
    recorder.handle(input_events(("e1", "p1", "capture")))
    duplicate, conflict = recorder.handle(input_events(("e1", "p1", "capture"), ("e1", "p2", "fail"), first_line=2))
    assert isinstance(duplicate, EventResult)
    assert duplicate.recorded is not None
    assert duplicate.recorded.outcome is Outcome.MANUAL_REVIEW
    assert isinstance(conflict, EventResult)
    assert conflict.recorded is not None
    assert (conflict.recorded.payment_id, conflict.recorded.type.value) == ("p1", "capture")


def test_conflicts_of_the_batch_alone_are_looked_up(recorder: Recorder, database: Database) -> None:
    """Under one event_id, such as `undefined`, there may be a million of them."""
    recorder.handle(input_events(*(("e1", f"p{number}", "capture") for number in range(20))))
    known = Known({"e1": RecordedEvent("p0", EventType.CAPTURE, Outcome.MANUAL_REVIEW, "")}, {}, {})
    with closing(database.connect()) as connection:
        look_up_conflicts(connection, NO_RUN, input_events(("e1", "p7", "capture"), ("e2", "p8", "fail")), known)
    assert list(known.conflicts) == [("e1", "p7", EventType.CAPTURE)]


def test_replaying_changes_nothing(recorder: Recorder, other: Recorder, sql: Sql) -> None:
    """Another run replays the same events."""
    facts = [("e1", "p1", "capture"), ("e1", "p2", "capture"), ("e2", "p1", "authorize"), ("e3", "p1", "capture")]
    recorder.handle(input_events(*facts))
    before = contents(sql)
    other.handle(input_events(*facts))
    assert contents(sql) == before


@pytest.mark.skipif(IS_FOR_CITUS, reason="the batch has claimed its event_ids before the write")
def test_contested_events_are_decided_again(
    recorder: Recorder, other: Recorder, sql: Sql, background: ThreadPoolExecutor
) -> None:
    """The payment moves, and one of the event_ids appears, between the look-up and the write."""
    other.handle(input_events(("e0", "p1", "authorize")))
    batch = input_events(
        ("e1", "p1", "capture"),
        ("e2", "p1", "refund"),
        ("e1", "p2", "capture"),
        ("e3", "p1", "capture"),
        ("e4", "p5", "authorize"),
    )
    with sql.locked_payment("p1"):
        handling = background.submit(recorder.handle, batch)
        sql.wait_for_blocked()
        with closing(sql.connect()) as connection, connection.cursor() as cursor:
            # The rows of a capture of p2 by another process. Payproc itself would wait for the
            # lock, too.
            cursor.execute("INSERT INTO payproc.payments (payment_id, state, version) VALUES ('p2', 'created', 1)")
            cursor.execute(
                "INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason, state_before,"
                " state_after, source, run_id, line, payload) VALUES ('e1', 'p2', 1, 'capture', 'MANUAL_REVIEW',"
                " 'predecessor_missing', 'created', 'created', 0, 99, 1, '{}')"
            )
    assert reasons(handling.result()) == [
        "event_id_conflict",  # decided as new at first
        "predecessor_missing",  # decided on the contested capture at first
        "duplicate_event",  # decided as a conflict at first
        "transition",
        "transition",
    ]
    assert sql.rows("SELECT event_id, payment_id FROM payproc.event_conflicts") == [("e1", "p1")]
    assert_books_right(sql)


def test_lost_connection_keeps_outcomes(
    recorder: Recorder, other: Recorder, sql: Sql, background: ThreadPoolExecutor
) -> None:
    """A run finds its own events on record, and reports the outcomes that they got."""
    other.handle(input_events(("e0", "slow", "authorize")))
    batch = input_events(
        ("e1", "p1", "authorize"),
        ("e2", "p1", "capture"),
        ("e1", "p1", "authorize"),
        ("e3", "p2", "refund"),
        ("e4", "slow", "capture"),
        ("e5", "p1", "refund"),
        ("e6", "p2", "authorize"),
    )
    with sql.locked_payment("slow"):
        handling = background.submit(recorder.handle, batch)
        backend = sql.wait_for_blocked()
        assert sql.value("SELECT count(*) FROM payproc.events WHERE event_id IN ('e1', 'e2', 'e3')") == 3
        sql.rows("SELECT pg_terminate_backend(%s)", backend)
    assert reasons(handling.result()) == [
        "transition",
        "transition",
        "duplicate_event",
        "predecessor_missing",
        "transition",
        "transition",
        "transition",
    ]
    assert_books_right(sql)


def test_lost_connection_keeps_states(
    recorder: Recorder, other: Recorder, sql: Sql, background: ThreadPoolExecutor
) -> None:
    """The payment has moved on by then, but an earlier duplicate must not show its final state."""
    other.handle(input_events(("e0", "slow", "authorize")))
    batch = input_events(
        ("e1", "p1", "authorize"),
        ("e1", "p1", "authorize"),
        ("e0", "p1", "fail"),
        ("e2", "p1", "capture"),
        ("e4", "slow", "capture"),
        ("e3", "p1", "refund"),
        ("e1", "p1", "authorize"),
        first_line=2,
    )
    with sql.locked_payment("slow"):
        handling = background.submit(recorder.handle, batch)
        sql.rows("SELECT pg_terminate_backend(%s)", sql.wait_for_blocked())
    states = [
        (result.decision.reason.value, result.decision.state_before.value, result.decision.state_after.value)
        for result in handling.result()
        if isinstance(result, EventResult) and result.decision
    ]
    assert states == [
        ("transition", "created", "authorized"),
        ("duplicate_event", "authorized", "authorized"),
        ("event_id_conflict", "authorized", "authorized"),
        ("transition", "authorized", "captured"),
        ("transition", "authorized", "captured"),
        ("transition", "captured", "refunded"),
        ("duplicate_event", "refunded", "refunded"),
    ]


def test_batches_after_a_failed_one_are_refused(recorder: Recorder, sql: Sql, background: ThreadPoolExecutor) -> None:
    """A later batch holds later events of the same payments, which would be decided too early."""
    recorder.handle(input_events(("e0", "p1", "authorize")))
    with sql.locked_payment("p1"):
        first = background.submit(recorder.handle, input_events(("e1", "p1", "capture"), ("e2", "p2", "authorize")))
        second = background.submit(recorder.handle, input_events(("e3", "p2", "capture"), first_line=3))
        sql.rows("SELECT pg_cancel_backend(%s)", sql.wait_for_blocked())
        with pytest.raises(CannotFinish, match="canceling statement due to user request"):
            first.result()
        with pytest.raises(CannotFinish, match="an earlier batch failed"):
            second.result()
    assert sql.rows("SELECT event_id FROM payproc.events") == [("e0",)]


def test_serialization_failure_is_retried(
    database: Database, url: URL, run_id: int, other: Recorder, sql: Sql, background: ThreadPoolExecutor
) -> None:
    """The retry reports the batch as new."""
    other.handle(input_events(("e0", "p1", "authorize")))
    sql.rows(f"ALTER DATABASE \"{url.database}\" SET default_transaction_isolation = 'serializable'")
    with closing(Recorder(database, run_id)) as recorder:
        with closing(sql.connect()) as holder:
            holder.set_session(isolation_level="READ COMMITTED", autocommit=False)
            holder.cursor().execute("UPDATE payproc.payments SET created_at = now() WHERE payment_id = 'p1'")
            batch = input_events(("e1", "p2", "authorize"), ("e2", "p1", "capture"))
            handling = background.submit(recorder.handle, batch)
            sql.wait_for_blocked()
            holder.commit()  # under SERIALIZABLE, the waiting CALL gets 40001
        assert reasons(handling.result()) == ["transition", "transition"]
    assert_books_right(sql)


def test_lost_citus_worker_is_retried(recorder: Recorder, sql: Sql) -> None:
    """A Citus coordinator raises 08006 for a lost worker; here a trigger raises it once."""
    sql.rows("CREATE SEQUENCE tries")
    sql.rows(
        "CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') = 3 THEN"
        " RAISE EXCEPTION 'connection to the remote node w:5432 failed' USING ERRCODE = '08006'; END IF;"
        " RETURN NEW; END $$"
    )
    sql.rows("CREATE TRIGGER fail_once BEFORE INSERT ON payproc.events FOR EACH ROW EXECUTE FUNCTION fail_once()")
    facts = [(f"e{number}", "p1", kind) for number, kind in enumerate(("authorize", "capture", "refund", "refund"))]
    assert reasons(recorder.handle(input_events(*facts))) == ["transition"] * 3 + ["repeated_refund"]
    assert sql.value("SELECT last_value FROM tries") == 5
    assert_books_right(sql)


def test_contradictory_version_ends_the_run(recorder: Recorder, sql: Sql) -> None:
    """Retrying would never end."""
    recorder.handle(input_events(("e1", "p1", "authorize")))
    sql.rows("UPDATE payproc.payments SET version = 0 WHERE payment_id = 'p1'")
    with pytest.raises(CannotFinish, match=r'^payment "p1": its stored version, 0, does not fit its stored history'):
        recorder.handle(input_events(("e2", "p1", "capture")))


def test_history_beyond_its_version_ends_the_run(recorder: Recorder, sql: Sql) -> None:
    """The second key on events refuses the entry."""
    recorder.handle(input_events(("e1", "p1", "authorize"), ("e2", "p1", "capture")))
    sql.rows("UPDATE payproc.payments SET version = 1 WHERE payment_id = 'p1'")
    with pytest.raises(CannotFinish, match=r'"histories_have_one_entry_a_position"; .*; see `payproc verify`$'):
        recorder.handle(input_events(("e3", "p1", "refund")))


def test_dry_run_decides_alike_and_writes_nothing(
    database: Database, recorder: Recorder, other: Recorder, sql: Sql
) -> None:
    """The dry run carries its own decisions from batch to batch."""
    other.handle(input_events(("e1", "p1", "authorize"), ("e9", "p9", "refund")))
    first = input_events(
        ("e2", "p1", "capture"), ("e9", "p9", "refund"), ("e2", "p2", "fail"), ("e3", "p3", "authorize")
    )
    second = input_events(("e3", "p3", "authorize"), ("e4", "p3", "capture"), ("e3", "p1", "capture"), first_line=5)
    before = contents(sql)
    with closing(DryRun(database)) as dry_run:
        tried = dry_run.handle(first) + dry_run.handle(second)
    assert contents(sql) == before
    real = recorder.handle(first) + recorder.handle(second)
    assert reasons(tried) == reasons(real)
    assert [result.decision for result in tried if isinstance(result, EventResult)] == [
        result.decision for result in real if isinstance(result, EventResult)
    ]
