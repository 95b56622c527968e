"""Fixtures: a real PostgreSQL, a database a test, and the installed command.

The server is the embedded one, in a temporary home. PAYPROC_TEST_POSTGRES=16 selects the wheel's
other version. PAYPROC_TEST_DATABASE_URL names another server, with a role that may create
databases. One template database a session has payproc's schema, and `CREATE DATABASE … TEMPLATE`
copies it for each test.

PAYPROC_TEST_SCHEMA=citus creates the template as `payproc init --citus` does, on the same plain
PostgreSQL. It has the tables, keys and procedure for Citus, and distributes nothing.

PAYPROC_TEST_CITUS names the machines of a cluster, and each database is on all of them.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import URL, make_url

from payproc.db import schema
from payproc.db.connection import Database
from payproc.embedded.binaries import POSTGRES_VERSION
from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.server import run_server
from tests.support.citus import MACHINES, NOT_ON_CLUSTER, cluster_server
from tests.support.command import Payproc
from tests.support.postgres import (
    IS_FOR_CITUS,
    IS_ON_CLUSTER,
    NewDatabase,
    Server,
    Sql,
    SqlOn,
    as_database,
    create_schema,
)
from tests.support.servers import OwnServers, Pristine, pristine_home, running
from tests.support.tally import figures

# The same examples in each run: a suite that is red today and green tomorrow teaches people to run
# it again. No deadline, for machines that are busy with other things.
settings.register_profile("any machine", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure() -> None:
    """Restore SIGINT, which background jobs of a shell ignore, and SIGHUP, which nohup does.

    Children inherit that.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that a cluster cannot run."""
    for item in items if MACHINES else ():
        for name in {item.path.stem, item.name.partition("[")[0], item.name} & NOT_ON_CLUSTER.keys():
            item.add_marker(pytest.mark.skip(reason=f"not on a Citus cluster: {NOT_ON_CLUSTER[name]}"))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the tally of a worker process."""
    figures.update(getattr(node, "workeroutput", {}).get("tally", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Return the tally of a worker process."""
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
    """Return the server that the tests work on."""
    if MACHINES:
        with cluster_server() as found:
            yield found
        return
    if given := os.environ.get("PAYPROC_TEST_DATABASE_URL"):
        with closing(Server(make_url(given).set(drivername="postgresql+psycopg2"))) as found:
            yield found
        return
    home = Path(tempfile.mkdtemp(prefix="payproc-tests-", dir=_memory()))
    try:
        version = int(os.environ.get("PAYPROC_TEST_POSTGRES", POSTGRES_VERSION))
        with run_server(home, version=version):
            pass
        with (home / "data" / "postgresql.conf").open("a") as settings:
            # Power cuts have a server of their own, and this makes a database a test affordable.
            settings.write("fsync = off\n")
        with run_server(home, version=version) as running:
            query = {"host": str(running.socket_folder)}
            url = URL.create("postgresql+psycopg2", SUPERUSER, database="postgres", query=query)
            with closing(Server(url)) as found:
                yield found
    finally:
        shutil.rmtree(home)


def _memory() -> Path | None:
    """Return a folder in memory with room for a server, or None. Each database has 300 files."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > 4 << 30 else None


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """Create a database with payproc's schema and nothing else."""
    with server.new_template() as url:
        database = as_database(url, "the template")
        if IS_ON_CLUSTER:
            schema.bring_up(database, for_citus=True)
        else:
            with database.transaction() as cursor:
                create_schema(cursor, for_citus=IS_FOR_CITUS)
        yield str(url.database)


@pytest.fixture
def new_database(server: Server) -> Iterator[NewDatabase]:
    """Create databases for the test from a template, in its encoding or another."""
    made: list[URL] = []

    def make(template: str, encoding: str | None = None) -> URL:
        made.append(server.create_database(template, encoding))
        return made[-1]

    yield make
    for url in made:
        server.drop_database(url.database)


@pytest.fixture
def url(new_database: NewDatabase, template: str) -> URL:
    """Create a database for the test, with payproc's schema."""
    return new_database(template)


@pytest.fixture
def bare_url(new_database: NewDatabase) -> URL:
    """Create a database for the test, without payproc's schema."""
    return new_database("template0")


@pytest.fixture
def database(url: URL) -> Database:
    """Return the test's database as the program sees it."""
    return as_database(url, "the test database")


@pytest.fixture
def sql(url: URL) -> Iterator[Sql]:
    """Open SQL on the test's database."""
    with closing(Sql(url)) as connection:
        yield connection


@pytest.fixture
def sql_on() -> Iterator[SqlOn]:
    """Open SQL on any database."""
    with ExitStack() as opened:
        yield lambda url: opened.enter_context(closing(Sql(url)))


@pytest.fixture(scope="session")
def pristine() -> Iterator[Pristine]:
    """Create a server once, to copy for all tests that need their own."""
    with pristine_home() as found:
        yield found


@pytest.fixture
def own_server(pristine: Pristine) -> Iterator[OwnServers]:
    """Start servers for the test with settings of their own, and with payproc's schema."""
    with ExitStack() as started:
        yield lambda *settings, within="": started.enter_context(running(pristine, settings, within=within))


# ---- The command as a process --------------------------------------------------------------------


@pytest.fixture
def payproc(tmp_path: Path, url: URL) -> Payproc:
    """Return the command on the test's database."""
    return Payproc(tmp_path, url)
