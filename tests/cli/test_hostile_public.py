"""Commands on a database whose `public` shadows the functions and operators of the catalog.

Each command runs as the owner of payproc's schema and calls no shadow. If a test fails with "a
shadow was called", write the catalog's own with its schema: `pg_catalog.array_to_string(…)`,
`OPERATOR(pg_catalog.=)` where an index must match, `array_append(…)` in place of `||`; or cast an
enum to text before it is compared.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import URL

from payproc import history, listing, review
from payproc.cli.main import app
from payproc.db.connection import Database
from payproc.export import count_lines
from payproc.logic import Outcome, State
from payproc.verify import count_entries
from tests.support.in_process import InProcess
from tests.support.old_schemas import load_version
from tests.support.postgres import IS_FOR_CITUS, NewDatabase, Server, Sql, SqlOn, claim_events
from tests.support.shadows import SHADOW_CALLED, plant_shadows

SAMPLES = Path(__file__).parents[2] / "sample_events"
DAY = [SAMPLES / f"{name}.jsonl" for name in ("reused_ids", "contradictions", "refund_race", "redeliveries")]
"""Lines with every outcome, duplicates and conflicts."""

HISTORY = """
    INSERT INTO payproc.runs (sources, lines, finished_at) VALUES ('{day.jsonl}', 6, now());
    INSERT INTO payproc.payments (payment_id, state, version) VALUES
        ('p1', 'authorized', 1), ('p2', 'created', 1), ('p3', 'created', 1), ('p4', 'refunded', 3);
    INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason, state_before, state_after,
                                source, run_id, line, payload)
    SELECT event_id, payment_id, 1, type, outcome, reason, before, after, 0, 1, place,
           pg_catalog.json_build_object('event_id', event_id, 'payment_id', payment_id, 'type', type)
    FROM (VALUES
        ('e1', 'p1', 'authorize'::payproc.event_type, 'APPLY'::payproc.outcome, 'transition'::payproc.reason,
         'created'::payproc.state, 'authorized'::payproc.state, 1),
        ('e2', 'p2', 'capture', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 2),
        ('e3', 'p3', 'refund', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 3),
        ('e4', 'p4', 'capture', 'MANUAL_REVIEW', 'predecessor_missing', 'created', 'created', 4)
    ) AS event (event_id, payment_id, type, outcome, reason, before, after, place);
    INSERT INTO payproc.resolutions (event_id, payment_id, position, resolution, state_before, state_after, note,
                                     resolved_by)
    VALUES ('e4', 'p4', 2, 'dismiss', 'created', 'created', 'a note', 'alice');
    INSERT INTO payproc.corrections (payment_id, position, state_before, state_after, note, corrected_by)
    VALUES ('p4', 3, 'created', 'refunded', 'a note', 'alice');
    INSERT INTO payproc.event_conflicts (event_id, payment_id, type, source, run_id, line, payload)
    VALUES ('e1', 'p2', 'fail', 0, 1, 5, '{"event_id": "e1", "payment_id": "p2", "type": "fail"}');
    INSERT INTO payproc.redeliveries (event_id, digest, source, run_id, line, payload)
    VALUES ('e1', 'd', 0, 1, 6, '{"event_id": "e1", "payment_id": "p1", "type": "authorize", "attempt": 2}');
"""
"""Three events that need review, one of them resolved, a correction, a conflict, a redelivery."""


@pytest.fixture(scope="module")
def template(server: Server, template: str) -> Iterator[str]:
    """The module's template: payproc's schema, some history, and the shadows."""
    name = f"payproc_hostile_{uuid.uuid4().hex[:8]}"
    server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    with closing(Sql(server.url.set(database=name))) as sql:
        sql.rows(HISTORY)
        claim_events(sql)
        plant_shadows(sql)
    yield name
    server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


DECIDE = ("--note", "a note", "--by", "bob", "--yes")

READS: list[tuple[tuple[str | Path, ...], int]] = [
    (("ingest", "--dry-run", *DAY), 0),
    (("show", "p1"), 0),
    (("show", "p4"), 0),
    (("show", "e1"), 1),
    (("review",), 0),
    (("review", "--reason", "predecessor_missing", "--limit", "1"), 0),
    (("review", "--type", "refund", "--state", "created", "--payment", "p3", "--run", "1", "--legal-now"), 0),
    (("resolve", "e1", "--dismiss", *DECIDE), 1),
    (("resolve", "--all", "--dismiss", "--dry-run", "--type", "refund", *DECIDE), 0),
    (("resolve", "--from", "orders.jsonl", "--apply", *DECIDE), 3),
    (("resolve", "e4", "--dismiss", *DECIDE), 1),
    (("resolve", "p1", "--dismiss", *DECIDE), 1),
    (("correct", "p1", "--to", "authorized", *DECIDE), 1),
    (("correct", "p2", "--to", "captured", *DECIDE, "--expect", "failed"), 1),
    (("correct", "e1", "--to", "captured", *DECIDE), 1),
    (("correct", "p9", "--to", "captured", *DECIDE), 1),
    (("payments",), 0),
    (("payments", "--waiting", "--state", "created", "--older-than", "0s", "--limit", "2"), 0),
    (("history",), 0),
    (("history", "--limit", "2", "--kind", "event", "--outcome", "MANUAL_REVIEW", "--type", "capture"), 0),
    (("history", "--run", "1", "--reason", "event_id_conflict", "--payment", "p2", "--since", "7d"), 0),
    (("history", "--kind", "conflict", "--outcome", "IGNORE", "--type", "authorize", "--payment", "p1"), 0),
    (("history", "--label", "day"), 0),
    (("history", "--by", "alice", "--until", "2100-01-01", "--format", "json"), 0),
    (("status",), 0),
    (("verify",), 0),
    (("runs",), 0),
    (("export",), 0),
    (("init",), 0),
    (("init", "--sql"), 0),
    (("init", "--reader", "pg_monitor"), 0),
    (("exec", "true"), 0),
]
"""Commands that change nothing here, in each way to other statements, and the exit code."""

WRITES: list[tuple[str | Path, ...]] = [
    ("ingest", *DAY),
    ("resolve", "e2", "--apply", *DECIDE, "--expect", "created"),
    ("resolve", "e3", "--dismiss", *DECIDE),
    ("resolve", "--all", "--apply", "--state", "created", *DECIDE),
    ("resolve", "--from", "chain.jsonl", "--apply", *DECIDE),
    ("correct", "p1", "--to", "captured", *DECIDE, "--expect", "authorized"),
]
"""Commands that record something."""

WITHOUT_DATABASE = {"rules"}


ORDERS = b"".join(b'{"event_id": "%s"}\n' % each for each in (b"e1", b"e4", b"nope"))
"""Decisions that are refused."""

CHAIN = b'{"event_id": "e2", "version": 1}\n{"event_id": "e2"}\n{"event_id": "e3", "expect": "created"}\n'


def check(run: InProcess, *command: str | Path, code: int = 0) -> None:
    """Run a command; it must end with this code and call no shadow."""
    (run.folder / "orders.jsonl").write_bytes(ORDERS)
    (run.folder / "chain.jsonl").write_bytes(CHAIN)
    finished = run(*command)
    assert SHADOW_CALLED not in finished.stderr, finished.stderr
    assert " refused: " not in finished.stderr, finished.stderr
    assert finished.code == code, finished


def name_of(command: tuple[str | Path, ...]) -> str:
    return " ".join(each for each in command[:3] if isinstance(each, str))


@pytest.mark.parametrize(("command", "code"), READS, ids=[name_of(command) for command, _ in READS])
def test_read_calls_no_shadow(shared: InProcess, command: tuple[str | Path, ...], code: int) -> None:
    check(shared, *command, code=code)


@pytest.mark.parametrize("command", WRITES, ids=name_of)
def test_write_calls_no_shadow(run_in_process: InProcess, command: tuple[str | Path, ...]) -> None:
    """An ingest runs twice, because a replay looks up events that are on record."""
    check(run_in_process, *command)
    if command[0] == "ingest":
        check(run_in_process, *command, "--workers", "1")


def test_every_command_is_tried() -> None:
    """If this fails, add the command to READS or WRITES, in each way to other statements."""
    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands")  # noqa: B009 - of Click's groups only
    assert commands.keys() - WITHOUT_DATABASE == {command[0] for command in [*WRITES, *(each for each, _ in READS)]}


def count_payments(database: Database) -> int:
    return listing.count_payments(database, listing.PaymentFilter(State.CREATED))


def count_history(database: Database) -> int:
    return history.count_entries(database, history.HistoryFilter(outcome=Outcome.MANUAL_REVIEW))


@pytest.mark.parametrize("count", [review.count_open, count_entries, count_lines, count_history, count_payments])
def test_count_calls_no_shadow(database: Database, count: Callable[[Database], int]) -> None:
    """These are for a progress bar, or for the line that an ingest ends with."""
    assert count(database) > 0


def test_contested_decision_calls_no_shadow(database: Database) -> None:
    """No command makes one here, because it takes another process that records first."""
    stale = ("0", "9", "e9", "p1", "1", "capture", "7", "APPLY", "transition", "authorized", "captured", "{}")
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        machine = "'p1', " if IS_FOR_CITUS else ""
        cursor.execute(f"CALL payproc.record_decisions({machine}1, {', '.join(['%s'] * len(stale))}, NULL)", stale)
        assert cursor.fetchall() == [("1",)]


def test_schema_creation_calls_no_shadow(bare_url: URL, sql_on: SqlOn, tmp_path: Path) -> None:
    plant_shadows(sql_on(bare_url))
    run = InProcess(tmp_path, bare_url)
    check(run, "init")
    check(run, "ingest", *DAY)


def test_schema_upgrade_calls_no_shadow(new_database: NewDatabase, sql_on: SqlOn, tmp_path: Path) -> None:
    url = new_database("template0", "UTF8")
    sql, run = sql_on(url), InProcess(tmp_path, url)
    load_version(sql, 1)
    plant_shadows(sql)
    check(run, "init")
    check(run, "ingest", *DAY)
    check(run, "verify")


def test_unqualified_name_calls_a_shadow(database: Database) -> None:
    """If this fails, nothing here could fail."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        for called in (
            "obj_description('payproc.runs'::regclass, 'pg_class')",
            "array_to_string('{}'::text[], ',')",
            "'{}'::text[] || 'a'::text",
            "'APPLY'::payproc.outcome = 'APPLY'",
            "1::oid = 'payproc'::regnamespace",
            "count('a'::text)",
        ):
            with pytest.raises(Exception, match=SHADOW_CALLED):
                cursor.execute(f"SELECT {called}")
