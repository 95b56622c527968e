"""Databases with an earlier version of the schema, and the catalog of a schema for comparisons.

The dumps are one a version and variant. A past payproc recorded their rows.
"""

import re
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL

from payproc.db import schema
from payproc.db.connection import Database
from payproc.db.mark import VERSION
from tests.support.in_process import InProcess
from tests.support.postgres import Sql, as_database

DUMPS = Path(__file__).parents[1] / "integration" / "schema_versions"


def dump_of(version: int, *, for_citus: bool = False) -> Path:
    """Return the dump of a database of this version."""
    return DUMPS / f"version_{version}{'_citus' if for_citus else ''}.sql"


def load_version(sql: Sql, version: int, *, for_citus: bool = False) -> None:
    """Load a database of this version."""
    sql.rows(dump_of(version, for_citus=for_citus).read_text("utf-8"))


Catalog = dict[str, list[tuple[Any, ...]]]
"""Facts by kind."""

_CATALOG = {
    "schema": "SELECT nspowner::regrole::text, nspacl::text FROM pg_namespace WHERE nspname = 'payproc'",
    "relations": (
        "SELECT relname, relkind, relowner::regrole::text, relacl::text, relpersistence, reloptions, relrowsecurity,"
        " relreplident FROM pg_class WHERE relnamespace = 'payproc'::regnamespace"
    ),
    "columns": (
        "SELECT relname, row_number() OVER (PARTITION BY relname ORDER BY attnum), attname,"
        " format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attstorage, attacl::text,"
        " (SELECT collname FROM pg_collation WHERE pg_collation.oid = attcollation),"
        " (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum)"
        " FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
        " WHERE relnamespace = 'payproc'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped"
    ),
    "constraints": (
        "SELECT conrelid::regclass::text, conname, contype, condeferrable, convalidated, pg_get_constraintdef(oid)"
        " FROM pg_constraint WHERE connamespace = 'payproc'::regnamespace"
    ),
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'payproc'",
    "sequences": "SELECT seqrelid::regclass::text, seqtypid::regtype::text, seqstart, seqincrement, seqmax, seqmin,"
    " seqcache, seqcycle FROM pg_sequence",
    "types": (
        "SELECT typname, typowner::regrole::text, typacl::text,"
        " (SELECT array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = pg_type.oid)"
        " FROM pg_type WHERE typnamespace = 'payproc'::regnamespace AND typtype = 'e'"
    ),
    "procedures": (
        "SELECT proname, prokind, prosrc, pg_get_function_arguments(oid), proowner::regrole::text, proacl::text,"
        " prosecdef, proconfig, (SELECT lanname FROM pg_language WHERE pg_language.oid = prolang)"
        " FROM pg_proc WHERE pronamespace = 'payproc'::regnamespace"
    ),
    "views": "SELECT viewname, viewowner, definition FROM pg_views WHERE schemaname = 'payproc'",
    "comments": (
        "SELECT identity, objsubid, description FROM pg_description, pg_identify_object(classoid, objoid, objsubid)"
        " WHERE schema = 'payproc' OR identity = 'payproc'"
    ),
    "triggers and policies": (
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger UNION ALL"
        " SELECT polrelid::regclass::text, polname FROM pg_policy"
    ),
}


def catalog(sql: Sql) -> Catalog:
    """Return everything that the catalog holds about payproc's schema."""
    return {kind: sorted(sql.rows(query), key=repr) for kind, query in _CATALOG.items()}


def records(sql: Sql) -> Catalog:
    """Return every row of every table as text, by table."""
    columns = sql.rows(
        "SELECT relname, array_agg(quote_ident(attname) ORDER BY attnum) FROM pg_attribute"
        " JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'payproc'::regnamespace AND relkind = 'r'"
        " AND attnum > 0 AND NOT attisdropped GROUP BY relname"
    )
    return {
        table: sorted(sql.rows(f"SELECT {', '.join(f'{name}::text' for name in names)} FROM payproc.{table}"))
        for table, names in columns
    }


BROUGHT_UP = [f"brought the schema payproc from version {version} to {version + 1}" for version in range(1, VERSION)]
"""The lines of the steps from version 1."""

REPLACED = "replaced the procedure and the views of the schema payproc"
UP_TO_DATE = "the schema payproc is up to date"


class OldDatabase:
    """A database of an earlier version, and the command on it."""

    def __init__(self, url: URL, sql: Sql, run: InProcess) -> None:
        self.url = url
        self.sql = sql
        self.run = run
        self.database: Database = as_database(url, "the old database")

    def bring_up(self) -> list[str]:
        """Bring it up to date in this process; return a line a step."""
        return schema.bring_up(self.database)

    def mark(self) -> str:
        """Return the comment that holds the version."""
        return str(self.sql.value("SELECT pg_catalog.obj_description('payproc.runs'::regclass, 'pg_class')"))

    def state(self) -> tuple[Catalog, Catalog]:
        """Return its catalog and its rows."""
        return catalog(self.sql), records(self.sql)

    def install_other_procedure(self) -> None:
        """Replace the procedure by one of another payproc, with its mark."""
        source = self.sql.value("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'record_decisions'")
        self.sql.rows(source.replace("BEGIN\n", "BEGIN\n-- of another version of payproc\n", 1))
        mark = re.sub("[0-9a-f]+$", "0" * 8, self.mark())
        self.sql.rows(f"COMMENT ON TABLE payproc.runs IS '{mark}'")


class NewOldDatabase(Protocol):
    """Makes a database of an earlier version, for as long as the test runs."""

    def __call__(self, *, version: int = 1) -> OldDatabase: ...


class NewCatalog(Protocol):
    """Returns the catalog of a newly created schema."""

    def __call__(self) -> Catalog: ...


def one_error(run: InProcess, *command: str, stdin: bytes = b"") -> str:
    """Run a command that cannot finish.

    Return its only line, without the program's name and the line feed.
    """
    finished = run(*command, "--quiet", stdin=stdin)
    assert (finished.code, finished.stdout, finished.stderr.count("\n")) == (1, "", 1), finished
    return finished.stderr.removeprefix("payproc: ").removesuffix("\n")
