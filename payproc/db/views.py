"""The views for psql, dashboards and other programs that only read.

Belongs here: the statements of report_views.sql, the privileges of a role that reads nothing else,
and the definition of a pending review, which commands and views share.
"""

from collections.abc import Sequence
from pathlib import Path

from psycopg2.extensions import quote_ident

from payproc.db.citus import DISTRIBUTED_BY, name_event_ids
from payproc.db.connection import Database
from payproc.db.mark import read_schema
from payproc.errors import CannotFinish, WrongUsage
from payproc.escape import unambiguous
from payproc.logic import TABLE, is_legal

PENDING = """payproc.events LEFT JOIN payproc.resolutions USING (payment_id, event_id)
    WHERE events.outcome OPERATOR(pg_catalog.=) 'MANUAL_REVIEW' AND resolutions.event_id IS NULL"""
"""Pending reviews, as the FROM and WHERE of a query.

OPERATOR(pg_catalog.=): a plain = on an ENUM takes an exact match in `public`. The index
events_for_review serves the catalog's own.
"""

VIEWS = ("report_payments", "report_history", "report_queue", "report_runs")

_FILE = Path(__file__).with_name("report_views.sql")


def read_views(*, for_citus: bool) -> str:
    """Return the statements that create the views, or replace them."""
    pairs = [
        (state.value, event_type.value)
        for state, decisions in TABLE.items()
        for event_type in decisions
        if is_legal(state, event_type)
    ]
    _, create, statements = _FILE.read_text("utf-8").partition("\nCREATE")  # without the comment above
    legal = ", ".join(f"('{state}', '{kind}')" for state, kind in pairs)
    views = f"{create}{statements}".strip().replace("{legal}", legal).replace("{pending}", PENDING)
    return views.replace("{event_ids}", name_event_ids(for_citus=for_citus))


_CAN_READ = """
    SELECT pg_catalog.has_schema_privilege(%(role)s, 'payproc', 'USAGE') AND pg_catalog.bool_and(
        pg_catalog.has_table_privilege(%(role)s, oid, 'SELECT'))
    FROM pg_catalog.pg_class WHERE relnamespace = 'payproc'::regnamespace::oid AND relname = ANY (%(views)s)
"""


def grant_views(database: Database, role: str, grants: Sequence[str]) -> None:
    """Run the statements of `list_grants`.

    Raises CannotFinish if the role cannot read the views after them. For a caller who may not
    grant, PostgreSQL's answer is an error or only a warning.
    """
    with database.transaction() as cursor:
        for grant in grants:
            cursor.execute(grant)
        cursor.execute(_CAN_READ, {"role": role, "views": [*VIEWS]})
        if cursor.fetchone() != (True,):
            raise CannotFinish(
                f"--reader: the role of the database {database.where} may not grant the views; run "
                "payproc init --reader as the owner of the schema payproc"
            )


def list_grants(database: Database, role: str, *, for_citus: bool = False) -> list[str]:
    """Return the statements that let a role read the views, and nothing else.

    On Citus, also the tables under them, because the other machines know the caller's rights alone.
    `for_citus` counts if there is no schema yet. Raises WrongUsage if the role is missing.
    """
    with database.transaction() as cursor:
        cursor.execute("SELECT FROM pg_catalog.pg_roles WHERE rolname = %s", (role,))
        if not cursor.rowcount:
            raise WrongUsage(
                f"--reader: the server of {database.where} has no role {unambiguous(role)}, expected one that exists; "
                "create it with CREATE ROLE"
            )
        name = quote_ident(role, cursor)
        found = read_schema(cursor, database.where)
    relations = [*VIEWS, *DISTRIBUTED_BY, "runs"] if (found.mark.for_citus if found else for_citus) else VIEWS
    names = ", ".join(f"payproc.{relation}" for relation in relations)
    return [f"GRANT USAGE ON SCHEMA payproc TO {name}", f"GRANT SELECT ON {names} TO {name}"]
