"""`payproc init --citus`: its calls of Citus, and its errors where Citus is missing.

No package registry has Citus itself. Its stand-in here is an extension of the same name, made by
this test. It records the calls, refuses a table as Citus would, and distributes nothing.
"""

import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
from sqlalchemy import URL

from tests.support.command import error_line
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, SqlOn
from tests.support.servers import POSTGRES_VERSION, OwnServer, Pristine, new_folder, running

SAMPLES = Path(__file__).parents[2] / "sample_events"


CONTROL = """\
comment = 'replaces Citus in a test of payproc'
default_version = '1'
schema = pg_catalog
"""

# The parameters are those of Citus 13.
STAND_IN = """
CREATE TABLE public.calls (
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
    IF EXISTS (SELECT FROM public.calls WHERE relation = table_name) THEN
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
    INSERT INTO public.calls (relation, distribution_column, colocate_with, modify_mode, sharding) VALUES (
        table_name, distribution_column, colocate_with,
        current_setting('citus.multi_shard_modify_mode'), current_setting('citus.enable_schema_based_sharding')
    );
    INSERT INTO pg_dist_shard VALUES (table_name, 0, '-2147483648');
END $$;
CREATE FUNCTION pg_catalog.worker_hash(value text) RETURNS integer LANGUAGE sql AS 'SELECT hashtext(value)';
CREATE TABLE public.pg_dist_shard (logicalrelid regclass, shardid bigint, shardminvalue text);
CREATE TABLE public.pg_dist_placement (shardid bigint, groupid integer);
INSERT INTO public.pg_dist_placement VALUES (0, 0);
ALTER TABLE public.pg_dist_shard SET SCHEMA pg_catalog;
ALTER TABLE public.pg_dist_placement SET SCHEMA pg_catalog;
CREATE TABLE public.functions (name text, argument text, colocate_with text);
CREATE FUNCTION pg_catalog.create_distributed_function(
    function regprocedure, distribution_arg_name text DEFAULT NULL, colocate_with text DEFAULT 'default'
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.functions
    SELECT proname, distribution_arg_name, colocate_with FROM pg_proc
    WHERE oid = function AND proargnames[1] = distribution_arg_name;
$$;
CREATE TABLE public.pg_dist_local_group (groupid integer);
CREATE TABLE public.pg_dist_node (nodename text, nodeport integer, groupid integer, nodeid serial);
CREATE FUNCTION pg_catalog.run_command_on_all_nodes(command text)
    RETURNS TABLE (nodeid integer, success boolean, result text) LANGUAGE sql
    AS $$ SELECT nodeid, true, current_setting('server_encoding') FROM pg_dist_node $$;
INSERT INTO public.pg_dist_local_group VALUES (0);
ALTER TABLE public.pg_dist_local_group SET SCHEMA pg_catalog;
ALTER TABLE public.pg_dist_node SET SCHEMA pg_catalog;
"""

CLUSTER = "INSERT INTO pg_dist_node VALUES ('db0', 5432, 0), ('db1', 5432, 1), ('db2', 5432, 2)"

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


class Coordinator(NamedTuple):
    """A database of its own on that server."""

    run: InProcess
    sql: Sql


class NewCoordinator(Protocol):
    """Creates a database on that server."""

    def __call__(self, name: str, *, extension: bool = True, encoding: str = "UTF8") -> Coordinator: ...


@pytest.fixture
def new_coordinator(citus_server: OwnServer, sql_on: SqlOn, tmp_path: Path) -> NewCoordinator:
    """Create empty databases on that server, with the extension or without."""

    def make(name: str, *, extension: bool = True, encoding: str = "UTF8") -> Coordinator:
        sql_on(citus_server.url).rows(
            f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C' STRATEGY FILE_COPY"
        )
        url = citus_server.url.set(database=name)
        sql = sql_on(url)
        if extension:
            sql.rows("CREATE EXTENSION citus")
        return Coordinator(InProcess(tmp_path, url), sql)

    return make


CALLS = [
    ("payments", "payment_id", "none", "sequential", "off"),
    ("events", "payment_id", "payproc.payments", "sequential", "off"),
    ("resolutions", "payment_id", "payproc.payments", "sequential", "off"),
    ("corrections", "payment_id", "payproc.payments", "sequential", "off"),
    ("event_ids", "event_id", "none", "sequential", "off"),
    ("event_conflicts", "event_id", "payproc.event_ids", "sequential", "off"),
    ("redeliveries", "event_id", "payproc.event_ids", "sequential", "off"),
]
"""Tables with their distribution column and co-location, and the settings of the session."""


def calls(sql: Sql) -> list[tuple[object, ...]]:
    return sql.rows(
        "SELECT relname, distribution_column, colocate_with, modify_mode, sharding"
        " FROM public.calls JOIN pg_class ON pg_class.oid = relation ORDER BY number"
    )


def tables(sql: Sql) -> list[str]:
    return [name for (name,) in sql.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'payproc' ORDER BY 1")]


def has_schema(sql: Sql) -> bool:
    return sql.value("SELECT to_regnamespace('payproc')") is not None


def test_init_on_a_server_without_citus(tmp_path: Path, bare_url: URL, sql_on: SqlOn) -> None:
    line = error_line(InProcess(tmp_path, bare_url)("init", "--citus"), 1)
    assert line.startswith("payproc: the server of the database postgresql://")
    assert line.endswith(
        " does not have the extension citus, which --citus needs; name a Citus coordinator, or leave out --citus for "
        "one server"
    )
    assert not has_schema(sql_on(bare_url))


def test_init_in_a_database_without_citus(new_coordinator: NewCoordinator) -> None:
    run, sql = new_coordinator("without", extension=False)
    assert error_line(run("init", "--citus"), 1).endswith(
        "/without does not have the extension citus, though its server does; run `CREATE EXTENSION citus` in it, on "
        "each machine, and then this command again"
    )
    assert not has_schema(sql)


def test_init_distributes_the_tables_once(new_coordinator: NewCoordinator) -> None:
    """Every other command runs unchanged."""
    run, sql = new_coordinator("with")
    assert run("init", "--citus")[:2] == (0, "created the schema payproc\n")
    assert calls(sql) == CALLS
    assert sql.rows("SELECT * FROM public.functions ORDER BY 1") == [
        ("claim_event_ids", "in_event_id", "payproc.event_ids"),
        ("look_up_payments", "in_payment_id", "payproc.payments"),
        ("record_decisions", "in_payment_id", "payproc.payments"),
    ]
    assert tables(sql) == [
        "corrections",
        "event_conflicts",
        "event_ids",
        "events",
        "payments",
        "redeliveries",
        "resolutions",
        "runs",
    ]
    for again in (("init", "--citus"), ("init",)):
        assert run(*again)[:2] == (0, "the schema payproc is up to date\n")
    assert calls(sql) == CALLS
    day = (SAMPLES / "reused_ids.jsonl", SAMPLES / "refund_race.jsonl")
    assert run("ingest", *day, "--quiet").code == 0
    assert run("resolve", "evt_4004", "--dismiss", "--note", "n", "--yes", "--quiet").code == 0
    assert run("show", "pay_coat", "--quiet").code == 0
    assert run("verify", "--quiet").code == 0


def test_init_for_citus_needs_utf8(new_coordinator: NewCoordinator) -> None:
    """In another encoding, an event_id may read back as another, whose claim is not found."""
    run, sql = new_coordinator("latin", encoding="LATIN1")
    assert error_line(run("init", "--citus"), 1).endswith(
        "/latin has the encoding LATIN1, expected UTF8 on each machine of Citus; create it with ENCODING 'UTF8'"
    )
    assert tables(sql) == []


def test_init_by_several_processes_happens_once(new_coordinator: NewCoordinator) -> None:
    run, sql = new_coordinator("contended")
    with ThreadPoolExecutor(4) as pool:
        finished = list(pool.map(lambda _: run.process("init", "--citus"), range(4)))
    assert [each.code for each in finished] == [0] * 4
    up_to_date = "the schema payproc is up to date\n"
    assert sorted(each.stdout for each in finished) == ["created the schema payproc\n", *[up_to_date] * 3]
    assert calls(sql) == CALLS


def test_init_of_a_plain_schema_is_refused(new_coordinator: NewCoordinator) -> None:
    run, sql = new_coordinator("plain")
    assert run("init").code == 0
    line = error_line(run("init", "--citus"), 1)
    assert line.startswith("payproc: the schema payproc of the database postgresql://")
    assert line.endswith(
        "/plain was created for one server and cannot be converted; name another database, or omit --citus"
    )
    assert calls(sql) == []


@pytest.mark.parametrize("command", [("init",), ("init", "--sql"), ("ingest", SAMPLES / "clean_day.jsonl")], ids=str)
def test_coordinator_needs_a_choice(new_coordinator: NewCoordinator, command: tuple[str | Path, ...]) -> None:
    """Tables for one server would stay on one machine of the cluster for good."""
    run, sql = new_coordinator(f"choice_{uuid.uuid4().hex}")
    sql.rows(CLUSTER)
    assert error_line(run(*command), 1).endswith(
        " is on the coordinator of a Citus cluster, and its schema cannot be converted later; run `payproc init "
        "--citus` to spread it over the cluster, or `payproc init --no-citus` to keep it on the coordinator"
    )
    assert not has_schema(sql)


def test_schema_stays_on_the_coordinator(new_coordinator: NewCoordinator) -> None:
    run, sql = new_coordinator("alone")
    sql.rows(CLUSTER)
    assert run("init", "--no-citus")[:2] == (0, "created the schema payproc\n")
    assert run("ingest", SAMPLES / "clean_day.jsonl", "--quiet").code == 0
    assert run("init").code == 0
    assert calls(sql) == []


def test_init_does_not_gather_the_tables(new_coordinator: NewCoordinator) -> None:
    run, _ = new_coordinator("spread")
    assert run("init", "--citus").code == 0
    assert error_line(run("init", "--no-citus"), 1).endswith(
        "/spread was created for Citus and cannot be converted; name another database, or omit --no-citus"
    )


@pytest.mark.parametrize("has_tables", [True, False], ids=["its tables", "no tables"])
def test_worker_is_told_from_its_coordinator(new_coordinator: NewCoordinator, has_tables: bool) -> None:
    """Citus shows payproc's tables on a worker, but not the table runs."""
    run, sql = new_coordinator(f"worker_{has_tables}")
    if has_tables:
        assert run("init", "--citus").code == 0
        sql.rows("DROP TABLE payproc.runs CASCADE")
    sql.rows(CLUSTER)
    sql.rows("UPDATE pg_dist_local_group SET groupid = 2")
    for command in (("status",), ("init",), ("init", "--citus"), ("ingest", SAMPLES / "clean_day.jsonl")):
        assert error_line(run(*command), 1).endswith(
            " is on a worker of a Citus cluster, expected its coordinator; name the coordinator, db0:5432"
        )


def test_init_failure_is_rolled_back(new_coordinator: NewCoordinator) -> None:
    """It can be run again."""
    run, sql = new_coordinator("failing")
    sql.rows("ALTER DATABASE failing CONNECTION LIMIT 77")  # makes the stand-in fail at the last table
    assert "refused: connection to the remote node worker:5432 failed" in error_line(run("init", "--citus"), 1)
    assert not has_schema(sql)
    sql.rows("ALTER DATABASE failing CONNECTION LIMIT -1")
    assert run("init", "--citus").code == 0
    assert calls(sql) == CALLS


def test_stand_in_refuses_an_extra_key(new_coordinator: NewCoordinator) -> None:
    """If it did not, the tests above could not fail for one."""
    _, sql = new_coordinator("strict")
    sql.rows("CREATE TABLE t (a text PRIMARY KEY, b text UNIQUE)")
    with pytest.raises(Exception, match="cannot create constraint"):
        sql.rows("SELECT create_distributed_table('t', 'a')")
