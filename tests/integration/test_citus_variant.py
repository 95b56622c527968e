"""The tables for Citus: those of one server, without the keys that Citus cannot guard.

All other integration tests run on these tables as well, with PAYPROC_TEST_SCHEMA=citus.
"""

import re
from importlib import resources
from pathlib import Path

import pytest
from sqlalchemy import PrimaryKeyConstraint, Table, UniqueConstraint

from payproc import models
from payproc.db import schema
from payproc.db.citus import DISTRIBUTED_BY
from tests.support.postgres import NewDatabase, as_database


def test_every_table_but_runs_is_distributed() -> None:
    """Runs stay on the coordinator."""
    assert {table.name for table in models.metadata.tables.values()} - DISTRIBUTED_BY.keys() == {"runs"}


def keys(table: Table) -> dict[str, set[str]]:
    """Return the columns of a table's unique keys, by the name of the key."""
    found = [each for each in table.constraints if isinstance(each, UniqueConstraint | PrimaryKeyConstraint)]
    return {str(each.name): {column.name for column in each.columns} for each in found}


def test_only_unguarded_keys_become_indexes(
    new_database: NewDatabase,
) -> None:
    """A unique key that lacks the distribution column cannot be kept over several machines."""
    unguarded = {
        name
        for table in models.metadata.tables.values()
        for name, columns in keys(table).items()
        if table.name in DISTRIBUTED_BY and DISTRIBUTED_BY[table.name] not in columns
    }
    assert unguarded == {"histories_have_one_entry_a_position", "resolutions_have_one_a_position"}
    indexes = []
    for for_citus in (False, True):
        url = new_database("template0", "UTF8")
        with as_database(url, "a database").transaction() as cursor:
            schema.create_schema(cursor, for_citus=for_citus)
            cursor.execute("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'payproc'")
            indexes.append(dict(cursor.fetchall()))
            cursor.execute("SELECT conname FROM pg_constraint WHERE contype = 'f'")
            assert cursor.fetchall() == []
    one_server, citus = indexes
    assert citus == {
        name: definition.replace("CREATE UNIQUE INDEX", "CREATE INDEX") if name in unguarded else definition
        for name, definition in one_server.items()
    }


@pytest.mark.parametrize("for_citus", [False, True])
def test_procedure_differs_in_asynchronous_commits(new_database: NewDatabase, for_citus: bool) -> None:
    """Nothing else in the procedure differs between the variants."""
    written = resources.files("payproc.db").joinpath("record_decisions.sql").read_text("utf-8")
    body = written.split("$procedure$")[1]
    assert body.count(schema.ASYNCHRONOUS_COMMIT) == 1
    with as_database(new_database("template0", "UTF8"), "a database").transaction() as cursor:
        schema.create_schema(cursor, for_citus=for_citus)
        cursor.execute("SELECT prosrc FROM pg_proc WHERE proname = 'record_decisions'")
        assert cursor.fetchall() == [(body.replace(schema.ASYNCHRONOUS_COMMIT, "") if for_citus else body,)]


def test_queries_join_tables_of_one_machine() -> None:
    """Citus joins tables distributed by the same column; other joins need a MATERIALIZED step.

    If this fails, select the rows of one side in a `WITH … AS MATERIALIZED`, and join to that.
    """
    place = DISTRIBUTED_BY | {"runs": "runs"}
    joins = 0
    for module in sorted(Path(models.__file__).parent.rglob("*.*")):
        if module.suffix not in (".py", ".sql"):
            continue
        source = module.read_text("utf-8")
        source = re.sub(r"^\s*(#|--).*", "", source, flags=re.MULTILINE)
        for left, right in re.findall(r"FROM (\S+)(?: AS \w+)?\s+(?:LEFT )?JOIN (\S+)", source):
            joins += 1
            places = {place[name.removeprefix("payproc.")] for name in (left, right) if name.startswith("payproc.")}
            assert len(places) == 1, f"{module.name}: FROM {left} JOIN {right}"
            assert left.startswith("payproc.") or f"{left} AS MATERIALIZED (" in source, f"{module.name}: {left}"
    assert joins >= 6, "the search found too few joins"
