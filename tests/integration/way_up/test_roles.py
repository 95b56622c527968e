"""Roles on the way up: the owner or a superuser brings the schema up, and privileges are kept."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import URL

from tests.support.events import event_line
from tests.support.in_process import InProcess
from tests.support.old_schemas import BROUGHT_UP, REPLACED, UP_TO_DATE, OldDatabase, catalog, load_version, one_error
from tests.support.postgres import Server, SqlOn

PASSWORD = "s3cret"


@pytest.fixture
def roles(server: Server, bare_url: URL) -> Iterator[Callable[[str], str]]:
    """Roles that may connect and no more."""
    made: list[str] = []

    def make(name: str) -> str:
        made.append(f'{name} of "{bare_url.database}"')
        server.execute(f"CREATE ROLE {quoted(made[-1])} LOGIN PASSWORD '{PASSWORD}'")
        return made[-1]

    yield make
    with closing(server.connect(bare_url.database)) as connection, connection.cursor() as cursor:
        for name in made:
            cursor.execute(f"DROP OWNED BY {quoted(name)} CASCADE")
    for name in made:
        server.execute(f"DROP ROLE {quoted(name)}")


def quoted(name: str) -> str:
    """Return a name as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


class Owned(NamedTuple):
    """A database of version 1, an ordinary role that owns it, and one that may use its tables."""

    old: OldDatabase
    """The database, with the command as the owner."""
    owner: str
    user: str
    as_user: InProcess


@pytest.fixture
def owned(bare_url: URL, sql_on: SqlOn, tmp_path: Path, roles: Callable[[str], str]) -> Owned:
    """A database for one test."""
    owner, user = roles("owner"), roles("user")
    sql = sql_on(bare_url)
    sql.rows(f"GRANT CREATE ON DATABASE {quoted(str(bare_url.database))} TO {quoted(owner)}")
    sql.rows(f"SET ROLE {quoted(owner)}")
    load_version(sql, 1)
    sql.rows(f"GRANT USAGE ON SCHEMA payproc TO {quoted(user)}")
    sql.rows(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA payproc TO {quoted(user)}")
    sql.rows("RESET ROLE")

    def command_of(role: str) -> InProcess:
        return InProcess(tmp_path, bare_url.set(username=role, password=PASSWORD))

    return Owned(OldDatabase(bare_url, sql, command_of(owner)), owner, user, command_of(user))


def test_privileges_are_kept(owned: Owned) -> None:
    """A role with rights on the old tables has them on the new ones, and can use every command."""
    assert owned.old.run("init")[:2] == (0, "\n".join([*BROUGHT_UP, ""]))
    run = owned.as_user
    assert run.summary("-", stdin=event_line("new_1", "pay_sold", "refund"))["reasons"] == {"transition": 1}
    resolve = ["resolve", "evt_10", "--dismiss", "--note", "n", "--yes"]
    correct = ["correct", "pay_sold", "--to", "failed", "--note", "n", "--yes"]
    for command in (["show", "pay_sold"], ["review"], ["verify"], ["runs"], ["export"], resolve, correct):
        assert run(*command).code == 0, command
    assert owned.old.sql.rows(
        "SELECT relname, array_agg(privilege_type ORDER BY privilege_type) FROM pg_class, aclexplode(relacl)"
        " WHERE relnamespace = 'payproc'::regnamespace AND relkind = 'r' AND grantee = %s::regrole"
        " GROUP BY relname ORDER BY relname",
        quoted(owned.user),
    ) == [
        (table, ["INSERT", "SELECT", "UPDATE"])
        for table in ("corrections", "event_conflicts", "events", "payments", "redeliveries", "resolutions", "runs")
    ]


def test_superuser_keeps_the_owner(owned: Owned) -> None:
    """Tables that a superuser adds belong to the owner of the schema."""
    assert owned.old.bring_up() == BROUGHT_UP
    relation_owners = "SELECT relowner::regrole::text FROM pg_class WHERE relnamespace = 'payproc'::regnamespace"
    assert set(owned.old.sql.rows(relation_owners)) == {(quoted(owned.owner),)}
    assert owned.old.run("init")[:2] == (0, f"{UP_TO_DATE}\n")
    assert owned.old.run("verify").code == 0


def test_other_role_is_referred_to_the_owner(owned: Owned) -> None:
    """The message names the role that can run `payproc init`."""
    before = owned.old.state()
    error = one_error(owned.as_user, "init")
    assert owned.owner in error.replace('""', '"')
    assert "payproc init" in error
    assert owned.old.state() == before


def test_other_procedure_is_replaced_by_its_owner(owned: Owned) -> None:
    """Another role goes on with the procedure that it finds, and is warned."""
    old, limited = owned.old, owned.as_user
    old.bring_up()
    current = catalog(old.sql)
    old.install_other_procedure()
    other = catalog(old.sql)
    finished = limited("ingest", "-", "--quiet", stdin=event_line("new_1", "pay_new", "fail"))
    assert (finished.code, finished.stderr.count("\n")) == (0, 1), finished
    assert "procedure" in finished.stderr
    assert owned.owner in finished.stderr
    assert catalog(old.sql) == other
    finished = old.run("ingest", "-", "--quiet", stdin=event_line("new_2", "pay_new", "fail"))
    assert (finished.code, finished.stderr) == (0, f"payproc: {REPLACED}\n")
    assert catalog(old.sql) == current
    old.install_other_procedure()
    assert old.bring_up() == [REPLACED]
    assert catalog(old.sql) == current
    finished = limited("ingest", "-", "--quiet", stdin=event_line("new_3", "pay_new", "fail"))
    assert (finished.code, finished.stderr) == (0, "")
