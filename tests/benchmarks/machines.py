"""The machines of a Citus cluster: databases on them, and processor time by machine.

All machines are servers on this host, because /proc tells processor time only here.
"""

import resource
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL

from harness import postgres_cpu, proc_stat

sys.path.append(str(Path(__file__).parents[2]))  # pytest has this folder on its path, a script has not
from tests.support.citus import MACHINES, new_cluster
from tests.support.postgres import Server, Sql

IDLE_SECONDS = 2

SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size")


@dataclass(frozen=True)
class Setup:
    """A database to compare: on one server, or on machines of a cluster."""

    label: str
    machines: Sequence[Server]

    @property
    def is_cluster(self) -> bool:
        return len(self.machines) > 1

    @contextmanager
    def database(self) -> Iterator[URL]:
        """Create an empty database."""
        if self.is_cluster:
            with new_cluster(self.machines) as cluster:
                yield cluster.coordinator.set(drivername="postgresql")
        else:
            server, name = self.machines[0], f"payproc_bench_{uuid.uuid4().hex[:12]}"
            server.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            try:
                yield server.url.set(drivername="postgresql", database=name)
            finally:
                server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass
class Cost:
    """Time and processor time of a block."""

    seconds: float = 0.0
    cpu: Mapping[str, float] = field(default_factory=dict)
    """Seconds of processor time: of the client, of each machine, and of all machines."""


CLIENT = "client"
SERVERS = "servers"


class Machines:
    """All machines of the cluster, by role."""

    def __init__(self) -> None:
        if len(MACHINES) < 2:
            raise SystemExit(
                "PAYPROC_TEST_CITUS: expected the URLs of a coordinator and of workers; see tests/README.md"
            )
        roles = ["coordinator", *(f"worker {number}" for number in range(1, len(MACHINES)))]
        self._postmasters = {role: _find_postmaster(machine) for role, machine in zip(roles, MACHINES, strict=True)}

    def setups(self) -> list[Setup]:
        """Return one server, the cluster with one worker, and the whole cluster.

        One server is a database of the coordinator's server without the extension. So it has the
        same programs, settings and disk as the machines of the cluster.
        """
        workers = len(MACHINES) - 1
        found = [Setup("one server", MACHINES[:1]), Setup("cluster, 1 worker", MACHINES[:2])]
        return found if workers == 1 else [*found, Setup(f"cluster, {workers} workers", MACHINES)]

    def print_settings(self) -> None:
        """Print the settings of each machine, and the processor time of idle ones."""
        for role, machine in zip(self._postmasters, MACHINES, strict=True):
            with closing(Sql(machine.url)) as sql:
                found = {name: sql.value(f"SHOW {name}") for name in SETTINGS}
            if any(found[name] != "on" for name in ("fsync", "synchronous_commit", "full_page_writes")):
                raise SystemExit(f"{role} does not wait for the disk: {found}")
            print(f"{role}: PostgreSQL {found.pop('server_version')}, " + ", ".join(map(" ".join, found.items())))
        with self.timed() as idle:
            time.sleep(IDLE_SECONDS)
        print(f"idle machines take {idle.cpu[SERVERS] / idle.seconds:.1%} of a core", flush=True)

    @contextmanager
    def timed(self) -> Iterator[Cost]:
        """Measure the block, after a checkpoint on all machines."""
        for machine in MACHINES:
            machine.execute("CHECKPOINT")
        cost = Cost()
        before, began = self._cpu(), time.perf_counter()
        yield cost
        cost.seconds = time.perf_counter() - began
        cost.cpu = {role: after - before[role] for role, after in self._cpu().items()}

    def _cpu(self) -> dict[str, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = {role: postgres_cpu(main) for role, main in self._postmasters.items()}
        return {CLIENT: children.ru_utime + children.ru_stime, **used, SERVERS: sum(used.values())}


def _find_postmaster(machine: Server) -> str:
    """Return the process id of the server's main process; exit if it is on another host."""
    with closing(Sql(machine.url)) as sql:
        main = str(sql.value("SELECT pg_read_file('postmaster.pid')")).partition("\n")[0]
        backend = str(sql.value("SELECT pg_backend_pid()"))
        fields = proc_stat(backend)
    if not fields or fields[1] != main:
        raise SystemExit(
            f"{machine.url.host}:{machine.url.port} is not a server on this host, where /proc would show it"
        )
    return main
