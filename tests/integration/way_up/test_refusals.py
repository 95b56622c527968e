"""Schemas that a command refuses and leaves as they are: old, new, unmarked, foreign, damaged."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import URL

from payproc.db import schema
from payproc.db.connection import Database
from payproc.db.mark import VERSION
from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.server import run_server
from payproc.errors import CannotFinish
from tests.support.command import error_line
from tests.support.events import event_line
from tests.support.in_process import InProcess
from tests.support.old_schemas import BROUGHT_UP, NewOldDatabase, catalog, load_version, one_error, records
from tests.support.postgres import Sql, SqlOn, as_database, create_schema
from tests.support.servers import Pristine, new_folder

READING = (["show", "pay_sold"], ["review"], ["verify"], ["runs"], ["export"], ["ingest", "--dry-run", "-"])
CORRECT = ["correct", "pay_sold", "--to", "refunded", "--note", "n", "--yes"]
WRITING = (["ingest", "-"], ["resolve", "evt_10", "--dismiss", "--note", "n", "--yes"], CORRECT)
NEW_EVENT = event_line("new_1", "pay_new", "fail")

EVERY = [
    *READING,
    *WRITING,
    ["status"],
    ["payments"],
    ["history"],
    ["resolve", "--all", "--dismiss", "--note", "n", "--yes"],
    ["resolve", "--from", "-", "--dismiss", "--note", "n", "--yes"],
    ["init"],
    ["init", "--citus"],
    ["init", "--sql"],
    ["init", "--reader", "pg_monitor"],
]


@pytest.mark.slow
def test_server_is_brought_up_by_init_alone(old: NewOldDatabase) -> None:
    """All other commands refuse a version that is not theirs."""
    database = old()
    before = database.state()
    for command in (*READING, *WRITING):
        error = one_error(database.run, *command, stdin=NEW_EVENT)
        assert error.startswith("the schema payproc of the database "), command
        assert error.endswith(f" has version 1, this payproc needs {VERSION}; run payproc init"), command
    assert database.state() == before


def test_newer_schema_is_refused(old: NewOldDatabase) -> None:
    """An older payproc never touches the schema of a newer one."""
    database = old()
    database.sql.rows(f"COMMENT ON TABLE payproc.runs IS 'payproc schema version {VERSION + 1}, procedure 00000000'")
    before = database.state()
    refusal = f"has version {VERSION + 1}, and this payproc is older than the schema: it knows version {VERSION}; "
    for command in EVERY:
        error = one_error(database.run, *command, stdin=NEW_EVENT)
        assert error.startswith("the schema payproc of the database "), command
        assert refusal in error or command == ["init", "--citus"], command
    assert database.state() == before


@pytest.mark.parametrize("version", [1, 2, 3])
def test_lost_mark_is_restored_by_the_message(old: NewOldDatabase, version: int) -> None:
    """`pg_restore --no-comments` loses the mark.

    The error holds the statement that sets it again.
    """
    database = old(version=min(version, VERSION - 1))
    if version == VERSION:
        database.bring_up()
    mark = database.mark().partition(",")[0]
    database.sql.rows("COMMENT ON TABLE payproc.runs IS NULL")
    for use in (schema.require_schema, schema.bring_up):
        with pytest.raises(CannotFinish, match=r"^the schema payproc of the database ") as raised:
            use(database.database)
        (statement,) = re.findall(r"COMMENT ON TABLE payproc\.runs IS '[^']*'", str(raised.value))
        assert statement == f"COMMENT ON TABLE payproc.runs IS '{mark}'"
    database.sql.rows(statement)
    database.bring_up()
    assert database.run("verify").code == 0
    assert database.bring_up() == []


def test_lost_mark_for_citus_is_restored(bare_url: URL, sql_on: SqlOn) -> None:
    sql, database = sql_on(bare_url), as_database(bare_url, "a database")
    with database.transaction() as cursor:
        create_schema(cursor, for_citus=True)
    mark = f"payproc schema version {VERSION} for Citus by payment"
    sql.rows("COMMENT ON TABLE payproc.runs IS NULL")
    with pytest.raises(CannotFinish, match=rf"COMMENT ON TABLE payproc\.runs IS '{mark}'$"):
        schema.require_schema(database)


@pytest.mark.parametrize("has_mark", [True, False], ids=["mark", "no mark"])
@pytest.mark.parametrize("version", [1, 2])
def test_earlier_layout_for_citus_is_refused(
    bare_url: URL, sql_on: SqlOn, tmp_path: Path, version: int, has_mark: bool
) -> None:
    """Its events are on other machines than their payments."""
    sql, run = sql_on(bare_url), InProcess(tmp_path, bare_url)
    load_version(sql, version, for_citus=True)
    if not has_mark:
        sql.rows("COMMENT ON TABLE payproc.runs IS NULL")
    before = catalog(sql), records(sql)
    for command in EVERY:
        line = error_line(run(*command, "--quiet", stdin=NEW_EVENT), 1)
        assert "spread by event_id, expected by payment_id; export it with that payproc into a new database" in line, (
            command
        )
    assert (catalog(sql), records(sql)) == before


def test_foreign_schema_is_left_alone(bare_url: URL, sql_on: SqlOn, tmp_path: Path) -> None:
    """A schema of the same name may belong to something else."""
    sql, run = sql_on(bare_url), InProcess(tmp_path, bare_url)
    sql.rows("CREATE SCHEMA payproc CREATE TABLE runs (run_id bigint)")
    before = catalog(sql)
    for command in EVERY:
        error = one_error(run, *command, stdin=NEW_EVENT)
        assert "belongs to another application: it holds 1 other tables and indexes" in error, command
    assert catalog(sql) == before


@pytest.mark.parametrize("table", ["corrections", "redeliveries"])
def test_lost_table_is_named(database: Database, sql: Sql, table: str) -> None:
    """Only a backup has its rows."""
    sql.rows(f"DROP TABLE payproc.{table} CASCADE")
    for use in (schema.bring_up, schema.require_schema):
        with pytest.raises(CannotFinish, match=rf"lacks its table {table}; restore it from a backup$"):
            use(database)


@pytest.fixture
def embedded_old(pristine: Pristine) -> Iterator[tuple[Sql, Path]]:
    """A running embedded server whose database has version 1, as SQL and its home."""
    folder = new_folder()
    try:
        home = folder / "home"
        subprocess.run(["cp", "-a", pristine.home, home], check=True)
        folder.chmod(0o755)
        with run_server(home) as server:
            query = {"host": str(server.socket_folder)}
            url = URL.create("postgresql", SUPERUSER, database="postgres", query=query)
            with closing(Sql(url)) as sql:
                sql.rows("DROP SCHEMA payproc CASCADE")
                load_version(sql, 1)
                yield sql, home
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_embedded_is_brought_up_by_the_first_write(embedded_old: tuple[Sql, Path], tmp_path: Path) -> None:
    """Nobody else uses the embedded database, so writing commands bring it up.

    Reading commands refuse.
    """
    sql, home = embedded_old
    run = InProcess(tmp_path, None)
    run.environment["PAYPROC_HOME"] = str(home)
    for command in READING:
        error = one_error(run, *command, stdin=NEW_EVENT)
        assert error.endswith(f" has version 1, this payproc needs {VERSION}; run payproc init"), command
    for command in WRITING:
        finished = run(*command, "--quiet", stdin=NEW_EVENT)
        assert (finished.code, finished.stderr.splitlines()) == (0, [f"payproc: {each}" for each in BROUGHT_UP]), (
            command
        )
        assert run("verify").code == 0
        sql.rows("DROP SCHEMA payproc CASCADE")
        load_version(sql, 1)
