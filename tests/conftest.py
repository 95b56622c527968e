"""What every test may use: a real PostgreSQL, a database of its own, and the installed command as a process.

The server is the embedded one, in a home that is thrown away; PAYPROC_TEST_POSTGRES=16 takes the wheel's other version,
and PAYPROC_TEST_DATABASE_URL another server, as a role that may create databases. One template database a session has
payproc's schema; `CREATE DATABASE … TEMPLATE` gives each test its own, committed and real.

PAYPROC_TEST_SCHEMA=citus makes the template as `payproc init --citus` does, on the same plain PostgreSQL: the tables,
keys and procedure that Citus would get, and nothing distributed.
"""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, make_url

from payproc.db import schema
from payproc.db.connection import Database
from payproc.embedded.binaries import POSTGRES_VERSION
from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.server import run_server
from tests.support.command import Payproc
from tests.support.postgres import IS_FOR_CITUS, NewDatabase, Server, Sql, SqlOn, as_database
from tests.support.servers import OwnServers, Pristine, pristine_home, running
from tests.support.tally import figures


def pytest_configure() -> None:
    """Let Ctrl-C be heard: what a shell starts in the background ignores it, and so would every command under test."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the tally of a worker process."""
    figures.update(getattr(node, "workeroutput", {}).get("tally", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the tally of a worker process over."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = dict(figures)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tally. The figures in tests/README.md are from here."""
    if figures:
        terminalreporter.section("tried")
        for what, times in sorted(figures.items()):
            terminalreporter.line(f"{times:>12,}  {what}")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server that the tests work on."""
    if given := os.environ.get("PAYPROC_TEST_DATABASE_URL"):
        yield Server(make_url(given).set(drivername="postgresql+psycopg2"))
        return
    home = Path(tempfile.mkdtemp(prefix="payproc-tests-", dir=_memory()))
    try:
        version = int(os.environ.get("PAYPROC_TEST_POSTGRES", POSTGRES_VERSION))
        with run_server(home, version=version):
            pass
        with (home / "data" / "postgresql.conf").open("a") as settings:
            # Nobody pulls the plug on this server (who does has one of its own), and it makes a database a test.
            settings.write("fsync = off\n")
        with run_server(home, version=version) as running:
            query = {"host": str(running.socket_folder)}
            yield Server(URL.create("postgresql+psycopg2", SUPERUSER, database="postgres", query=query))
    finally:
        shutil.rmtree(home)


def _memory() -> Path | None:
    """A folder in memory with room for a server, if there is one: a database a test is some 300 files each."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > 4 << 30 else None


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """A database that has payproc's schema and nothing else."""
    name = f"payproc_template_{uuid.uuid4().hex[:8]}"
    server.execute(f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8'")
    with as_database(server.url.set(database=name), name).transaction() as cursor:
        schema.create_schema(cursor, for_citus=IS_FOR_CITUS)
    yield name
    server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def new_database(server: Server) -> Iterator[NewDatabase]:
    """Makes databases from a template, with its encoding or another, for as long as the test runs."""
    made: list[str] = []

    def make(template: str, encoding: str | None = None) -> URL:
        name = f"payproc_test_{uuid.uuid4().hex[:12]}"
        options = f" ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'" if encoding else ""
        server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"{options}')
        made.append(name)
        return server.url.set(database=name)

    yield make
    for name in made:
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def url(new_database: NewDatabase, template: str) -> URL:
    """A database of the test's own, with payproc's schema."""
    return new_database(template)


@pytest.fixture
def bare_url(new_database: NewDatabase) -> URL:
    """A database of the test's own, without payproc's schema."""
    return new_database("template0")


@pytest.fixture
def database(url: URL) -> Database:
    """The test's own database, as the program sees it."""
    return as_database(url, "the test database")


@pytest.fixture
def sql(url: URL) -> Iterator[Sql]:
    """SQL on the test's own database."""
    with closing(Sql(url)) as connection:
        yield connection


@pytest.fixture
def sql_on() -> Iterator[SqlOn]:
    """Gives SQL on any database."""
    with ExitStack() as opened:
        yield lambda url: opened.enter_context(closing(Sql(url)))


@pytest.fixture(scope="session")
def pristine() -> Iterator[Pristine]:
    """A server that was created once, for all tests that want one of their own."""
    with pristine_home() as found:
        yield found


@pytest.fixture
def own_server(pristine: Pristine) -> Iterator[OwnServers]:
    """Starts servers with settings of their own, for as long as the test runs. They have payproc's schema."""
    with ExitStack() as started:
        yield lambda *settings, within="": started.enter_context(running(pristine, settings, within=within))


# ---- The command as a process ---------------------------------------------------------------------


@pytest.fixture
def payproc(tmp_path: Path, url: URL) -> Payproc:
    """The command on the test's own database."""
    return Payproc(tmp_path, url)
