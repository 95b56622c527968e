"""The tables for Citus: those of one server with a payment_id in each key of an event, and claims.

All other integration tests run on these tables as well, with PAYPROC_TEST_SCHEMA=citus.
"""

import re
from pathlib import Path

import pytest

from payproc import models
from payproc.db.citus import DISTRIBUTED_BY
from tests.support.citus import NOT_ON_CLUSTER
from tests.support.postgres import NewDatabase, as_database, create_schema


@pytest.fixture
def variants(new_database: NewDatabase) -> tuple[dict[str, str], dict[str, str]]:
    """Create the schema in both variants; return the definitions of their indexes by name."""
    found = []
    for for_citus in (False, True):
        with as_database(new_database("template0", "UTF8"), "a database").transaction() as cursor:
            create_schema(cursor, for_citus=for_citus)
            cursor.execute("SELECT FROM pg_constraint WHERE contype = 'f'")
            assert not cursor.rowcount
            cursor.execute("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'payproc'")
            found.append(dict(cursor.fetchall()))
    return found[0], found[1]


def test_every_table_but_runs_is_distributed() -> None:
    """Runs stay on the coordinator."""
    names = {table.name for table in models.metadata.tables.values()}
    assert names | {"event_ids"} == {*DISTRIBUTED_BY, "runs"}


def test_each_key_holds_the_distribution_column(variants: tuple[dict[str, str], dict[str, str]]) -> None:
    """Citus guards no other unique key."""
    for definition in variants[1].values():
        if key := re.search(r"UNIQUE INDEX .* ON payproc\.(\w+) USING btree \((.*)\)", definition):
            assert key[1] == "runs" or DISTRIBUTED_BY[key[1]] in key[2].split(", "), definition


def test_only_keys_of_an_event_differ(variants: tuple[dict[str, str], dict[str, str]]) -> None:
    """They hold the payment_id as well, and the key of the claims guards the event_id."""
    one_server, citus = variants
    assert citus.pop("event_ids_are_claimed_once").endswith("(event_id)")
    for key in ("events_are_recorded_once", "reviews_are_resolved_once"):
        assert citus.pop(key) == one_server.pop(key).replace("(event_id)", "(payment_id, event_id)")
    assert citus == one_server


@pytest.mark.parametrize("for_citus", [False, True])
def test_procedure_of_the_variant_is_installed(new_database: NewDatabase, for_citus: bool) -> None:
    """Only that for Citus looks into the claims, and takes a payment_id to choose a machine."""
    with as_database(new_database("template0", "UTF8"), "a database").transaction() as cursor:
        create_schema(cursor, for_citus=for_citus)
        cursor.execute("SELECT prosrc, pg_get_function_arguments(oid) FROM pg_proc WHERE proname = 'record_decisions'")
        ((body, arguments),) = cursor.fetchall()
    assert ("payproc.event_ids" in body) == for_citus
    assert ("in_payment_id text" in arguments) == for_citus
    assert "{event_ids}" not in body


def test_queries_join_tables_of_one_machine() -> None:
    """Citus joins tables distributed by the same column on that column; others need a step.

    If this fails, select the rows of one side in a `WITH … AS MATERIALIZED`, and join to that.
    """
    place = DISTRIBUTED_BY | {"runs": "runs", "{event_ids}": DISTRIBUTED_BY["event_ids"]}
    joins = 0
    for module in sorted(Path(models.__file__).parent.rglob("*.*")):
        if module.suffix not in (".py", ".sql"):
            continue
        source = module.read_text("utf-8")
        source = re.sub(r"^\s*(#|--).*", "", source, flags=re.MULTILINE)
        for left, outer, right, columns in re.findall(
            r"FROM (\S+)(?: AS \w+)?\s+(LEFT )?JOIN (\S+)(?: AS \w+)?(?: USING \((.*?)\))?", source
        ):
            if left.startswith("pg_catalog."):
                continue
            joins += 1
            tables = [name.removeprefix("payproc.") for name in (left, right) if name.startswith("payproc.")]
            places = {place[table] for table in tables}
            join = f"{module.name}: FROM {left} {outer}JOIN {right} USING ({columns})"
            assert len(places) <= 1, join
            assert not columns or len(tables) < 2 or places <= {*columns.split(", ")}, join
            assert left.startswith("payproc.") or f"{left} AS MATERIALIZED (" in source, join
            assert not outer or left.startswith("payproc.") or tables in ([], ["runs"]), join
    assert joins >= 6, "the search found too few joins"


def test_tests_that_a_cluster_skips_exist() -> None:
    """A renamed test would run on a cluster, and fail there."""
    files = sorted(Path(__file__).parents[1].rglob("test_*.py"))
    sources = "".join(file.read_text("utf-8") for file in files)
    names = {*(file.stem for file in files), *re.findall(r"^def (test_\w+)\(", sources, re.MULTILINE)}
    assert {name.partition("[")[0] for name in NOT_ON_CLUSTER} <= names
