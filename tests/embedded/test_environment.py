"""Variables of libpq, which must not lead a command away from the embedded database."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from payproc.db.location import open_database
from payproc.embedded.home import HOME_VARIABLE
from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.server import EmbeddedServer, run_server
from payproc.notes import drop_note
from tests.support.command import Payproc
from tests.support.events import event_line
from tests.support.homes import connect, copy_home, temporary_folder

LEADING_AWAY = {
    "PGHOST": "nowhere.invalid",
    "PGHOSTADDR": "127.0.0.1",
    "PGPORT": "1",
    "PGUSER": "somebody",
    "PGDATABASE": "nowhere",
    "PGOPTIONS": "-c no_such=1",
    "PGSSLMODE": "require",
    "PGGSSENCMODE": "require",
    "PGREQUIREPEER": "somebody",
    "PGTARGETSESSIONATTRS": "standby",
}
"""Values that lead elsewhere or nowhere. Other variables get a value that libpq or the server
refuses."""


@pytest.fixture(scope="module")
def server(home_template: Path) -> Iterator[EmbeddedServer]:
    """A server that runs as long as the tests of this module."""
    with temporary_folder() as folder, run_server(copy_home(home_template, folder / "home")) as server:
        yield server


def find_variables() -> list[str]:
    """Return the environment variables of this process's libpq, from its own text."""
    (library,) = {
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if re.search(r"/libpq[-.]", line)
    }
    found = re.findall(rb"(?<=\0)PG[A-Z]{2,}(?=\0)", Path(library).read_bytes())
    assert {b"PGHOST", b"PGHOSTADDR", b"PGSERVICE", b"PGTZ"} <= set(found)
    return sorted({name.decode() for name in found})


@pytest.mark.parametrize("variable", [*find_variables(), "all of them"])
def test_libpq_variable_leads_nowhere_else(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in find_variables() if variable == "all of them" else [variable]:
        monkeypatch.setenv(name, LEADING_AWAY.get(name, "hostile"))
    monkeypatch.setenv(HOME_VARIABLE, str(server.home))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(server.home)
    with open_database(None, drop_note) as database, closing(database.connect()) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('data_directory'), current_user, inet_server_addr()")
            assert cursor.fetchall() == [(str(server.home / "data"), SUPERUSER, None)]
        assert database.where == str(server.home)


def test_connect_args_override_variables(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters alone suffice, before payproc removes any variable."""
    for name, value in LEADING_AWAY.items():
        monkeypatch.setenv(name, value)
    connect(server).close()


def test_command_ignores_all_libpq_variables(server: EmbeddedServer, tmp_path: Path) -> None:
    payproc = Payproc(tmp_path, None)
    payproc.environment["PAYPROC_HOME"] = str(server.home)
    hostile = {name: LEADING_AWAY.get(name, "hostile") for name in find_variables()}
    line = event_line("e1", "p1", "authorize")
    finished = payproc("ingest", "--format", "json", stdin=line, env=hostile)
    assert finished.code == 0, finished
    assert json.loads(finished.stdout)["database"] == str(server.home)
    assert "p1 is authorized" in payproc("show", "p1").stdout


def test_command_reads_no_password_file(server: EmbeddedServer, tmp_path: Path) -> None:
    """libpq would complain about the permissions of this one."""
    payproc = Payproc(tmp_path, None)
    password_file = payproc.folder / ".pgpass"
    password_file.write_text("*:*:*:*:s3cret\n")
    password_file.chmod(0o644)
    assert payproc("init", "--quiet", env={"PAYPROC_HOME": str(server.home)}).stderr == ""
