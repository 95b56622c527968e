"""The steps of the way up: an earlier version becomes this one, and keeps its rows."""

import hashlib
import json
from importlib import resources
from itertools import groupby
from operator import itemgetter

import pytest

from payproc import models
from payproc.db import schema
from payproc.db.citus import DISTRIBUTED_BY
from payproc.db.connection import Database
from payproc.db.mark import VERSION
from tests.support.events import event_line
from tests.support.old_schemas import (
    BROUGHT_UP,
    REPLACED,
    Catalog,
    NewCatalog,
    NewOldDatabase,
    catalog,
    dump_of,
    records,
)
from tests.support.postgres import IS_FOR_CITUS, Sql


def since(before: Catalog) -> dict[str, str]:
    """Return when each payment last changed its state, from the rows of version 1."""
    entries = [(row[1], int(row[2]), *row[6:8], row[11]) for row in before["events"]]
    entries += [(row[1], int(row[2]), *row[4:6], row[8]) for row in before["resolutions"]]
    times = {payment_id: created_at for payment_id, _, _, created_at, _ in before["payments"]}
    for payment_id, history in groupby(sorted(entries), key=itemgetter(0)):
        for _, _, state_before, state_after, at in history:
            if state_before != state_after:
                times[payment_id] = at
    return times


@pytest.mark.parametrize("version", range(1, VERSION))
def test_catalog_equals_a_new_one(old: NewOldDatabase, new_catalog: NewCatalog, version: int) -> None:
    """Nothing in the catalog shows which way led to the schema."""
    database = old(version=version)
    assert database.bring_up() == BROUGHT_UP[version - 1 :]
    expected = new_catalog()
    found = catalog(database.sql)
    for kind, facts in expected.items():
        assert found[kind] == facts, kind
    assert database.bring_up() == []
    assert catalog(database.sql) == found


def test_records_stay_and_state_since_is_computed(old: NewOldDatabase) -> None:
    """A payment's state dates from the last entry that moved it, not from the last entry."""
    database = old()
    before = records(database.sql)
    database.bring_up()
    after = records(database.sql)
    assert after.pop("corrections") == after.pop("redeliveries") == []
    times = {row[0]: row[4] for row in after["payments"]}
    assert [row[:4] for row in after.pop("payments")] == [row[:4] for row in before["payments"]]
    assert [row[-1] for row in after["runs"]] == [None] * len(before["runs"])
    assert [row[:-1] for row in after.pop("runs")] == before["runs"]
    assert after == {table: before[table] for table in ("events", "event_conflicts", "resolutions")}
    assert times == since(before)
    updated_at = {row[0]: row[4] for row in before["payments"]}
    assert times != updated_at, "the dump needs a payment whose last entry moved nothing"


def test_records_of_version_2_stay(old: NewOldDatabase) -> None:
    database = old(version=2)
    before = records(database.sql)
    database.bring_up()
    assert records(database.sql) == {**before, "redeliveries": []}


@pytest.mark.slow
def test_commands_work_afterwards(old: NewOldDatabase) -> None:
    """Events, resolutions and questions go on where version 1 left them."""
    database = old()
    run = database.run
    assert run("init")[:2] == (0, "\n".join([*BROUGHT_UP, ""]))
    assert run("verify").code == 0
    fresh = [
        event_line("new_1", "pay_sold", "refund"),
        event_line("new_2", "pay_created", "flag"),
        event_line("evt_1", "x", "fail"),
        event_line("evt_41", "pay_sold", "authorize"),
        event_line("evt_41", "pay_sold", "authorize", attempt=2),
    ]
    summary = run.summary("-", stdin=b"\n".join(fresh))
    assert summary["reasons"] == {"transition": 1, "flagged": 1, "event_id_conflict": 1, "duplicate_event": 2}
    assert summary["differing_duplicates"] == 1
    shown = json.loads(run("show", "pay_sold", "--format", "json").stdout)
    assert (shown["state"], [entry["event_id"] for entry in shown["history"]]) == (
        "refunded",
        ["evt_41", "evt_42", "new_1"],
    )
    runs = [json.loads(each)["run_id"] for each in run("runs", "--format", "json").stdout.splitlines()]
    assert runs == [5, 3, 2, 1], "a run number was reused"
    pending = [json.loads(each)["event_id"] for each in run("review", "--format", "json").stdout.splitlines()]
    assert pending[-1] == "new_2"
    for event_id, decision in (("evt_10", "--apply"), ("new_2", "--dismiss")):
        assert run("resolve", event_id, decision, "--note", "n", "--yes").code == 0
    assert run("export").stdout.count("\n") == database.sql.value(
        "SELECT (SELECT count(*) FROM payproc.events) + (SELECT count(*) FROM payproc.event_conflicts) + 1"
    )
    assert run("verify").code == 0


def test_lost_procedure_is_installed_again(database: Database, sql: Sql) -> None:
    """The tables and the mark are current, and the procedure is gone."""
    sql.rows("DROP PROCEDURE payproc.record_decisions")
    assert schema.bring_up(database) == [REPLACED]
    assert schema.bring_up(database) == []


def test_comment_above_the_procedure_is_no_change(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest covers the statement alone, so rewording its comment replaces nothing."""
    statement = schema.read_procedure(for_citus=IS_FOR_CITUS)
    monkeypatch.setattr(schema, "read_procedure", lambda **_: f"-- Reworded.\n{statement}")
    assert schema.bring_up(database) == []


# ---- A version for every change ------------------------------------------------------------------

TABLES = {2: "ac14875303afa25b", 3: "dcfb81f6051d5fa8"}
"""Digest by version of the statements that create the tables, in both variants."""


def test_other_tables_need_another_version() -> None:
    """If this fails, the tables differ from those of this version.

    If a payproc of this version has been released: raise VERSION in mark.py, add the step to it
    to versions/, add a dump of the version before, and a line to TABLES. Otherwise
    change the version's own step, and the line in TABLES.
    """
    statements = sorted(
        " ".join(statement.split())
        for distributed_by in (None, DISTRIBUTED_BY)
        for statement in models.list_table_statements(distributed_by)
    )
    digest = hashlib.sha256("\n".join(statements).encode()).hexdigest()[:16]
    assert TABLES.get(VERSION) == digest, test_other_tables_need_another_version.__doc__


def test_earlier_versions_have_dumps_and_steps() -> None:
    """Each earlier version has a dump, and a step to the next version."""
    steps = {path.name[:4] for path in resources.files("payproc.db").joinpath("versions").iterdir()}
    for version in range(1, VERSION):
        assert dump_of(version).stat().st_size > 0
        assert f"{version + 1:04}" in steps
