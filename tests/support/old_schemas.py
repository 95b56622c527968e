"""Databases of earlier versions of the schema, and all that the catalog says of payproc's schema.

What belongs here: loading a dump of an earlier version, and what two schemas must have in common to be the same.
"""

from pathlib import Path
from typing import Any

from tests.support.postgres import Sql

DUMPS = Path(__file__).parents[1] / "integration" / "schema_versions"

# The parameters are those of Citus 13.
_CITUS_STUB = """
    CREATE TABLE public.distributed (relation regclass, distribution_column text, colocate_with text);
    CREATE FUNCTION pg_catalog.create_distributed_table(
        table_name regclass, distribution_column text, distribution_type text DEFAULT 'hash',
        colocate_with text DEFAULT 'default', shard_count integer DEFAULT NULL
    ) RETURNS void LANGUAGE sql
    AS 'INSERT INTO public.distributed VALUES (table_name, distribution_column, colocate_with)';
"""


def dump_of(version: int, *, for_citus: bool) -> Path:
    """Return the dump of a database of this version."""
    return DUMPS / f"version_{version}{'_citus' if for_citus else ''}.sql"


def load_version(sql: Sql, version: int, *, for_citus: bool = False) -> None:
    """Load a database of this version, and for Citus what stands in for it: PostgreSQL does not have its function."""
    sql.rows(dump_of(version, for_citus=for_citus).read_text("utf-8"))
    if for_citus:
        sql.rows(_CITUS_STUB)


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
    """Return all that the catalog says of payproc's schema, whatever way led to it."""
    return {kind: sorted(sql.rows(query), key=repr) for kind, query in _CATALOG.items()}


def records(sql: Sql) -> Catalog:
    """Return every row of every table as text, column by column, by table."""
    columns = sql.rows(
        "SELECT relname, array_agg(quote_ident(attname) ORDER BY attnum) FROM pg_attribute"
        " JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'payproc'::regnamespace AND relkind = 'r'"
        " AND attnum > 0 AND NOT attisdropped GROUP BY relname"
    )
    return {
        table: sorted(sql.rows(f"SELECT {', '.join(f'{name}::text' for name in names)} FROM payproc.{table}"))
        for table, names in columns
    }
