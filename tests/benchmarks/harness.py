"""The harness that all contenders share: a server, databases, the clock, and checks of the result.

Everything that must be the same for all contenders belongs here. Nothing here knows one.
"""

import itertools
import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import psycopg2
import psycopg2.extensions
from sqlalchemy import URL

from datasets import Line, contested, fresh, write
from payproc.db import connection as db
from payproc.db import schema
from payproc.embedded.server import EmbeddedServer

WARM_UP_EVENTS = 100
"""Events that a contender in this process handles before it is timed: first calls are slow."""


class Row(str, Enum):
    """A kind of input. Each has a table of its own."""

    FRESH = "fresh events"
    DUPLICATES = "all duplicates: the same events again"
    CONTESTED = "a contested mix: everything delivered twice at once"


@dataclass(frozen=True)
class Measured:
    """One timed run of one contender."""

    row: Row
    events: int
    seconds: float
    client_cpu: float
    """Seconds of processor time in the contender's own processes, from the first event to the
    last."""
    server_cpu: float | None
    """The same in PostgreSQL's processes; None where the system does not tell."""
    note: str = ""

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds


class Contender(Protocol):
    """A module that takes part."""

    @property
    def LABEL(self) -> str:  # noqa: N802 - a constant of a module
        """Return its name in the tables."""

    def measure(self, bench: "BenchServer", dataset: "Dataset") -> Iterator[Measured]:
        """Run once, in each row that it takes part in."""


@dataclass(frozen=True)
class Dataset:
    """The events of one round."""

    folder: Path
    size: int
    seed: int
    line_bytes: int = 0

    @cached_property
    def fresh(self) -> list[Line]:
        """All fresh events."""
        return list(fresh(self.size, self.seed, self.line_bytes))

    def part(self, most: int) -> list[Line]:
        """The first fresh events, for a slow contender; of a short dataset, a tenth."""
        return self.fresh[: min(most, max(WARM_UP_EVENTS, self.size // 10))]

    @cached_property
    def fresh_file(self) -> Path:
        """A file of them."""
        path = self.folder / "fresh.jsonl"
        write(path, self.fresh)
        return path

    def contested(self, deliveries: int) -> list[Line]:
        """Half as many lines, each of which is delivered twice at about the same time."""
        return contested(deliveries // 2, self.seed)

    @property
    def warm_up(self) -> list[Line]:
        """Events that are not timed, the same in each round."""
        return list(fresh(WARM_UP_EVENTS, -1))


@dataclass(frozen=True)
class BenchDatabase:
    """An empty database of a contender's own."""

    parameters: dict[str, Any]

    def connect(self) -> psycopg2.extensions.connection:
        """A connection in autocommit."""
        connection: psycopg2.extensions.connection = psycopg2.connect(**self.parameters)
        connection.autocommit = True
        return connection

    def url(self, driver: str) -> URL:
        """Return a URL for SQLAlchemy. The socket's folder is in the query, where every driver
        looks."""
        others = {name: value for name, value in self.parameters.items() if name in ("host", "port")}
        return URL.create(driver, self.parameters["user"], database=self.parameters["dbname"], query=others)

    def execute(self, *statements: str) -> None:
        """Run statements, each in its own transaction."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def check_books(self, recorded: int) -> None:
        """Exit unless payproc's tables hold the expected rows.

        Expected are `recorded` events, each with its own line as payload, and payments whose
        version and state fit their events.
        """
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT (SELECT count(*) FROM payproc.events), (SELECT sum(version) FROM payproc.payments),"
                " (SELECT count(*) FROM payproc.events WHERE payload->>'event_id' IS DISTINCT FROM event_id),"
                " (SELECT count(*) FROM payproc.payments JOIN payproc.events USING (payment_id)"
                "  WHERE events.position = payments.version AND events.state_after <> payments.state)"
            )
            found = cursor.fetchone()
        if found != (recorded, recorded, 0, 0):
            raise SystemExit(f"expected {recorded} events on record, versions as many, nothing wrong; found {found}")


@dataclass
class BenchServer:
    """The one server that all contenders use."""

    server: EmbeddedServer
    _names: Iterator[int] = field(default_factory=itertools.count)

    def check_settings(self) -> str:
        """Refuse a server whose commits are not durable; return its settings."""
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_level", "shared_buffers")
        with closing(self.main.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
            settings = dict(zip(names, cursor.fetchone() or (), strict=True))
        if any(settings[name] != "on" for name in ("fsync", "synchronous_commit", "full_page_writes")):
            raise SystemExit(f"this server does not wait for the disk: {settings}")
        return f"PostgreSQL {settings.pop('server_version')}, " + ", ".join(" ".join(item) for item in settings.items())

    @property
    def main(self) -> BenchDatabase:
        """The database that `payproc` uses by itself."""
        return BenchDatabase(self.server.connect_args)

    @contextmanager
    def database(self, *, with_schema: bool) -> Iterator[BenchDatabase]:
        """A new database, with payproc's tables or with nothing, for as long as it is needed."""
        name = f"bench_{next(self._names)}"
        self.main.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        database = BenchDatabase({**self.server.connect_args, "dbname": name})
        if with_schema:
            schema.bring_up(db.Database(database.parameters, name))
        try:
            yield database
        finally:
            self.main.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def timed(self, row: Row, events: int) -> Iterator[list[Measured]]:
        """Time the block; the list then holds the result.

        A checkpoint comes first, so no contender pays for the pages that another has changed.
        """
        self.main.execute("CHECKPOINT")
        result: list[Measured] = []
        client, server, began = client_cpu(), self._server_cpu(), time.perf_counter()
        yield result
        seconds = time.perf_counter() - began
        client, after = client_cpu() - client, self._server_cpu()
        result.append(
            Measured(row, events, seconds, client, None if server is None or after is None else after - server)
        )

    def _server_cpu(self) -> float | None:
        """Processor time of the server so far: its main process, those that ended, and those that
        still run."""
        if not Path("/proc/self/stat").exists():
            return None
        return postgres_cpu((self.server.home / "data" / "postmaster.pid").read_text().partition("\n")[0])


def postgres_cpu(main: str) -> float:
    """Processor time of the server with this main process, of its children that ended, and of
    those that still run."""
    ticks = sum(map(int, proc_stat(main)[11:15]))  # user, system, and both of children that ended
    for process in Path("/proc").glob("[0-9]*"):
        fields = proc_stat(process.name)
        if fields and fields[1] == main:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def proc_stat(process: str) -> Sequence[str]:
    """/proc/PID/stat from its third field on; nothing if the process is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ()


def client_cpu() -> float:
    """Processor time of this process and of the children that have ended."""
    both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in both)
