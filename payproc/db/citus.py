"""Citus: a database that is spread over the machines of a cluster.

Belongs here: the variant of the tables and procedures, their distribution, and the refusal of
databases that do not fit. A batch on Citus is in machines.py.

A cluster has one coordinator, which every command must connect to, and workers, which hold the
distributed rows. Citus shows the schema on all of them, except the table `runs`.
"""

from typing import NoReturn

import psycopg2.extensions

from payproc.errors import CannotFinish

WAIT_ON_MACHINES = "SET LOCAL citus.propagate_set_commands TO local; SET LOCAL synchronous_commit TO on"
"""Makes the commit on a worker wait for the disk, even if its own settings do not ask for it."""

LIFT_RESULT_LIMIT = "SET LOCAL citus.max_intermediate_result_size TO -1"
"""Citus answers some queries in steps. Of the rows between two it keeps 1 GB by default."""

_CLAIMS = """
    SELECT FROM pg_catalog.pg_class
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'payproc') AND relname = 'event_ids'
"""

DISTRIBUTED_BY = {
    "payments": "payment_id",
    "events": "payment_id",
    "resolutions": "payment_id",
    "corrections": "payment_id",
    "event_ids": "event_id",
    "event_conflicts": "event_id",
    "redeliveries": "event_id",
}
"""The column whose hash chooses a row's machine. Tables with the same column are kept together.

`runs` is missing, because it stays on the coordinator, the machine that the command talks to.
"""

_RECORDED_ASYNCHRONOUSLY = ("payments", "events", "event_conflicts", "redeliveries")
"""The tables that record_decisions writes, which commits before the disk has the rows.

While rows are on their way to the disk, Citus loses them if it moves their shard by logical
replication, because it waits only for what has left the memory: 10 of 60,000 events in a trial.
Without a replica identity it refuses that, and offers to block writes instead.
"""

SETTINGS = (
    # One connection to each machine: the types are created there by the same transaction as the
    # tables.
    "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'",
    # With this on, CREATE SCHEMA would put all tables of the schema on one machine.
    "SET LOCAL citus.enable_schema_based_sharding TO off",
)
"""Settings of the transaction that creates the tables for Citus."""

_ASYNCHRONOUS_COMMIT = "SET LOCAL synchronous_commit = off;"
"""The line at the start of each transaction of record_decisions."""

_EXTENSION = "SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus'"

_AVAILABLE = "SELECT installed_version FROM pg_catalog.pg_available_extensions WHERE name = 'citus'"

_OTHER_ENCODINGS = """
    SELECT pg_catalog.current_setting('server_encoding'), ''
    WHERE pg_catalog.current_setting('server_encoding') <> 'UTF8'
    UNION ALL
    SELECT result, pg_catalog.format(' on %s:%s', nodename, nodeport)
    FROM pg_catalog.run_command_on_all_nodes('SHOW server_encoding') JOIN pg_catalog.pg_dist_node USING (nodeid)
    WHERE success AND result <> 'UTF8'
"""

# Group 0 is the coordinator's, and every worker has a group of its own. Workers know all machines.
_CLUSTER = """
    SELECT (SELECT groupid FROM pg_catalog.pg_dist_local_group) <> 0,
           (SELECT count(*) FROM pg_catalog.pg_dist_node WHERE groupid <> 0),
           (SELECT min(pg_catalog.format('%s:%s', nodename, nodeport)) FROM pg_catalog.pg_dist_node WHERE groupid = 0)
"""


def name_event_ids(*, for_citus: bool) -> str:
    """Return the table that says which payment and type an event_id belongs to.

    On one server events are unique by event_id. On Citus its claim is made before the event.
    """
    return "event_ids" if for_citus else "events"


def narrow_to_machines(*, for_citus: bool) -> str:
    """Return the condition by which Citus finds the shards of many payments.

    Omitted on one server, whose planner would read all events for it if statistics are stale.
    """
    return "payment_id = ANY (%(payment_ids)s) AND" if for_citus else ""


def adapt_procedure(statement: str) -> str:
    """Return record_decisions with one more parameter, the payment_id that names its machine.

    Commits on other machines wait for their disks, because the last commit flushes only this one.
    Rows are on another machine if their shard has moved, or while Citus does not pass on the CALL.

    Each statement is planned anew, because Citus 14.0 keeps one more plan of a shard with each use
    of a plan that it keeps: 17 % of 2,000 events' time, and more with more of them.
    """
    settings = (
        f"{WAIT_ON_MACHINES};",
        "SET LOCAL citus.propagate_set_commands TO none;",
        _ASYNCHRONOUS_COMMIT,
        "SET LOCAL plan_cache_mode = force_custom_plan;",
    )
    return statement.replace("    in_run_id bigint,", "    in_payment_id text,\n    in_run_id bigint,", 1).replace(
        _ASYNCHRONOUS_COMMIT, "\n        ".join(settings)
    )


def list_distribution_statements() -> list[str]:
    """Return the statements that distribute the tables, and then the procedures."""
    statements = [f"ALTER TABLE payproc.{table} REPLICA IDENTITY NOTHING" for table in _RECORDED_ASYNCHRONOUSLY]
    first: dict[str, str] = {}
    for table, column in DISTRIBUTED_BY.items():
        # `none` keeps it away from the tables of other applications.
        beside = f"payproc.{first[column]}" if column in first else "none"
        first.setdefault(column, table)
        statements.append(
            f"SELECT pg_catalog.create_distributed_table('payproc.{table}', '{column}', colocate_with => '{beside}')"
        )
    # Citus runs a procedure on the machine of its first argument.
    text = ", text"
    procedures = {
        f"record_decisions(text, bigint{text * 13})": ("in_payment_id", "payments"),
        f"look_up_payments(text, bigint, timestamptz, integer{text * 3})": ("in_payment_id", "payments"),
        f"claim_event_ids(text, boolean{text * 3})": ("in_event_id", "event_ids"),
    }
    return statements + [
        f"SELECT pg_catalog.create_distributed_function('payproc.{procedure}', '{argument}', 'payproc.{table}')"
        for procedure, (argument, table) in procedures.items()
    ]


def is_for_citus(cursor: psycopg2.extensions.cursor) -> bool:
    """Return whether the tables are those for Citus: they alone have claims."""
    cursor.execute(_CLAIMS)
    return bool(cursor.rowcount)


def has_extension(cursor: psycopg2.extensions.cursor) -> bool:
    """Return whether the database has the extension citus."""
    cursor.execute(_EXTENSION)
    return bool(cursor.rowcount)


def refuse_worker(cursor: psycopg2.extensions.cursor, where: str) -> None:
    """Raise CannotFinish if the database named `where` is a worker's of a cluster."""
    is_worker, _, coordinator = _read_cluster(cursor)
    if is_worker:
        raise CannotFinish(
            f"the database {where} is on a worker of a Citus cluster, expected its coordinator; name the coordinator"
            f"{coordinator and ', '}{coordinator}"
        )


def require_choice(cursor: psycopg2.extensions.cursor, where: str) -> None:
    """Raise CannotFinish if the database named `where` is the coordinator's of a cluster.

    Tables for one server would stay on the coordinator for good, so the user has to choose. A
    coordinator without workers is one server.
    """
    _, workers, _ = _read_cluster(cursor)
    if workers:
        raise CannotFinish(
            f"the database {where} is on the coordinator of a Citus cluster, and its schema cannot be converted later; "
            "run `payproc init --citus` to spread it over the cluster, or `payproc init --no-citus` to keep it on the "
            "coordinator"
        )


def refuse_earlier_layout(where: str) -> NoReturn:
    """Raise CannotFinish for the layout of earlier versions, with events spread by event_id."""
    raise CannotFinish(
        f"the schema payproc of the database {where} has an earlier layout for Citus, with events spread by event_id, "
        "expected by payment_id; export it with that payproc into a new database, as payproc/db/citus.md describes"
    )


def require_extension(cursor: psycopg2.extensions.cursor, where: str) -> None:
    """Raise CannotFinish unless the extension citus is installed in the database named `where`."""
    cursor.execute(_AVAILABLE)
    available = cursor.fetchall()
    if not available:
        raise CannotFinish(
            f"the server of the database {where} does not have the extension citus, which --citus needs; name a Citus "
            "coordinator, or leave out --citus for one server"
        )
    if available == [(None,)]:
        raise CannotFinish(
            f"the database {where} does not have the extension citus, though its server does; run "
            "`CREATE EXTENSION citus` in it, on each machine, and then this command again"
        )


def require_utf8(cursor: psycopg2.extensions.cursor, where: str) -> None:
    """Raise CannotFinish unless the database has the encoding UTF8 on each machine.

    In another, an event_id may be claimed for an event that a machine then refuses to store, or
    read back as another event_id, whose claim is not found.
    """
    cursor.execute(_OTHER_ENCODINGS)
    for encoding, machine in cursor.fetchmany(1):
        raise CannotFinish(
            f"the database {where} has the encoding {encoding}{machine}, expected UTF8 on each machine of Citus; "
            "create it with ENCODING 'UTF8'"
        )


def _read_cluster(cursor: psycopg2.extensions.cursor) -> tuple[bool, int, str]:
    """Return whether the machine is a worker, the number of workers, and the coordinator's address.

    Without Citus the machine is no worker, and there are none.
    """
    if not has_extension(cursor):
        return False, 0, ""
    cursor.execute(_CLUSTER)
    ((is_worker, workers, coordinator),) = cursor.fetchall()
    return is_worker, workers, coordinator or ""
