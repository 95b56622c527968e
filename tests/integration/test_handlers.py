"""One batch against a real database: what comes out, what is written, and what happens when something gets in the way.

Whoever gets in the way here does so at a known moment: it holds a payment's row, and acts once the CALL waits for it.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import URL

from payproc.batch import EventResult, Result
from payproc.db import schema
from payproc.db.connection import Database
from payproc.embedded.server import EmbeddedServer, running_server
from payproc.errors import CannotFinish
from payproc.handlers import DryRun, Recorder
from payproc.schemas import Malformed
from payproc.verify import Problem, VerifySummary, verify
from tests.support.events import input_events
from tests.support.postgres import IS_FOR_CITUS, NewDatabase, Sql, as_database, assert_books_right, contents, wait_for


@pytest.fixture
def run_id(sql: Sql) -> int:
    return int(sql.value("INSERT INTO payproc.runs (sources) VALUES ('{test}') RETURNING run_id"))


@pytest.fixture
def recorder(database: Database, run_id: int) -> Iterator[Recorder]:
    with closing(Recorder(database, run_id)) as recorder:
        yield recorder


@pytest.fixture
def other(database: Database, sql: Sql) -> Iterator[Recorder]:
    """Another process's run, as far as the database can tell."""
    other_run = sql.value("INSERT INTO payproc.runs (sources) VALUES ('{other}') RETURNING run_id")
    with closing(Recorder(database, other_run)) as recorder:
        yield recorder


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def reasons(results: list[Result]) -> list[str]:
    return [result.decision.reason.value if isinstance(result, EventResult) else result.error for result in results]


def test_a_batch_is_decided_in_order_each_event_on_the_ones_before_it(recorder: Recorder, sql: Sql) -> None:
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


def test_a_duplicate_names_the_first_outcome_and_a_conflict_what_is_on_record(recorder: Recorder) -> None:
    recorder.handle(input_events(("e1", "p1", "capture")))
    duplicate, conflict = recorder.handle(input_events(("e1", "p1", "capture"), ("e1", "p2", "fail"), first_line=2))
    assert isinstance(duplicate, EventResult)
    assert duplicate.recorded is not None
    assert duplicate.recorded.outcome.value == "MANUAL_REVIEW"
    assert isinstance(conflict, EventResult)
    assert conflict.recorded is not None
    assert (conflict.recorded.payment_id, conflict.recorded.type.value) == ("p1", "capture")


def test_replaying_changes_nothing(recorder: Recorder, other: Recorder, sql: Sql) -> None:
    facts = [("e1", "p1", "capture"), ("e1", "p2", "capture"), ("e2", "p1", "authorize"), ("e3", "p1", "capture")]
    recorder.handle(input_events(*facts))
    before = contents(sql)
    other.handle(input_events(*facts))
    assert contents(sql) == before


def test_what_another_process_recorded_meanwhile_is_looked_at_again(
    recorder: Recorder, other: Recorder, sql: Sql, background: ThreadPoolExecutor
) -> None:
    """The payment moves, and one of the event_ids turns up, between the look and the write."""
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
        sql.wait_for_blocked_call()
        with closing(sql.connect()) as connection, connection.cursor() as cursor:
            # Not through payproc, which would wait for the lock too: what a capture of p2 by another process leaves.
            cursor.execute("INSERT INTO payproc.payments (payment_id, state, version) VALUES ('p2', 'created', 1)")
            cursor.execute(
                "INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason, state_before,"
                " state_after, source, run_id, line, payload) VALUES ('e1', 'p2', 1, 'capture', 'MANUAL_REVIEW',"
                " 'predecessor_missing', 'created', 'created', 0, 99, 1, '{}')"
            )
    assert reasons(handling.result()) == [
        "event_id_conflict",  # judged as new at first
        "predecessor_missing",  # judged on the capture that never came to be
        "duplicate_event",  # judged as a conflict at first
        "transition",
        "transition",
    ]
    assert sql.rows("SELECT event_id, payment_id FROM payproc.event_conflicts") == [("e1", "p1")]
    assert_books_right(sql)


def test_after_its_connection_is_lost_a_run_reports_its_own_events_with_the_outcome_they_got(
    recorder: Recorder, other: Recorder, sql: Sql, background: ThreadPoolExecutor
) -> None:
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
        backend = sql.wait_for_blocked_call()
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


def test_after_its_connection_is_lost_lines_are_reported_with_the_states_that_they_saw(
    recorder: Recorder, other: Recorder, sql: Sql, background: ThreadPoolExecutor
) -> None:
    """The payment has moved on by then; a duplicate between its events must not show where it ended."""
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
        sql.rows("SELECT pg_terminate_backend(%s)", sql.wait_for_blocked_call())
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


def test_after_a_batch_that_failed_no_later_one_is_recorded(
    recorder: Recorder, sql: Sql, background: ThreadPoolExecutor
) -> None:
    """It holds later events of the same payments: recorded first, they would be decided without the ones before."""
    recorder.handle(input_events(("e0", "p1", "authorize")))
    with sql.locked_payment("p1"):
        first = background.submit(recorder.handle, input_events(("e1", "p1", "capture"), ("e2", "p2", "authorize")))
        second = background.submit(recorder.handle, input_events(("e3", "p2", "capture"), first_line=3))
        sql.rows("SELECT pg_cancel_backend(%s)", sql.wait_for_blocked_call())
        with pytest.raises(CannotFinish, match="canceling statement due to user request"):
            first.result()
        with pytest.raises(CannotFinish, match="an earlier batch was not recorded"):
            second.result()
    assert sql.rows("SELECT event_id FROM payproc.events") == [("e0",)]


def test_a_serialization_failure_is_tried_again(
    database: Database, url: URL, run_id: int, other: Recorder, sql: Sql, background: ThreadPoolExecutor
) -> None:
    other.handle(input_events(("e0", "p1", "authorize")))
    sql.rows(f"ALTER DATABASE \"{url.database}\" SET default_transaction_isolation = 'serializable'")
    with closing(Recorder(database, run_id)) as recorder:
        with closing(sql.connect()) as holder:
            holder.set_session(isolation_level="READ COMMITTED", autocommit=False)
            holder.cursor().execute("UPDATE payproc.payments SET created_at = now() WHERE payment_id = 'p1'")
            batch = input_events(("e1", "p2", "authorize"), ("e2", "p1", "capture"))
            handling = background.submit(recorder.handle, batch)
            sql.wait_for_blocked_call()
            holder.commit()  # whoever waited for this row under SERIALIZABLE gets 40001
        assert reasons(handling.result()) == ["transition", "transition"]
    assert_books_right(sql)


def test_a_machine_behind_the_server_that_is_gone_for_a_moment_is_tried_again(recorder: Recorder, sql: Sql) -> None:
    """What a Citus coordinator says then; here a trigger says it, once."""
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


def test_what_the_database_refuses_to_store_takes_no_good_neighbour_with_it(recorder: Recorder, sql: Sql) -> None:
    sql.rows(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.event_id LIKE 'bad%' THEN"
        " RAISE EXCEPTION 'no room for this' USING ERRCODE = '22000'; END IF; RETURN NEW; END $$"
    )
    sql.rows("CREATE TRIGGER refuse BEFORE INSERT ON payproc.events FOR EACH ROW EXECUTE FUNCTION refuse()")
    facts = [(f"e{number}", f"p{number % 3}", "authorize") for number in range(20)]
    facts[7] = ("bad", "p1", "authorize")
    facts[13] = ("bad too", "p9", "authorize")
    results = recorder.handle(input_events(*facts))
    refused = [place for place, result in enumerate(results) if isinstance(result, Malformed)]
    assert refused == [7, 13]
    assert results[7] == Malformed("the database cannot store it: no room for this")
    assert sql.value("SELECT count(*) FROM payproc.events") == 18
    assert_books_right(sql)


def test_a_character_that_the_database_cannot_hold_makes_one_line_malformed(new_database: NewDatabase) -> None:
    database = as_database(new_database("template0", "LATIN1"), "a Latin-1 database")
    schema.bring_up(database)
    with closing(Recorder(database, 1)) as recorder:
        results = recorder.handle(
            input_events(("é1", "p1", "authorize"), ("→2", "p2", "authorize"), ("é3", "p1", "capture"))
        )
    assert reasons(results[::2]) == ["transition", "transition"]
    assert isinstance(results[1], Malformed)
    assert results[1].error.startswith("the database cannot store it: character with byte sequence 0xe2 0x86 0x92")


def test_nothing_is_reported_as_recorded_where_a_database_gives_an_id_back_unlike_what_was_sent(
    new_database: NewDatabase,
) -> None:
    """In EUC_JP a broken bar comes back as a full-width one."""
    database = as_database(new_database("template0", "EUC_JP"), "an EUC_JP database")
    schema.bring_up(database)
    with closing(Recorder(database, 1)) as recorder:
        assert reasons(recorder.handle(input_events(("e\u00a6", "p1", "authorize")))) == ["transition"]
        with pytest.raises(CannotFinish, match="does not fit its stored history"):
            recorder.handle(input_events(("e\u00a6", "p2", "fail"), first_line=2))


def test_books_that_contradict_themselves_end_the_run_instead_of_trying_for_ever(recorder: Recorder, sql: Sql) -> None:
    recorder.handle(input_events(("e1", "p1", "authorize")))
    sql.rows("UPDATE payproc.payments SET version = 0 WHERE payment_id = 'p1'")
    with pytest.raises(CannotFinish, match=r'^payment "p1": its stored version, 0, does not fit its stored history'):
        recorder.handle(input_events(("e2", "p1", "capture")))


def test_a_history_that_is_longer_than_its_payments_version_ends_the_run_with_where_to_look(
    database: Database, recorder: Recorder, sql: Sql
) -> None:
    """Which the second key on events sees to. For Citus there is none, and it is for `verify` to find."""
    recorder.handle(input_events(("e1", "p1", "authorize"), ("e2", "p1", "capture")))
    sql.rows("UPDATE payproc.payments SET version = 1 WHERE payment_id = 'p1'")
    if IS_FOR_CITUS:
        recorder.handle(input_events(("e3", "p1", "refund")))
        found = [(finding.problem, finding.position, finding.expected) for finding in verify(database, VerifySummary())]
        assert found == [(Problem.GAP, 2, "3")]
        return
    with pytest.raises(CannotFinish, match=r'"histories_have_one_entry_a_position"; .*; see `payproc verify`$'):
        recorder.handle(input_events(("e3", "p1", "refund")))


def test_a_rehearsal_gives_the_same_answers_and_writes_nothing(
    database: Database, recorder: Recorder, other: Recorder, sql: Sql
) -> None:
    other.handle(input_events(("e1", "p1", "authorize"), ("e9", "p9", "refund")))
    first = input_events(
        ("e2", "p1", "capture"), ("e9", "p9", "refund"), ("e2", "p2", "fail"), ("e3", "p3", "authorize")
    )
    second = input_events(("e3", "p3", "authorize"), ("e4", "p3", "capture"), ("e3", "p1", "capture"), first_line=5)
    before = contents(sql)
    with closing(DryRun(database)) as rehearsal:
        rehearsed = rehearsal.handle(first) + rehearsal.handle(second)
    assert contents(sql) == before
    real = recorder.handle(first) + recorder.handle(second)
    assert reasons(rehearsed) == reasons(real)
    assert [result.decision for result in rehearsed if isinstance(result, EventResult)] == [
        result.decision for result in real if isinstance(result, EventResult)
    ]


# ---- Durability: a server of the test's own, stopped as a power cut would stop it ------------------


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="payproc-tests-"))
    yield folder
    shutil.rmtree(folder)


def pull_the_plug(running: EmbeddedServer) -> None:
    """Stop the server at once; what is not on disk is gone."""
    pid = int((running.home / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)


def open_server(running: EmbeddedServer) -> Database:
    return Database(running.connect_args, "the test server")


def start_and_never_flush_by_itself(home: Path) -> None:
    """Prepare a server whose background writer leaves asynchronous commits in memory for as long as it may (10 s)."""
    with running_server(home) as running:
        schema.bring_up(open_server(running))
    with (home / "data" / "postgresql.conf").open("a") as config:
        config.write("wal_writer_delay = 10s\nwal_writer_flush_after = 1GB\n")


@pytest.mark.parametrize("is_duplicate", [False, True], ids=["fresh", "duplicate of an event not yet durable"])
def test_what_is_reported_survives_a_power_cut(home: Path, is_duplicate: bool) -> None:
    start_and_never_flush_by_itself(home)
    batch = input_events(("e1", "p1", "authorize"))
    with running_server(home) as running:
        database = open_server(running)
        with closing(database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO payproc.runs (sources) VALUES ('{a}'), ('{b}')")
            if is_duplicate:  # somebody's event is there for all to see, but only in the server's memory
                cursor.execute("SET synchronous_commit = off")
                cursor.execute(
                    "INSERT INTO payproc.payments (payment_id, state, version) VALUES ('p1', 'authorized', 1)"
                )
                cursor.execute(
                    "INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason, state_before,"
                    " state_after, source, run_id, line, payload) VALUES ('e1', 'p1', 1, 'authorize', 'APPLY',"
                    " 'transition', 'created', 'authorized', 0, 2, 1, '{}')"
                )
        with closing(Recorder(database, 1)) as recorder:
            assert reasons(recorder.handle(batch)) == ["duplicate_event" if is_duplicate else "transition"]
            pull_the_plug(running)
        wait_for(lambda: not (home / "data" / "postmaster.pid").exists())
    with running_server(home) as running, open_server(running).transaction() as after:
        after.execute("SELECT event_id, version FROM payproc.events JOIN payproc.payments USING (payment_id)")
        assert after.fetchall() == [("e1", 1)]


def test_a_server_that_restarts_in_mid_batch_loses_nothing_that_is_reported(
    home: Path, background: ThreadPoolExecutor
) -> None:
    start_and_never_flush_by_itself(home)
    handling: Future[list[Result]]
    with running_server(home) as running:
        database = open_server(running)
        with closing(database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO payproc.runs (sources) VALUES ('{a}')")
        recorder = Recorder(database, 1)
        recorder.handle(input_events(("e0", "slow", "authorize")))
        batch = input_events(
            ("e1", "p1", "authorize"), ("e2", "slow", "capture"), ("e3", "p1", "capture"), first_line=2
        )
        with closing(database.connect()) as holder:
            holder.autocommit = False
            holder.cursor().execute("SELECT 1 FROM payproc.payments WHERE payment_id = 'slow' FOR UPDATE")
            handling = background.submit(recorder.handle, batch)
            with closing(database.connect()) as watcher, watcher.cursor() as cursor:

                def is_blocked() -> bool:
                    cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
                    return cursor.fetchall() == [(1,)]

                wait_for(is_blocked)
                cursor.execute("SELECT count(*) FROM payproc.events")
                assert cursor.fetchall() == [(2,)]  # e1 is committed, in memory only
            pull_the_plug(running)
        wait_for(lambda: not (home / "data" / "postmaster.pid").exists())
    with running_server(home):
        assert reasons(handling.result()) == ["transition", "transition", "transition"]
        recorder.close()
        with database.transaction() as after:
            after.execute("SELECT event_id FROM payproc.events ORDER BY 1")
            found = after.fetchall()
    assert found == [("e0",), ("e1",), ("e2",), ("e3",)]
