"""Rows of query results: read a few at a time, and turned into typed objects.

Belongs here: the one place that turns a row into a struct. A query names its columns after the
struct's fields.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import msgspec
import psycopg2
import psycopg2.extensions

FETCH_ROWS = 2_000
"""Rows per fetch of a long result."""

FETCH_LINES = 100
"""Rows per fetch if each holds a line as received, of up to 1 MiB: all that are fetched are in
memory at once."""

Record = dict[str, Any]
"""Values by the name of their column."""

Struct = TypeVar("Struct", bound=msgspec.Struct)

_cursor_numbers = itertools.count(1)


@contextmanager
def open_stream(
    connection: psycopg2.extensions.connection,
    query: str,
    arguments: Sequence[object] | Mapping[str, object] | None = None,
    *,
    fetch_rows: int = FETCH_ROWS,
) -> Iterator[psycopg2.extensions.cursor]:
    """Run a query in the connection's transaction, and yield its cursor.

    The cursor fetches page by page, so memory stays flat.
    """
    cursor = connection.cursor(f"payproc_{next(_cursor_numbers)}")
    try:
        cursor.itersize = fetch_rows
        cursor.execute(query, arguments)
        yield cursor
    finally:
        with suppress(psycopg2.Error):  # a reader that stops early may have closed the connection already
            cursor.close()


def read_rows(cursor: psycopg2.extensions.cursor) -> Iterator[Record]:
    """Yield the rows of a query by the names of their columns."""
    names: list[str] = []
    for row in cursor:
        # A cursor on the server knows its columns only after the first fetch.
        names = names or [column.name for column in cursor.description or ()]
        yield dict(zip(names, row))  # noqa: B905


def make_struct(kind: type[Struct], row: Record) -> Struct:
    """Return a row as a struct: text becomes its field's enum, `payload` stays as it is."""
    if "payload" in row:
        row["payload"] = msgspec.Raw(row["payload"])
    return msgspec.convert(row, kind)


def read_structs(cursor: psycopg2.extensions.cursor, kind: type[Struct]) -> Iterator[Struct]:
    """Yield the rows of a query as structs."""
    return map(partial(make_struct, kind), read_rows(cursor))
