"""The tables as Citus gets them: the same as for one server, but for the keys that it could not guard.

That everything works on them is what all the other integration tests show, with PAYPROC_TEST_SCHEMA=citus.
"""

import re
from importlib import resources
from pathlib import Path

import pytest
from sqlalchemy import PrimaryKeyConstraint, Table, UniqueConstraint

from payproc import models
from payproc.db import schema
from tests.support.postgres import NewDatabase, as_database


def test_every_table_is_distributed_but_the_runs() -> None:
    assert {table.name for table in models.metadata.tables.values()} - models.DISTRIBUTED_BY.keys() == {"runs"}


def keys(table: Table) -> dict[str, set[str]]:
    """Columns by name of a table's unique keys."""
    found = [each for each in table.constraints if isinstance(each, UniqueConstraint | PrimaryKeyConstraint)]
    return {str(each.name): {column.name for column in each.columns} for each in found}


def test_only_keys_that_citus_could_not_guard_are_missing_and_an_index_stands_for_each(
    new_database: NewDatabase,
) -> None:
    unguarded = {
        name
        for table in models.metadata.tables.values()
        for name, columns in keys(table).items()
        if table.name in models.DISTRIBUTED_BY and models.DISTRIBUTED_BY[table.name] not in columns
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
def test_the_procedure_differs_in_when_a_commit_waits_and_nothing_else(
    new_database: NewDatabase, for_citus: bool
) -> None:
    written = resources.files("payproc.db").joinpath("record_decisions.sql").read_text("utf-8")
    body = written.split("$procedure$")[1]
    assert body.count(schema.ASYNCHRONOUS_COMMIT) == 1
    with as_database(new_database("template0", "UTF8"), "a database").transaction() as cursor:
        schema.create_schema(cursor, for_citus=for_citus)
        cursor.execute("SELECT prosrc FROM pg_proc WHERE proname = 'record_decisions'")
        assert cursor.fetchall() == [(body.replace(schema.ASYNCHRONOUS_COMMIT, "") if for_citus else body,)]


def test_no_query_joins_tables_of_different_machines_but_over_a_step_of_its_own() -> None:
    """Citus joins tables that are distributed by the same column; anything else must come out of a MATERIALIZED step.

    If this fails: pick what is needed from one side in a `WITH … AS MATERIALIZED`, and join to that.
    """
    place = models.DISTRIBUTED_BY | {"runs": "runs"}
    joins = 0
    for module in sorted(Path(models.__file__).parent.glob("*.*")):
        if module.suffix not in (".py", ".sql"):
            continue
        source = module.read_text("utf-8")
        source = re.sub(r"^\s*(#|--).*", "", source, flags=re.MULTILINE)
        for left, right in re.findall(r"FROM (\S+)(?: AS \w+)?\s+(?:LEFT )?JOIN (\S+)", source):
            joins += 1
            places = {place[name.removeprefix("payproc.")] for name in (left, right) if name.startswith("payproc.")}
            assert len(places) == 1, f"{module.name}: FROM {left} JOIN {right}"
            assert left.startswith("payproc.") or f"{left} AS MATERIALIZED (" in source, f"{module.name}: {left}"
    assert joins >= 6, "nothing was found to look at"
