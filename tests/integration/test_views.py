"""The views for other programs: the rows of the commands, and a role that may read nothing else."""

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import msgspec
import psycopg2
import pytest

from payproc.cli.listings import list_columns
from payproc.corrections import Correction, correct
from payproc.db import location, schema
from payproc.db.citus import DISTRIBUTED_BY
from payproc.db.connection import Database
from payproc.db.views import VIEWS, grant_views, list_grants
from payproc.errors import CannotFinish, WrongUsage
from payproc.history import ENTRY_KINDS, HistoryFilter, list_entries
from payproc.listing import ListedPayment, PaymentFilter, list_payments
from payproc.logic import Resolution, State
from payproc.review import Review, ReviewDecision, resolve_review
from payproc.review_queue import open_reviews
from payproc.runs import Run, list_runs
from tests.support.documents import blocks
from tests.support.old_schemas import REPLACED
from tests.support.postgres import IS_FOR_CITUS, Sql

Record = Callable[..., None]

INNER = {
    **{f"outcomes.{name}": column for name, column in zip(
        ("APPLY", "IGNORE", "REJECT", "MANUAL_REVIEW"), ("applied", "ignored", "rejected", "manual_review"), strict=True
    )},
    "recorded.payment_id": "recorded_payment_id",
    "recorded.type": "recorded_type",
}  # fmt: skip
"""Columns that CSV names by two fields."""


@pytest.fixture
def filled(database: Database, record: Record, sql: Sql) -> Database:
    """A database with every kind of entry, and pending reviews that are legal and not."""
    record(("e1", "p1", "authorize"), ("e2", "p2", "capture"), ("e3", "p3", "refund"), ("e4", "p4", "flag"))
    record(("e5", "p2", "authorize"), ("e1", "p9", "fail"))
    sql.rows("INSERT INTO payproc.redeliveries VALUES ('e1', '1', 0, 2, 3, now(), '{\"event_id\": \"e1\"}')")
    resolve_review(database, "e4", ReviewDecision(Resolution.DISMISS, "seen", "alice"), lambda *_: True)
    correct(database, "p3", Correction(State.REFUNDED, "by bank", "bob"), lambda *_: True)
    return database


def columns(sql: Sql, view: str) -> list[str]:
    """Return the columns of a view."""
    query = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
    return [name for (name,) in sql.rows(query, f"payproc.{view}")]


def rows(sql: Sql, view: str) -> list[dict[str, Any]]:
    """Return the rows of a view, as its columns by name."""
    return sorted((row for (row,) in sql.rows(f"SELECT to_jsonb(v) FROM payproc.{view} AS v")), key=json.dumps)


def flat(value: object) -> Iterator[tuple[str, Any]]:
    """Yield the columns and values of an object as JSON has it."""
    for name, each in msgspec.json.decode(msgspec.json.encode(value)).items():
        if name in ("outcomes", "recorded"):
            yield from ((INNER[f"{name}.{key}"], inner) for key, inner in each.items())
        else:
            yield name, each


@pytest.mark.parametrize(
    ("view", "kinds"),
    [
        ("report_payments", [ListedPayment]),
        ("report_history", ENTRY_KINDS),
        ("report_queue", [Review]),
        ("report_runs", [Run]),
    ],
)
def test_view_has_the_fields_of_the_command(sql: Sql, view: str, kinds: Sequence[type[msgspec.Struct]]) -> None:
    assert {*columns(sql, view)} == {INNER.get(name, name) for name in list_columns(kinds)}


def test_views_have_the_rows_of_the_commands(filled: Database, sql: Sql) -> None:
    expected: dict[str, Iterable[dict[str, Any]]] = {
        "report_payments": (dict(flat(each)) for each in list_payments(filled, PaymentFilter())),
        "report_history": (
            {"payment_id": payment_id, **dict(flat(entry))}
            for payment_id, entry in list_entries(filled, HistoryFilter(), with_payload=True)
        ),
        "report_queue": (dict(flat(each)) for each in open_reviews(filled)),
        "report_runs": (dict(flat(each)) | {"source": ", ".join(each.source)} for each in list_runs(filled, None)),
    }
    assert expected.keys() == {*VIEWS}
    for view, objects in expected.items():
        names = columns(sql, view)
        found = rows(sql, view)
        wanted = [{name: each.get(name) for name in names} for each in objects]
        assert len(found) == len(wanted) > 0
        assert unify(found) == unify(wanted)
    assert {row["legal_now"] for row in rows(sql, "report_queue")} == {True, False}


def unify(found: list[dict[str, Any]]) -> list[str]:
    """Return rows in an order of their own, with times in one spelling."""
    texts = (json.dumps(each, sort_keys=True) for each in found)
    return sorted(re.sub(r"(T[\d:]+(?:\.\d*[1-9])?)\.?0*(?:Z|\+00:00)", r"\1Z", text) for text in texts)


def test_lost_view_is_created_again(database: Database, sql: Sql) -> None:
    sql.rows("DROP VIEW payproc.report_queue")
    assert schema.bring_up(database) == [REPLACED]
    assert schema.bring_up(database) == []
    assert rows(sql, "report_queue") == []


@pytest.fixture
def reader(sql: Sql) -> Iterator[Sql]:
    """SQL as a role that has been granted the views."""
    name = f'reader "{uuid.uuid4().hex[:8]}"'
    quoted = '"' + name.replace('"', '""') + '"'
    sql.rows(f"CREATE ROLE {quoted} LOGIN PASSWORD 's3cret'")
    with closing(Sql(sql.url.set(username=name, password="s3cret"))) as reader:
        yield reader
    sql.rows(f"DROP OWNED BY {quoted} CASCADE")
    sql.rows(f"DROP ROLE {quoted}")


def test_reader_reads_the_views_and_nothing_else(filled: Database, sql: Sql, reader: Sql) -> None:
    for grant in list_grants(filled, str(reader.url.username)):
        sql.rows(grant)
    relations = "SELECT relname FROM pg_class WHERE relnamespace = 'payproc'::regnamespace AND relkind IN ('r', 'v')"
    readable = set()
    for (name,) in sql.rows(relations):
        try:
            reader.rows(f"SELECT * FROM payproc.{name}")
        except psycopg2.errors.InsufficientPrivilege:
            continue
        readable.add(name)
    assert readable == {*VIEWS, *((*DISTRIBUTED_BY, "runs") if IS_FOR_CITUS else ())}
    for statement in ("DELETE FROM payproc.report_runs", "UPDATE payproc.report_runs SET label = 'x'"):
        with pytest.raises(psycopg2.Error):
            reader.rows(statement)


def test_queries_of_the_guide_answer_the_reader(filled: Database, sql: Sql, reader: Sql) -> None:
    for grant in list_grants(filled, str(reader.url.username)):
        sql.rows(grant)
    sql.rows("UPDATE payproc.payments SET state_since = now() - interval '8 days' WHERE payment_id = 'p1'")
    found = [reader.rows(query) for query in blocks("payproc/db/README.md", "sql")]
    states, old, waiting, rejected, people = found
    assert states == [("authorized", 2), ("created", 1), ("refunded", 1)]
    assert [payment_id for payment_id, _ in old] == ["p1"]
    assert [row[:3] for row in waiting] == [("predecessor_missing", 2, 1)]
    assert [row[1:4] for row in rejected] == [("p9", "e1", "event_id_conflict")]
    assert people == [("alice", "resolution", 1), ("bob", "correction", 1)]


def test_grant_by_another_reader_is_refused(filled: Database, sql: Sql, reader: Sql) -> None:
    """PostgreSQL only warns a role with privileges that it may not pass on."""
    name = str(reader.url.username)
    grant_views(filled, name, list_grants(filled, name))
    for_other = list_grants(filled, "pg_signal_backend")
    as_reader = location.parse_url(reader.url.render_as_string(hide_password=False), "the test")
    with pytest.raises(CannotFinish, match="as the owner of the schema payproc"):
        grant_views(Database(as_reader), "pg_signal_backend", for_other)
    assert sql.value("SELECT has_table_privilege('pg_signal_backend', 'payproc.report_runs', 'SELECT')") is False


def test_missing_reader_is_refused(database: Database) -> None:
    with pytest.raises(WrongUsage, match="--reader: the server of the test database has no role nobody here"):
        list_grants(database, "nobody here")
