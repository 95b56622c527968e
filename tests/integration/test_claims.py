"""Claims of event_ids, on the tables for Citus: an event_id belongs to one payment and type.

Here a claim is left by a run that ended before it recorded the event, or is made between two steps
of a batch. Processes at once are in tests/faults, on a real cluster.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import URL

from payproc.db.connection import Database
from payproc.handlers import DryRun, Recorder
from payproc.lookup import NO_RUN
from payproc.machines import Machines
from tests.support.events import input_events, reasons
from tests.support.postgres import NewDatabase, Sql, as_database, create_schema, wait_for

CLAIMS = "SELECT event_id, payment_id, type::text FROM payproc.event_ids ORDER BY 1"

EVENTS = "SELECT event_id, payment_id, type::text FROM payproc.events ORDER BY 1"

CONFLICTS = "SELECT event_id, payment_id, type::text FROM payproc.event_conflicts ORDER BY 1, 2, 3"

FIRST = ("e1", "p1", "authorize")

INTRUDER = ("e1", "p2", "authorize")

WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%claim_event_ids%'
"""

Recording = Callable[..., list[str]]


@pytest.fixture
def url(new_database: NewDatabase) -> URL:
    """Create the tables for Citus, on one server."""
    url = new_database("template0", "UTF8")
    with as_database(url, "the test database").transaction() as cursor:
        create_schema(cursor, for_citus=True)
    return url


@pytest.fixture
def record(database: Database) -> Iterator[Recording]:
    """Records facts and returns the reasons of the decisions."""
    with closing(Recorder(database, 1)) as recorder:
        yield lambda *facts: reasons(recorder.handle(input_events(*facts)))


def leave_claim(sql: Sql, *fact: str) -> None:
    """Claim an event_id as a run does that ends before it records the event."""
    claim = "SELECT * FROM payproc.claim_event_ids(%s, true, %s, %s, %s)"
    assert sql.rows(claim, fact[0], *fact) == []


def test_every_event_has_its_claim(record: Recording, sql: Sql) -> None:
    facts = [FIRST, INTRUDER, ("e2", "p2", "capture"), FIRST, ("e1", "p1", "capture")]
    assert record(*facts) == [
        "transition",
        "event_id_conflict",
        "predecessor_missing",
        "duplicate_event",
        "event_id_conflict",
    ]
    assert sql.rows(CLAIMS) == sql.rows(EVENTS) == [FIRST, ("e2", "p2", "capture")]
    assert sql.rows(CONFLICTS) == [("e1", "p1", "capture"), INTRUDER]
    assert record(*facts[:2], facts[3]) == ["duplicate_event", "event_id_conflict", "duplicate_event"]
    assert sql.value("SELECT count(*) FROM payproc.redeliveries") == 0, "a duplicate is unlike the event on record"


def test_claim_of_a_dead_run_serves_the_rerun(record: Recording, sql: Sql) -> None:
    leave_claim(sql, *FIRST)
    assert record(FIRST) == ["transition"]
    assert sql.rows(CLAIMS) == sql.rows(EVENTS) == [FIRST]


@pytest.mark.parametrize("other", [INTRUDER, ("e1", "p1", "capture")], ids=["payment", "type"])
def test_claim_of_a_dead_run_keeps_others_out(record: Recording, sql: Sql, other: tuple[str, str, str]) -> None:
    """The rerun of the dead run records the event, and the conflict stays beside it."""
    leave_claim(sql, *FIRST)
    assert record(other) == ["event_id_conflict"]
    assert sql.rows(EVENTS) == []
    assert record(other) == ["event_id_conflict"]
    assert record(FIRST) == ["transition"]
    assert sql.rows(CLAIMS) == sql.rows(EVENTS) == [FIRST]
    assert sql.rows(CONFLICTS) == [other]


@pytest.mark.parametrize("batch", [(FIRST, INTRUDER), (INTRUDER, FIRST)], ids=["first", "last"])
def test_claim_of_a_dead_run_beside_a_conflict(record: Recording, sql: Sql, batch: tuple[tuple[str, str, str]]) -> None:
    """The conflict in the batch does not pass the claim off as the event on record."""
    leave_claim(sql, *FIRST)
    assert dict(zip(batch, record(*batch), strict=True)) == {FIRST: "transition", INTRUDER: "event_id_conflict"}
    assert sql.rows(CLAIMS) == sql.rows(EVENTS) == [FIRST]


def test_claim_made_by_another_meanwhile_counts(record: Recording, sql: Sql) -> None:
    """The batch has seen no claim, and waits on its insert for the other one's commit."""
    with closing(sql.connect()) as other, ThreadPoolExecutor(1) as pool:
        other.autocommit = False
        with other.cursor() as cursor:
            cursor.execute("INSERT INTO payproc.event_ids VALUES ('e1', 'p1', 'authorize')")
            recording = pool.submit(record, INTRUDER, ("e2", "p2", "authorize"))
            wait_for(lambda: sql.value(WAITING))
            other.commit()
        assert recording.result() == ["event_id_conflict", "transition"]
    assert sql.rows(CLAIMS) == [FIRST, ("e2", "p2", "authorize")]


def test_dry_run_claims_nothing(database: Database, sql: Sql) -> None:
    leave_claim(sql, *FIRST)
    with closing(DryRun(database)) as dry_run:
        results = dry_run.handle(input_events(INTRUDER, ("e2", "p2", "authorize")))
    assert reasons(results) == ["event_id_conflict", "transition"]
    assert sql.rows(CLAIMS) == [FIRST]


def test_claims_wait_for_the_disk(database: Database, sql: Sql) -> None:
    """Also where the role or the database does not ask for it."""
    sql.rows(f'ALTER DATABASE "{sql.url.database}" SET synchronous_commit = off')
    with closing(database.connect()) as connection:
        before = sql.value("SELECT pg_current_wal_insert_lsn()")
        events = [each.event for each in input_events(FIRST)]
        Machines(database, claims=True).look_up(connection, NO_RUN, events)
        assert sql.value("SELECT pg_current_wal_flush_lsn() > %s::pg_lsn", before)


def test_own_events_are_known_beside_a_slow_clock(
    database: Database, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator's clock, which times the run, is ahead of that of the machine."""
    ahead = datetime.now(timezone.utc) + timedelta(seconds=30)
    monkeypatch.setattr(Recorder, "_now", lambda _: ahead)
    with closing(Recorder(database, 1)) as recorder, ThreadPoolExecutor(1) as pool:
        recorder.handle(input_events(("e0", "slow", "authorize")))
        with sql.locked_payment("slow"):
            batch = input_events(FIRST, ("e2", "slow", "capture"), first_line=2)
            recording = pool.submit(recorder.handle, batch)
            wait_for(lambda: sql.rows("SELECT 1 FROM payproc.events WHERE event_id = 'e1'"))
            sql.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'CALL payproc.record_decisions%'"
            )
        assert reasons(recording.result()) == ["transition", "transition"]
