"""The mark: the comment on the table runs that describes the schema.

Belongs here: writing and reading the mark, and advice if it is lost. It holds the schema's version,
its variant (one server, or Citus), and a digest of the procedure and the views, which have no
version of their own.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import psycopg2.extensions

from payproc.db.citus import refuse_earlier_layout, refuse_worker
from payproc.errors import CannotFinish

VERSION = 3
"""Version of the tables. Each version after the first has a file in versions/ that leads to it."""

_TABLES = {"payments", "events", "event_conflicts", "runs", "resolutions"}
"""The tables of every version."""

_LATER_TABLES = ((2, "corrections"), (3, "redeliveries"))
"""Later tables, each with the version that added it."""

_PATTERN = re.compile(r"payproc schema version (\d+)( for Citus)?( by payment)?(?:, procedure ([0-9a-f]+))?")
"""Without "by payment", a schema for Citus has the layout of earlier versions."""

_RELATIONS = """
    SELECT relname::text, pg_catalog.obj_description(oid, 'pg_class'), pg_catalog.pg_get_userbyid(relowner)::text,
           relkind::text, relpersistence::text
    FROM pg_catalog.pg_class
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'payproc')
"""

_PROCEDURES = """
    SELECT prosrc FROM pg_catalog.pg_proc
    WHERE pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'payproc')
          AND proname = 'record_decisions'
"""

_HAS_UNIQUE_POSITIONS = """
    SELECT FROM pg_catalog.pg_constraint WHERE conrelid = %s::regclass::oid AND contype = 'u'
"""
"""A key of events that earlier versions lack on Citus."""


class Mark(NamedTuple):
    """Version and variant of a schema, and the digest of its procedure and views.

    The digest is None during an upgrade.
    """

    version: int
    for_citus: bool
    digest: str | None

    def __str__(self) -> str:
        variant = " for Citus by payment" if self.for_citus else ""
        procedure = f", procedure {self.digest}" if self.digest else ""
        return f"payproc schema version {self.version}{variant}{procedure}"


class FoundSchema(NamedTuple):
    """The schema as a database has it."""

    mark: Mark
    owner: str
    unlogged: list[str]
    """Tables that a crash of the server would empty."""
    bodies: list[str]
    """Sources of the procedure. It may be gone, or replaced by somebody."""
    views: set[str]
    """The views that are there."""


def make_mark_statement(mark: Mark) -> str:
    """Return the statement that writes a mark."""
    return f"COMMENT ON TABLE payproc.runs IS '{mark}'"


def read_schema(cursor: psycopg2.extensions.cursor, where: str) -> FoundSchema | None:
    """Return the schema of the database `where`, or None.

    Raises CannotFinish if it is damaged or not payproc's, or if the server is a worker of Citus.
    """
    cursor.execute(_RELATIONS)
    relations = {name: rest for name, *rest in cursor.fetchall()}
    tables = [name for name, (_, _, kind, _) in relations.items() if kind == "r"]
    if not set(tables) >= _TABLES:
        refuse_worker(cursor, where)
        if not relations:
            return None
        raise CannotFinish(
            f"the schema payproc of the database {where} belongs to another application: it holds {len(relations)} "
            "other tables and indexes; name another database"
        )
    comment, owner, *_ = relations["runs"]
    found = _PATTERN.fullmatch(comment or "")
    if found is None:
        cursor.execute(_HAS_UNIQUE_POSITIONS, ("payproc.events",))
        if not cursor.rowcount:
            refuse_earlier_layout(where)
        raise CannotFinish(
            f"the schema payproc of the database {where} has lost its mark, as by a restore without comments; as its "
            f"owner {owner} run: {make_mark_statement(_recognize(tables))}"
        )
    if found[2] and not found[3]:
        refuse_earlier_layout(where)
    mark = Mark(int(found[1]), bool(found[2]), found[4])
    for version, name in _LATER_TABLES:
        if version <= mark.version <= VERSION and name not in tables:
            raise CannotFinish(
                f"the schema payproc of the database {where} lacks its table {name}; restore it from a backup"
            )
    cursor.execute(_PROCEDURES)
    bodies = [body for (body,) in cursor.fetchall()]
    unlogged = sorted(name for name in tables if relations[name][3] == "u")
    views = {name for name, (_, _, kind, _) in relations.items() if kind == "v"}
    return FoundSchema(mark, owner, unlogged, bodies, views)


def _recognize(tables: Sequence[str]) -> Mark:
    """Return the mark of a schema that has lost it, by its tables."""
    version = max((version for version, name in _LATER_TABLES if name in tables), default=1)
    return Mark(version, for_citus="event_ids" in tables, digest=None)
