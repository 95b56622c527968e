"""`payproc init --citus`: what it asks Citus for, and what it says where that is not to be had.

Citus itself cannot be installed from a package registry. What stands in for it here is an extension of the same name,
made by this test, which keeps what it was asked for, refuses a table as Citus would, and distributes nothing.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from tests.support.command import Payproc
from tests.support.postgres import Sql, SqlOn
from tests.support.servers import POSTGRES_VERSION, OwnServer, Pristine, new_folder, running

SAMPLES = Path(__file__).parents[2] / "sample_events"


CONTROL = """\
comment = 'stands in for Citus in a test of payproc'
default_version = '1'
schema = pg_catalog
"""

# The parameters are those of Citus 13.
STAND_IN = """
CREATE TABLE public.asked (
    number serial, relation regclass, distribution_column text, colocate_with text, modify_mode text, sharding text
);
CREATE FUNCTION pg_catalog.create_distributed_table(
    table_name regclass, distribution_column text, distribution_type text DEFAULT 'hash',
    colocate_with text DEFAULT 'default', shard_count integer DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    at smallint := (
        SELECT attnum FROM pg_attribute WHERE attrelid = table_name AND attname = distribution_column
    );
BEGIN
    IF EXISTS (SELECT FROM public.asked WHERE relation = table_name) THEN
        RAISE EXCEPTION 'table "%" is already distributed', table_name;
    END IF;
    IF EXISTS (SELECT FROM pg_index WHERE indrelid = table_name AND indisunique AND NOT at = ANY (indkey)) THEN
        RAISE EXCEPTION 'cannot create constraint on "%"', table_name
            USING DETAIL = 'Distributed relations cannot have UNIQUE constraints that do not include the column.';
    END IF;
    IF EXISTS (SELECT FROM pg_constraint WHERE conrelid = table_name AND contype = 'f') THEN
        RAISE EXCEPTION 'cannot create foreign key constraint';
    END IF;
    IF EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND datconnlimit = 77)
        AND table_name::text LIKE '%resolutions' THEN
        RAISE EXCEPTION 'connection to the remote node worker:5432 failed' USING ERRCODE = '08006';
    END IF;
    INSERT INTO public.asked (relation, distribution_column, colocate_with, modify_mode, sharding) VALUES (
        table_name, distribution_column, colocate_with,
        current_setting('citus.multi_shard_modify_mode'), current_setting('citus.enable_schema_based_sharding')
    );
END $$;
"""

pytestmark = pytest.mark.skipif(
    POSTGRES_VERSION < 18, reason="the server finds the stand-in by a setting that PostgreSQL 18 has"
)


@pytest.fixture(scope="module")
def citus_server(pristine: Pristine) -> Iterator[OwnServer]:
    """A server on which an extension named citus can be created: the stand-in."""
    folder = new_folder()
    folder.chmod(0o755)
    (folder / "extension").mkdir()
    (folder / "extension" / "citus.control").write_text(CONTROL)
    (folder / "extension" / "citus--1.sql").write_text(STAND_IN)
    with running(pristine, [f"extension_control_path = '{folder}:$system'"]) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture
def citus_url(citus_server: OwnServer, sql_on: SqlOn) -> Callable[[str], URL]:
    """Makes an empty database on that server."""

    def make(name: str) -> URL:
        sql_on(citus_server.url).rows(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return citus_server.url.set(database=name)

    return make


def tables(sql: Sql) -> list[str]:
    return [name for (name,) in sql.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'payproc' ORDER BY 1")]


def test_a_server_without_the_extension_is_one_line(tmp_path: Path, bare_url: URL, sql_on: SqlOn) -> None:
    finished = Payproc(tmp_path, bare_url)("init", "--citus", "--quiet")
    assert finished.code == 1
    assert finished.stdout == ""
    said = finished.stderr.replace(finished.stderr.partition("the database ")[2].partition(" does")[0], "SERVER")
    assert said == (
        "payproc: the server of the database SERVER does not have the extension citus, which --citus needs; name a "
        "Citus coordinator, or leave out --citus for one server\n"
    )
    assert sql_on(bare_url).value("SELECT to_regnamespace('payproc')") is None


def test_a_database_without_the_extension_is_one_line_that_says_what_to_do(
    tmp_path: Path, citus_url: Callable[[str], URL], sql_on: SqlOn
) -> None:
    url = citus_url("without")
    finished = Payproc(tmp_path, url)("init", "--citus", "--quiet")
    assert finished.code == 1
    assert finished.stderr.endswith(
        "/without does not have the extension citus, though its server does; run `CREATE EXTENSION citus` in it, on "
        "each machine, and then this command again\n"
    )
    assert len(finished.stderr.splitlines()) == 1
    assert sql_on(url).value("SELECT to_regnamespace('payproc')") is None


ASKED_FOR = [
    ("payments", "payment_id", "none", "sequential", "off"),
    ("events", "event_id", "none", "sequential", "off"),
    ("event_conflicts", "event_id", "payproc.events", "sequential", "off"),
    ("resolutions", "event_id", "payproc.events", "sequential", "off"),
    ("corrections", "payment_id", "payproc.payments", "sequential", "off"),
]


def asked(sql: Sql) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = sql.rows(
        "SELECT relname, distribution_column, colocate_with, modify_mode, sharding"
        " FROM public.asked JOIN pg_class ON pg_class.oid = relation ORDER BY number"
    )
    return rows


def test_it_distributes_the_tables_once_and_everything_else_runs_as_it_is(
    tmp_path: Path, citus_url: Callable[[str], URL], sql_on: SqlOn
) -> None:
    url = citus_url("with")
    sql = sql_on(url)
    sql.rows("CREATE EXTENSION citus")
    payproc = Payproc(tmp_path, url)
    assert payproc("init", "--citus")[:2] == (0, "created the schema payproc\n")
    assert asked(sql) == ASKED_FOR
    assert tables(sql) == ["corrections", "event_conflicts", "events", "payments", "resolutions", "runs"]
    for again in (("init", "--citus"), ("init",)):
        assert payproc(*again)[:2] == (0, "the schema payproc is up to date\n")
    assert asked(sql) == ASKED_FOR
    day = (SAMPLES / "reused_ids.jsonl", SAMPLES / "refund_race.jsonl")
    assert payproc("ingest", *day, "--quiet").code == 0
    assert payproc("resolve", "evt_4004", "--dismiss", "--note", "n", "--yes", "--quiet").code == 0
    assert payproc("show", "pay_coat", "--quiet").code == 0
    assert payproc("verify", "--quiet").code == 0


def test_of_several_at_once_one_does_it(tmp_path: Path, citus_url: Callable[[str], URL], sql_on: SqlOn) -> None:
    url = citus_url("contended")
    sql = sql_on(url)
    sql.rows("CREATE EXTENSION citus")
    payproc = Payproc(tmp_path, url)
    with ThreadPoolExecutor(4) as pool:
        finished = list(pool.map(lambda _: payproc("init", "--citus"), range(4)))
    assert [each.code for each in finished] == [0] * 4
    assert sorted(each.stdout for each in finished) == [
        "created the schema payproc\n",
        *["the schema payproc is up to date\n"] * 3,
    ]
    assert asked(sql) == ASKED_FOR


def test_where_the_schema_for_one_server_is_there_it_is_refused(
    tmp_path: Path, citus_url: Callable[[str], URL], sql_on: SqlOn
) -> None:
    url = citus_url("plain")
    sql = sql_on(url)
    sql.rows("CREATE EXTENSION citus")
    payproc = Payproc(tmp_path, url)
    assert payproc("init").code == 0
    finished = payproc("init", "--citus", "--quiet")
    assert finished.code == 1
    assert finished.stderr.startswith("payproc: the schema payproc of the database postgresql://")
    assert finished.stderr.endswith(
        "/plain was made for one server and cannot be distributed any more; name another database, or go on with this "
        "one as it is\n"
    )
    assert asked(sql) == []


def test_a_failure_on_the_way_leaves_nothing_and_it_can_be_run_again(
    tmp_path: Path, citus_url: Callable[[str], URL], sql_on: SqlOn
) -> None:
    url = citus_url("failing")
    sql = sql_on(url)
    sql.rows("CREATE EXTENSION citus")
    sql.rows("ALTER DATABASE failing CONNECTION LIMIT 77")  # the stand-in's sign to fail at the last table
    finished = Payproc(tmp_path, url)("init", "--citus", "--quiet")
    assert finished.code == 1
    assert "refused: connection to the remote node worker:5432 failed" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert sql.value("SELECT to_regnamespace('payproc')") is None
    sql.rows("ALTER DATABASE failing CONNECTION LIMIT -1")
    assert Payproc(tmp_path, url)("init", "--citus").code == 0
    assert asked(sql) == ASKED_FOR


def test_the_stand_in_refuses_what_citus_would(citus_url: Callable[[str], URL], sql_on: SqlOn) -> None:
    """Otherwise the tests above could not fail for a key too many."""
    sql = sql_on(citus_url("strict"))
    sql.rows("CREATE EXTENSION citus")
    sql.rows("CREATE TABLE t (a text PRIMARY KEY, b text UNIQUE)")
    with pytest.raises(Exception, match="cannot create constraint"):
        sql.rows("SELECT create_distributed_table('t', 'a')")
