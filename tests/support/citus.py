"""A running Citus cluster: a database on all of its machines, for as long as a test runs."""

import os
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import get_context
from typing import NamedTuple

import psycopg2
from sqlalchemy import URL, make_url

from tests.support.old_schemas import dump_of
from tests.support.postgres import Server, Sql, SqlOn

MACHINES = [
    Server(make_url(url).set(drivername="postgresql+psycopg2"))
    for url in os.environ.get("PAYPROC_TEST_CITUS", "").split()
]
"""The coordinator, then the workers. Empty without a cluster."""

_TRIGGER = "makes a fault with a trigger, which distributed tables cannot have"

_ORDER = "needs two payments in the order of the input, and they are on two machines"

_MOVE = "damages a row by moving it to another payment, which Citus refuses"

_UNINVITED = "a command creates the schema unasked, which it does not do on a coordinator"

_SOCKET = "reaches the server by its socket"

NOT_ON_CLUSTER = {
    "test_record_decisions": "one CALL for payments of several machines",
    "test_swallowed_row_is_not_reported": _TRIGGER,
    "test_rejected_events_are_isolated": _TRIGGER,
    "test_lost_citus_worker_is_retried": _TRIGGER,
    "test_history_beyond_its_version_ends_the_run": "Citus does not pass on the name of the key",
    "test_ingest_decides_again_after_a_correction": _ORDER,
    "test_ingest_decides_again_after_a_resolution": _ORDER,
    "test_stray_correction_leaves_counts_right": _MOVE,
    "test_stray_resolution_leaves_counts_right": _MOVE,
    "test_damage_is_found_and_named[a correction of a payment that is not on record]": _MOVE,
    "test_long_queue_is_read_once": "counts the rows that one server has read",
    "test_export_is_one_snapshot_in_blocks": "Citus has no snapshot over several machines",
    "test_hostile_public": "Citus' own queries of the shards call functions that shadow the catalog's",
    "test_init_on_a_server_without_citus": "has Citus",
    "test_role_without_rights_gets_advice": _UNINVITED,
    "test_role_with_the_advised_rights_can_ingest": _UNINVITED,
    "test_export_is_deterministic": _UNINVITED,
    "test_callers_variables_fill_gaps_of_the_url": _SOCKET,
    "test_url_of_several_hosts_reaches_the_same": _SOCKET,
    "test_password_is_only_in_the_environment": _SOCKET,
    "test_sql_in_any_argument_is_text": _SOCKET,
}
"""Tests that a cluster cannot run, or whole files of them, each with its reason."""


_DISTRIBUTED_BY = {
    "events": "event_id",
    "event_conflicts": "event_id",
    "resolutions": "event_id",
    "payments": "payment_id",
    "corrections": "payment_id",
}
"""The layout of versions 1 and 2."""


class Cluster(NamedTuple):
    """One database on all machines."""

    coordinator: URL
    workers: list[URL]


@contextmanager
def new_cluster(machines: Sequence[Server] = MACHINES, last_encoding: str = "UTF8") -> Iterator[Cluster]:
    """Create a database with the extension on each machine, and connect the machines."""
    name = f"payproc_test_{uuid.uuid4().hex[:12]}"
    coordinator, *workers = (machine.url.set(database=name) for machine in machines)
    with ExitStack() as made:
        made.callback(drop_database, name, machines)
        for machine in machines[::-1]:
            encoding = last_encoding if machine is machines[-1] else "UTF8"
            machine.execute(f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
            with closing(Sql(machine.url.set(database=name))) as sql:
                sql.rows("CREATE EXTENSION citus")
        with closing(Sql(machines[0].url)) as turn, closing(Sql(coordinator)) as sql:
            # Each node gets the roles of the coordinator, which two sessions cannot do at once.
            turn.rows("SELECT pg_advisory_lock(0)")
            sql.rows("SELECT citus_set_coordinator_host(%s, %s)", coordinator.host, coordinator.port or 5432)
            for worker in workers:
                sql.rows("SELECT citus_add_node(%s, %s)", worker.host, worker.port or 5432)
        yield Cluster(coordinator, workers)


def drop_database(name: str, machines: Sequence[Server] = MACHINES) -> None:
    """Drop a database on each machine."""
    end_sessions(name, machines)
    for machine in machines:
        machine.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def end_sessions(name: str, machines: Sequence[Server] = MACHINES) -> None:
    """End all sessions of a database, Citus' daemons included, and allow no new ones."""
    for statement in (
        f"UPDATE pg_database SET datallowconn = false WHERE datname = '{name}'",
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'",
    ):
        for machine in machines:
            machine.execute(statement)


class ClusterServer(Server):
    """The coordinator, which makes each database on all machines."""

    def __init__(self, bare: str) -> None:
        super().__init__(MACHINES[0].url)
        self._bare = bare
        self._pool = ThreadPoolExecutor(len(MACHINES))
        # Not threads, because commands in process set the driver's wait callback, which is global.
        self._droppers = ProcessPoolExecutor(8, get_context("spawn"))
        self._drops: dict[str, Future[None]] = {}

    @contextmanager
    def new_template(self) -> Iterator[URL]:
        """Create a database with the extension and connected machines, to be filled and copied."""
        url = self.create_database("template0")
        yield url
        self.drop_database(url.database)

    def create_database(self, template: str, encoding: str | None = None) -> URL:
        """Copy a template on each machine, in a fifth of the time that connecting them anew takes.

        A database in an encoding of its own is plain PostgreSQL, on the coordinator's machine.
        """
        if encoding is not None:
            return super().create_database(template, encoding)
        source = self._bare if template == "template0" else template
        name = f"payproc_test_{uuid.uuid4().hex[:12]}"
        end_sessions(source)
        statement = f'CREATE DATABASE "{name}" TEMPLATE "{source}"'
        list(self._pool.map(lambda machine: machine.execute(statement), MACHINES))
        return self.url.set(database=name)

    def drop_database(self, name: str | None) -> None:
        """Drop a database on each machine, in the background because Citus' daemon needs 2 s."""
        self._drops[str(name)] = self._droppers.submit(drop_database, str(name))

    def close(self) -> None:
        """Wait until all databases are dropped."""
        with self._pool, self._droppers:
            for name, dropped in self._drops.items():
                try:
                    dropped.result()
                except psycopg2.OperationalError:  # a test killed a machine meanwhile
                    drop_database(name)
        super().close()


@contextmanager
def cluster_server() -> Iterator[ClusterServer]:
    """Connect the machines in one database, for the others to be copied from."""
    with new_cluster() as bare, closing(ClusterServer(str(bare.coordinator.database))) as server:
        yield server


def cluster_of(url: URL) -> Cluster:
    """Return a database of the cluster, on all machines."""
    return Cluster(url, [machine.url.set(database=url.database) for machine in MACHINES[1:]])


@contextmanager
def new_role(sql: Sql, *, on_workers: bool = True) -> Iterator[str]:
    """Create a superuser without a password, on all machines or on the coordinator alone."""
    name = f"payproc_test_{uuid.uuid4().hex[:12]}"
    server = MACHINES[0]
    try:
        if on_workers:
            sql.rows(f"CREATE ROLE {name} LOGIN")
        else:
            server.execute(f"CREATE ROLE {name} LOGIN SUPERUSER")  # Citus propagates nothing from this database
        yield name
    finally:
        if on_workers:
            sql.rows(f"DROP OWNED BY {name} CASCADE")
            sql.rows(f"DROP ROLE {name}")
        else:
            server.execute(f"DROP ROLE {name}")


def load_distributed_version(sql: Sql, version: int) -> None:
    """Load a database of an earlier version, and distribute its tables as that version did."""
    sql.rows(dump_of(version, for_citus=True).read_text("utf-8"))
    present = {name for (name,) in sql.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'payproc'")}
    first: dict[str, str] = {}
    for table, column in _DISTRIBUTED_BY.items():
        if table in present:
            beside = first.setdefault(column, "none")
            sql.rows(f"SELECT create_distributed_table('payproc.{table}', %s, colocate_with => %s)", column, beside)
            sql.rows(f"SELECT truncate_local_data_after_distributing_table('payproc.{table}')")
            first[column] = first[column].replace("none", f"payproc.{table}")


def find_blocked_backends(sql_on: SqlOn, cluster: Cluster) -> dict[URL, list[int]]:
    """Return the backends of each worker that wait for a lock."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    found = {url: [pid for (pid,) in sql_on(url).rows(query)] for url in cluster.workers}
    return {url: pids for url, pids in found.items() if pids}
