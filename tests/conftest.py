"""What every test may use: a real PostgreSQL, a database of its own, and the installed command as a process.

The server is the embedded one, in a home that is thrown away; PAYPROC_TEST_POSTGRES=16 takes the wheel's other version,
and PAYPROC_TEST_DATABASE_URL another server, as a role that may create databases. One template database a session has
payproc's schema; `CREATE DATABASE … TEMPLATE` gives each test its own, committed and real.

PAYPROC_TEST_SCHEMA=citus makes the template as `payproc init --citus` does, on the same plain PostgreSQL: the tables,
keys and procedure that Citus would get, and nothing distributed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
import psycopg2.extensions
import pytest
from postgres import Sql, check_books, contents, wait_for
from servers import OwnServers, Pristine, pristine_home, running
from sqlalchemy import URL, make_url
from workload import messy_day

from payproc.batch import InputEvent
from payproc.db import connection as db
from payproc.db import schema
from payproc.db.location import parse_url
from payproc.embedded import server as embedded
from payproc.schemas import Malformed, parse_line

COMMAND = Path(sys.executable).with_name("payproc")

IS_FOR_CITUS = os.environ.get("PAYPROC_TEST_SCHEMA") == "citus"


_FIGURES = pytest.StashKey[Counter[str]]()


def pytest_configure() -> None:
    """Let Ctrl-C be heard: what a shell starts in the background ignores it, and so would every command under test."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def count(pytestconfig: pytest.Config) -> Callable[[str, int], None]:
    """Counts what was tried, such as crashes and lines; the totals are printed at the end of the run."""
    figures = pytestconfig.stash.setdefault(_FIGURES, Counter())

    def add(what: str, times: int = 1) -> None:
        figures[what] += times

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was tried: the figures in the README's "How it is tested" are these."""
    if figures := config.stash.get(_FIGURES, None):
        terminalreporter.section("tried")
        for what, times in sorted(figures.items()):
            terminalreporter.line(f"{times:>12,}  {what}")


class Finished(NamedTuple):
    """What a finished process left."""

    code: int
    stdout: str
    stderr: str


class Server(NamedTuple):
    """A PostgreSQL server to make databases on."""

    url: URL

    def connect(self, name: str | None = None) -> psycopg2.extensions.connection:
        """Connect to one of its databases, in autocommit."""
        url = self.url if name is None else self.url.set(database=name)
        connection = psycopg2.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
        connection.autocommit = True
        return connection

    def execute(self, statement: str) -> None:
        """Run one statement on the server's own database."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server that the tests work on."""
    if given := os.environ.get("PAYPROC_TEST_DATABASE_URL"):
        yield Server(make_url(given).set(drivername="postgresql+psycopg2"))
        return
    home = Path(tempfile.mkdtemp(prefix="payproc-tests-", dir=_memory()))
    try:
        version = int(os.environ.get("PAYPROC_TEST_POSTGRES", embedded.POSTGRES_VERSION))
        with embedded.running_server(home, version=version):
            pass
        with (home / "data" / "postgresql.conf").open("a") as settings:
            # Nobody pulls the plug on this server (who does has one of its own), and it makes a database a test.
            settings.write("fsync = off\n")
        with embedded.running_server(home, version=version) as running:
            query = {"host": str(running.socket_folder)}
            yield Server(URL.create("postgresql+psycopg2", embedded.SUPERUSER, database="postgres", query=query))
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
def is_for_citus() -> bool:
    """Whether the template has the variant for Citus: without a second unique key, and each commit waits."""
    return IS_FOR_CITUS


@pytest.fixture
def new_database(server: Server) -> Iterator[Callable[..., URL]]:
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
def url(new_database: Callable[[str], URL], template: str) -> URL:
    """A database of the test's own, with payproc's schema."""
    return new_database(template)


@pytest.fixture
def bare_url(new_database: Callable[[str], URL]) -> URL:
    """A database of the test's own, without payproc's schema."""
    return new_database("template0")


@pytest.fixture
def database(url: URL) -> db.Database:
    """The test's own database, as the program sees it."""
    return as_database(url, "the test database")


def as_database(url: URL, name: str) -> db.Database:
    """A database as the program sees it."""
    return db.Database(parse_url(url.render_as_string(hide_password=False), name), name)


@pytest.fixture
def database_at() -> Callable[[URL, str], db.Database]:
    """Gives any database as the program sees it."""
    return as_database


@pytest.fixture
def sql(url: URL) -> Iterator[Sql]:
    """SQL on the test's own database."""
    with closing(Sql(url)) as connection:
        yield connection


@pytest.fixture
def sql_on() -> Iterator[Callable[[URL], Sql]]:
    """Gives SQL on any database."""
    with ExitStack() as opened:
        yield lambda url: opened.enter_context(closing(Sql(url)))


@pytest.fixture
def wait() -> Callable[[Callable[[], Any]], Any]:
    """Polls until something is so."""
    return wait_for


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


class Payproc:
    """The installed command, with a working directory and an environment of its own."""

    def __init__(self, folder: Path, url: URL | None) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TZ", "TMPDIR")}
        # No terminal, no user's settings; COLUMNS as a pipe would have it.
        self.environment = {**kept, "HOME": str(folder), "PAYPROC_HOME": str(folder / "home"), "COLUMNS": "80"}
        if url is not None:
            rendered = url.set(drivername="postgresql").render_as_string(hide_password=False)
            self.environment["DATABASE_URL"] = rendered

    def start(self, *arguments: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
        """Start the command and leave it running."""
        environment = {**self.environment, **options.pop("env", {})}
        return subprocess.Popen(
            [options.pop("command", COMMAND), *arguments],
            cwd=self.folder,
            env=environment,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def __call__(self, *arguments: str | Path, stdin: bytes | None = None, **options: Any) -> Finished:
        """Run the command to its end."""
        if stdin is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*arguments, **options) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout=120)
            except BaseException:
                process.kill()
                raise
        assert b"Traceback" not in (stderr or b""), stderr.decode()
        return Finished(process.returncode, (stdout or b"").decode(), (stderr or b"").decode())

    def summary(self, *arguments: str | Path, code: int = 0, **options: Any) -> dict[str, Any]:
        """Ingest, and give the summary as a script gets it."""
        finished = self("ingest", "--format", "json", *arguments, **options)
        assert finished.code == code, finished
        summary: dict[str, Any] = json.loads(finished.stdout)
        return summary


@pytest.fixture
def payproc(tmp_path: Path, url: URL) -> Payproc:
    """The command on the test's own database."""
    return Payproc(tmp_path, url)


@pytest.fixture
def payproc_on(tmp_path: Path) -> Callable[[URL | None], Payproc]:
    """Makes the command for another database, or for none that is named."""
    return lambda url: Payproc(tmp_path, url)


# ---- Events ---------------------------------------------------------------------------------------


def event_line(event_id: str, payment_id: str, event_type: str, **more: object) -> bytes:
    """An input line."""
    return json.dumps({"event_id": event_id, "payment_id": payment_id, "type": event_type, **more}).encode()


def received(*facts: tuple[str, str, str], source: int = 0, first_line: int = 1) -> list[InputEvent]:
    """Events (event_id, payment_id, type) as if read from one source."""
    result = []
    for number, fact in enumerate(facts, first_line):
        parsed = parse_line(event_line(*fact))
        assert not isinstance(parsed, Malformed)
        result.append(InputEvent(*parsed, source, number))
    return result


@pytest.fixture
def line() -> Callable[..., bytes]:
    """Makes an input line."""
    return event_line


@pytest.fixture
def events() -> Callable[..., list[InputEvent]]:
    """Makes events (event_id, payment_id, type) as if read from one source."""
    return received


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[[str, Sequence[bytes]], Path]:
    """Writes a file of lines."""

    def write(name: str, lines: Sequence[bytes]) -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(each + b"\n" for each in lines))
        return path

    return write


# ---- What is stored -------------------------------------------------------------------------------


@pytest.fixture
def stored(sql: Sql) -> Callable[[], dict[str, list[tuple[Any, ...]]]]:
    """Gives everything that is stored, but run numbers and times."""
    return lambda: contents(sql)


@pytest.fixture
def stored_in() -> Callable[[Sql], dict[str, list[tuple[Any, ...]]]]:
    """Gives everything that any database holds, but run numbers and times."""
    return contents


@pytest.fixture
def books_are_right(sql: Sql) -> Callable[[], None]:
    """Checks that every payment's history explains its state."""
    return lambda: check_books(sql)


@pytest.fixture
def messy() -> Callable[[int, int], list[bytes]]:
    """Makes the lines of a messy day, about `count`, from a seed."""
    return lambda seed, count: [line.raw for line in messy_day(seed, count)]
