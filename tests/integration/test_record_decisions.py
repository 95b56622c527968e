"""The procedure that writes: records, contested events, and the session it leaves behind."""

import re
from collections.abc import Iterator
from contextlib import closing
from importlib import resources
from typing import Any

import psycopg2.errors
import psycopg2.extensions
import pytest

from payproc.db.connection import Database
from payproc.handlers import Recorder
from tests.support.events import input_events
from tests.support.postgres import IS_FOR_CITUS, Sql, assert_books_right, claim_events, contents, wait_for

SEPARATOR = "\x1f"
COLUMNS = ("source", "line", "event", "payment", "type", "version", "outcome", "reason", "before", "after", "payload")


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg2.extensions.connection]:
    """A connection as the program opens it."""
    with closing(database.connect()) as connection:
        yield connection


@pytest.fixture
def run_id(sql: Sql) -> int:
    """The number of a run on record."""
    return int(sql.value("INSERT INTO payproc.runs (sources) VALUES ('{test}') RETURNING run_id"))


_CALL = """
    CALL payproc.record_decisions(
        {machine}%(run_id)s, %(source)s, %(line)s, %(event)s, %(payment)s, %(kind)s, %(type)s, %(version)s, %(outcome)s,
        %(reason)s, %(before)s, %(after)s, %(payload)s, NULL
    )
""".replace("{machine}", "'p1', " if IS_FOR_CITUS else "")


def record(connection: psycopg2.extensions.connection, run_id: int, *decisions: dict[str, object]) -> str:
    """Call the procedure with decisions, right or wrong.

    Return the numbers of the contested ones.
    """
    defaults = {"source": 0, "payload": "{}", "outcome": "APPLY", "reason": "transition"}
    rows = [{**defaults, "line": number, **decision} for number, decision in enumerate(decisions, 1)]
    columns = {name: SEPARATOR.join(str(row[name]) for row in rows) for name in COLUMNS}
    numbers = range(1, len(rows) + 1)  # each decision is a kind of its own, even if two are alike
    with connection.cursor() as cursor:
        cursor.execute(_CALL, {**columns, "run_id": run_id, "kind": SEPARATOR.join(map(str, numbers))})
        ((contested,),) = cursor.fetchall()
    return str(contested)


def decision(event: str, payment: str, version: int, event_type: str, before: str, after: str) -> dict[str, object]:
    """Return a decision to apply an event."""
    fact = {"event": event, "payment": payment, "type": event_type}
    return {**fact, "version": version, "before": before, "after": after}


def authorize(event: str, payment: str, version: int = 0) -> dict[str, object]:
    """Return the decision to apply an authorize."""
    return decision(event, payment, version, "authorize", "created", "authorized")


def capture(event: str, payment: str, version: int = 1) -> dict[str, object]:
    """Return the decision to apply a capture."""
    return decision(event, payment, version, "capture", "authorized", "captured")


def conflict(event: str, payment: str, event_type: str) -> dict[str, object]:
    """Return the decision to reject a conflict."""
    rejected = {"outcome": "REJECT", "reason": "event_id_conflict"}
    return decision(event, payment, 0, event_type, "created", "created") | rejected


def redelivery(event: str, payment: str, event_type: str, payload: str) -> dict[str, object]:
    """Return the decision to ignore a duplicate with other content."""
    ignored = {"outcome": "IGNORE", "reason": "duplicate_event", "payload": payload}
    return decision(event, payment, 0, event_type, "created", "created") | ignored


def test_payment_and_history_move_together(connection: psycopg2.extensions.connection, run_id: int, sql: Sql) -> None:
    """Versions count the entries."""
    assert record(connection, run_id, authorize("e1", "p1"), authorize("e2", "p2"), capture("e3", "p1")) == ""
    assert sql.rows("SELECT payment_id, state, version FROM payproc.payments ORDER BY 1") == [
        ("p1", "captured", 2),
        ("p2", "authorized", 1),
    ]
    assert_books_right(sql)


def test_each_event_is_one_transaction(connection: psycopg2.extensions.connection, run_id: int, sql: Sql) -> None:
    """The transaction is shared with the event's payment only."""
    record(connection, run_id, *[authorize(f"e{number}", f"p{number}") for number in range(50)])
    transactions = sql.rows(
        "SELECT events.xmin::text, payments.xmin::text FROM payproc.events JOIN payproc.payments USING (payment_id)"
    )
    assert len({event for event, _ in transactions}) == 50
    assert all(event == payment for event, payment in transactions)


@pytest.mark.parametrize(
    "stale",
    [capture("e2", "p1", version=7), {**capture("e2", "p1"), "before": "captured"}],
    ids=["another version", "another state"],
)
def test_stale_decision_is_contested(
    connection: psycopg2.extensions.connection, run_id: int, sql: Sql, stale: dict[str, object]
) -> None:
    """Nothing of it is written."""
    record(connection, run_id, authorize("e1", "p1"))
    before = contents(sql)
    assert record(connection, run_id, stale) == "1"
    assert contents(sql) == before


@pytest.mark.parametrize(
    ("late", "key"),
    [
        (capture("e1", "p1"), "events_are_recorded_once"),
        pytest.param(
            authorize("e1", "p2"),
            "events_are_recorded_once",
            marks=pytest.mark.skipif(IS_FOR_CITUS, reason="a claim prevents this call"),
        ),
        (authorize("e3", "p1"), "payments_have_one_state"),
    ],
    ids=["event_id on record", "event_id on record for another payment", "payment opened by another process"],
)
def test_call_ends_where_another_was_first(
    connection: psycopg2.extensions.connection, run_id: int, sql: Sql, late: dict[str, object], key: str
) -> None:
    """Events before the late one stay recorded; nothing of it and of later ones is written."""
    record(connection, run_id, authorize("e1", "p1"))
    with pytest.raises(psycopg2.errors.UniqueViolation) as caught:
        record(connection, run_id, authorize("e2", "p3"), late, authorize("e4", "p4"))
    assert caught.value.diag.constraint_name == key
    assert sql.rows("SELECT event_id FROM payproc.events ORDER BY 1") == [("e1",), ("e2",)]
    assert sql.rows("SELECT payment_id, state, version FROM payproc.payments ORDER BY 1") == [
        ("p1", "authorized", 1),
        ("p3", "authorized", 1),
    ]


def test_events_after_a_contested_one_are_contested(
    connection: psycopg2.extensions.connection, run_id: int, sql: Sql
) -> None:
    """They were decided on its outcome, so they are contested even where the version fits."""
    record(connection, run_id, authorize("e1", "p1"))
    contested = record(
        connection, run_id, capture("e2", "p1", version=5), authorize("e3", "p2"), capture("e4", "p1", version=1)
    )
    assert contested == "1,3"
    assert sql.rows("SELECT event_id FROM payproc.events ORDER BY 1") == [("e1",), ("e3",)]


def test_conflict_is_kept_once(connection: psycopg2.extensions.connection, run_id: int, sql: Sql) -> None:
    """It touches no payment."""
    record(connection, run_id, authorize("e1", "p1"))
    claim_events(sql)
    for _ in range(2):
        assert record(connection, run_id, conflict("e1", "p2", "authorize"), conflict("e1", "p1", "fail")) == ""
    assert sql.rows("SELECT event_id, payment_id, type FROM payproc.event_conflicts ORDER BY payment_id") == [
        ("e1", "p1", "fail"),
        ("e1", "p2", "authorize"),
    ]
    assert sql.rows("SELECT payment_id, version FROM payproc.payments") == [("p1", 1)]


def test_conflict_with_no_record_is_not_kept(connection: psycopg2.extensions.connection, run_id: int, sql: Sql) -> None:
    """The event_id is unknown, or is on record with the same content."""
    record(connection, run_id, authorize("e1", "p1"))
    record(connection, run_id, conflict("e1", "p1", "authorize"), conflict("e2", "p1", "authorize"))
    assert sql.rows("SELECT * FROM payproc.event_conflicts") == []


def test_redelivery_is_kept_once(connection: psycopg2.extensions.connection, run_id: int, sql: Sql) -> None:
    """Once for each text, and it touches no payment."""
    record(connection, run_id, authorize("e1", "p1"))
    claim_events(sql)
    texts = ['{"x":1}', '{"x":2}', '{"x": 1}']
    for _ in range(2):
        assert record(connection, run_id, *[redelivery("e1", "p1", "authorize", text) for text in texts]) == ""
    found = "SELECT event_id, line, payload::text, digest = sha256(payload::text::bytea) FROM payproc.redeliveries"
    assert sql.rows(f"{found} ORDER BY line") == [("e1", line, text, True) for line, text in enumerate(texts, 1)]
    assert sql.rows("SELECT payment_id, version FROM payproc.payments") == [("p1", 1)]


def test_redelivery_of_no_record_is_not_kept(connection: psycopg2.extensions.connection, run_id: int, sql: Sql) -> None:
    """The event_id is unknown, or is on record for something else."""
    record(connection, run_id, authorize("e1", "p1"))
    facts = [("e2", "p1", "authorize"), ("e1", "p2", "authorize"), ("e1", "p1", "capture")]
    assert record(connection, run_id, *[redelivery(*fact, '{"x":1}') for fact in facts]) == ""
    assert sql.rows("SELECT * FROM payproc.redeliveries") == []


def test_redelivery_of_a_contested_event_is_not_kept(
    connection: psycopg2.extensions.connection, run_id: int, sql: Sql
) -> None:
    """It was compared with the contested line, and may equal what another process recorded."""
    record(connection, run_id, authorize("e1", "p1"))
    claim_events(sql)
    contested = {**authorize("e1", "p1", version=7), "payload": '{"attempt":2}'}
    assert record(connection, run_id, contested, redelivery("e1", "p1", "authorize", "{}")) == "1"
    assert sql.rows("SELECT * FROM payproc.redeliveries") == []


def test_commits_inside_the_batch_are_asynchronous(
    connection: psycopg2.extensions.connection, run_id: int, sql: Sql
) -> None:
    sql.rows("CREATE TABLE seen (setting text)")
    sql.rows(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$"
    )
    sql.rows("CREATE TRIGGER see AFTER INSERT ON payproc.events FOR EACH ROW EXECUTE FUNCTION see()")
    record(connection, run_id, authorize("e1", "p1"), authorize("e2", "p2"), capture("e3", "p2"))
    assert sql.rows("SELECT setting FROM seen") == [("off",)] * 3


def test_session_settings_are_left_unchanged(connection: psycopg2.extensions.connection, run_id: int) -> None:
    """A pooled session goes to another client next."""

    def settings() -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT name, setting FROM pg_settings WHERE name NOT LIKE 'plpgsql%' ORDER BY name")
            return cursor.fetchall()

    before = settings()
    record(connection, run_id, authorize("e1", "p1"), capture("e2", "p1", version=9))
    assert settings() == before


def test_closing_commit_flushes_without_new_events(database: Database, run_id: int, sql: Sql) -> None:
    """A duplicate may repeat an event that is visible and not yet durable."""
    with closing(Recorder(database, run_id)) as recorder:
        recorder.handle(input_events(("e1", "p1", "authorize")))
        before = sql.value("SELECT pg_current_wal_flush_lsn()")
        recorder.handle(input_events(("e1", "p1", "authorize"), first_line=2))
        assert sql.value("SELECT pg_current_wal_flush_lsn() > %s::pg_lsn", before)


def test_growing_table_is_not_scanned_per_event(database: Database, run_id: int, sql: Sql) -> None:
    """Plans made for a table of one page would read 18 million rows here."""
    of_payments = "FROM pg_stat_user_tables WHERE relid = 'payproc.payments'::regclass"

    def record_payments(connection: psycopg2.extensions.connection, first: int, last: int) -> None:
        decisions = [kind(f"{kind.__name__} {n}", f"p{n}") for n in range(first, last) for kind in (authorize, capture)]
        assert record(connection, run_id, *decisions) == ""

    with closing(database.connect()) as connection:
        record_payments(connection, 0, 50)
    sql.rows("ANALYZE payproc.payments, payproc.events")
    with closing(database.connect()) as connection:
        for first in range(50, 6_000, 350):
            record_payments(connection, first, first + 350)
    wait_for(lambda: sql.value(f"SELECT n_tup_ins {of_payments}") == 6_000)
    assert sql.value(f"SELECT seq_tup_read {of_payments}") < 1_000_000


def test_procedure_avoids_what_citus_lacks() -> None:
    """Each assertion names the limit, or the statement to use instead."""
    source = resources.files("payproc.db").joinpath("record_decisions.sql").read_text("utf-8")
    assert source.isascii(), "a database in another encoding must be able to hold it"
    code = "\n".join(line.partition("--")[0] for line in source.splitlines())
    header, body = code.split("$procedure$")[0], code.split("$procedure$")[1]
    assert not re.search(r"\bFOUND\b", body), "RETURNING … INTO instead of FOUND"
    writes = re.findall(r"(?:INSERT INTO|UPDATE)[^;]*;", body)
    assert len(writes) == 5
    assert not re.search(r"\[[^\]]+\]", "".join(writes)), "no array subscripts in INSERT and UPDATE"
    assert "now()" not in "".join(writes), "a variable: Citus takes no now() inside CASE"
    assert not re.search(r"\w\[[^\]]+\][ \t]*:=", body), "no assignment to array elements"
    assert not re.search(r"INSERT INTO[^;]*\bSELECT\b", body), "VALUES: Citus then knows the machine at once"
    assert "SECURITY DEFINER" not in header, "COMMIT needs SECURITY INVOKER"
    assert not re.search(r"^SET\b", header, re.MULTILINE), "COMMIT needs a procedure without a SET clause"
    tables = "payments|events|runs|event_conflicts|redeliveries"
    columns = set(
        re.findall(r"\b(?:event_id|payment_id|state|version|outcome|reason|payload|line|source|type)\b", body)
    )
    variables = set(
        re.findall(r"^\s+(\w+) (?:CONSTANT )?(?:text|bigint|integer|json|payproc\.\w+)", body, re.MULTILINE)
    )
    assert variables
    assert not variables & (columns | set(tables.split("|"))), "variables are named unlike columns"
