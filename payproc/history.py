"""Entries of all histories in the order of their recording: events, conflicts, people's decisions.

Belongs here: the queries that answer `payproc history`. Nothing here writes.

The entries come from five tables in one sorted stream. The server sorts on its disk, and a page of
rows is in memory at a time. The names of sources are looked up beside the stream, because a join to
`runs` would sort and store every row once more.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.db.rows import FETCH_LINES, FETCH_ROWS, Record, make_struct, open_stream, read_rows
from payproc.logic import EventType, Outcome, Reason
from payproc.payments import CorrectionEntry, EventEntry, HistoryEntry, RecordedFact, ResolutionEntry

RUNS_REMEMBERED = 64
"""Runs whose sources are in memory. Entries in order of time come from few runs at once."""


class ConflictEntry(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="conflict"):
    """An event whose event_id was already on record for something else, or with other content."""

    event_id: str
    type: EventType
    outcome: Outcome
    reason: Reason
    recorded: RecordedFact
    recorded_at: datetime
    run_id: int
    source: str
    line: int
    payload: msgspec.Raw
    differs: bool = False
    """True for a redelivery: it has the recorded payment and type, and other content."""


class PaymentEntry(NamedTuple):
    """An entry and the payment that it is about; a conflict names it, and is not in its history."""

    payment_id: str
    entry: HistoryEntry | ConflictEntry


class HistoryFilter(NamedTuple):
    """Conditions on entries; None picks all. An entry without a field never fits its condition."""

    run_id: int | None = None
    label: str | None = None
    """The label of the run."""
    outcome: Outcome | None = None
    reason: Reason | None = None
    type: EventType | None = None
    kind: str | None = None
    by: str | None = None
    payment_id: str | None = None
    since: datetime | None = None
    """First moment of recording."""
    until: datetime | None = None
    """First moment after it."""


_STRUCTS: dict[str, type[HistoryEntry | ConflictEntry]] = {
    "event": EventEntry,
    "resolution": ResolutionEntry,
    "correction": CorrectionEntry,
    "conflict": ConflictEntry,
}

ENTRY_KINDS = list(_STRUCTS.values())
"""The structs of the entries."""

_COLUMNS = {
    "kind": "text",
    "payment_id": "text",
    "position": "integer",
    "event_id": "text",
    "type": "payproc.event_type",
    "outcome": "payproc.outcome",
    "reason": "payproc.reason",
    "resolution": "payproc.resolution",
    "state_before": "payproc.state",
    "state_after": "payproc.state",
    "recorded_at": "timestamptz",
    "run_id": "bigint",
    "source": "integer",
    "line": "bigint",
    "payload": "json",
    "note": "text",
    "resolved_by": "text",
    "corrected_by": "text",
    "original_payment_id": "text",
    "original_type": "payproc.event_type",
}
"""The columns of all tables, with their types. A table without one has NULL there."""

_TABLES: dict[str, tuple[str, str, dict[str, str]]] = {
    "event": (
        "payproc.events",
        "payment_id position event_id type outcome reason state_before state_after recorded_at run_id source line "
        "payload",
        {},
    ),
    "resolution": (
        "payproc.resolutions",
        "payment_id position event_id resolution state_before state_after note resolved_by",
        {"recorded_at": "resolved_at"},
    ),
    "correction": (
        "payproc.corrections",
        "payment_id position state_before state_after note corrected_by",
        {"recorded_at": "corrected_at"},
    ),
    "conflict": (
        "payproc.event_conflicts AS conflict JOIN payproc.{event_ids} AS original USING (event_id)",
        "event_id",
        {
            name: f"conflict.{name}"
            for name in ("payment_id", "type", "recorded_at", "run_id", "source", "line", "payload")
        }
        | {"outcome": "'REJECT'::payproc.outcome", "reason": "'event_id_conflict'::payproc.reason"}
        | {"original_payment_id": "original.payment_id", "original_type": "original.type"},
    ),
    "redelivery": (
        "payproc.redeliveries AS redelivery JOIN payproc.{event_ids} AS original USING (event_id)",
        "event_id",
        {name: f"redelivery.{name}" for name in ("recorded_at", "run_id", "source", "line", "payload")}
        | {"outcome": "'IGNORE'::payproc.outcome", "reason": "'duplicate_event'::payproc.reason"}
        | {"payment_id": "original.payment_id", "type": "original.type"}
        | {"original_payment_id": "original.payment_id", "original_type": "original.type"},
    ),
}
"""Each table, its columns of the same name, and the expressions for others.

{event_ids} stands for the table that says whose an event_id is, as in connection.py."""

_KINDS = {name: "conflict" if name == "redelivery" else name for name in _TABLES}
"""The kind of each table's entries. A redelivery is a conflict in content alone."""

_ENTRIES = "SELECT {columns} FROM {table} {conditions}"

# The newest of each table, so that a machine of a cluster sends no more than these.
_NEWEST = "SELECT * FROM ({entries} ORDER BY {order} LIMIT %s) AS newest"

_COUNT = "SELECT count(*) FROM ({entries}) AS entry"

_ORDER = "recorded_at {0}, payment_id {0}, position {0}, event_id {0}"

# The payload stays compressed while the inner query sorts it. The outer order repeats the inner
# one, so it costs nothing.
_STREAM = """
    SELECT {columns} FROM ({entries} ORDER BY {inner} {limit}) AS entry ORDER BY {outer}
"""

_OF_LABEL = "run_id IN (SELECT run_id FROM payproc.runs WHERE label = %s)"

# The operator of the catalog by name, because one for this very type in another schema would win;
# with it, the index events_for_review serves MANUAL_REVIEW.
_CONDITIONS: dict[str, dict[str, str]] = {
    "event": {
        "run_id": "run_id = %s",
        "label": _OF_LABEL,
        "outcome": "outcome OPERATOR(pg_catalog.=) %s",
        "reason": "reason OPERATOR(pg_catalog.=) %s",
        "type": "type OPERATOR(pg_catalog.=) %s",
        "payment_id": "payment_id = %s",
        "since": "recorded_at >= %s",
        "until": "recorded_at < %s",
    },
    "resolution": {
        "by": "resolved_by = %s",
        "payment_id": "payment_id = %s",
        "since": "resolved_at >= %s",
        "until": "resolved_at < %s",
    },
    "correction": {
        "by": "corrected_by = %s",
        "payment_id": "payment_id = %s",
        "since": "corrected_at >= %s",
        "until": "corrected_at < %s",
    },
    "conflict": {
        "run_id": "conflict.run_id = %s",
        "label": f"conflict.{_OF_LABEL}",
        "outcome": "'REJECT'::text = %s",
        "reason": "'event_id_conflict'::text = %s",
        "type": "conflict.type OPERATOR(pg_catalog.=) %s",
        "payment_id": "conflict.payment_id = %s",
        "since": "conflict.recorded_at >= %s",
        "until": "conflict.recorded_at < %s",
    },
    "redelivery": {
        "run_id": "redelivery.run_id = %s",
        "label": f"redelivery.{_OF_LABEL}",
        "outcome": "'IGNORE'::text = %s",
        "reason": "'duplicate_event'::text = %s",
        "type": "original.type OPERATOR(pg_catalog.=) %s",
        "payment_id": "original.payment_id = %s",
        "since": "redelivery.recorded_at >= %s",
        "until": "redelivery.recorded_at < %s",
    },
}
"""The condition for each field of the filter, by table. A table without the field has none."""


def list_entries(
    database: Database, picked: HistoryFilter, limit: int | None = None, *, with_payload: bool = True
) -> Iterator[PaymentEntry]:
    """Yield the entries that fit, the oldest first; with a limit, only so many of the newest.

    All are as of one moment, and memory stays flat. Without payloads they are `null`.

    Raises CannotFinish if the database cannot be read.
    """
    query, arguments = _build_query(picked, limit, with_payload=with_payload)
    if not query:
        return
    rows = FETCH_LINES if with_payload else FETCH_ROWS
    with (
        database.snapshot() as connection,
        connection.cursor() as cursor,
        open_stream(connection, database.complete(query, cursor), arguments, fetch_rows=rows) as stream,
    ):
        find_sources = _sources_reader(cursor)
        for row in read_rows(stream):
            yield _make_entry(row, find_sources)


def count_entries(database: Database, picked: HistoryFilter, limit: int | None = None) -> int:
    """Return the number of entries that fit, for a progress bar. Raises CannotFinish."""
    entries, arguments = _build_entries(picked, None, with_payload=False)
    if not entries:
        return 0
    with database.snapshot() as connection, connection.cursor() as cursor:
        cursor.execute(database.complete(_COUNT.format(entries=entries), cursor), arguments)
        ((count,),) = cursor.fetchall()
    return int(count) if limit is None else min(int(count), limit)


def _build_query(picked: HistoryFilter, limit: int | None, *, with_payload: bool) -> tuple[str, list[Any]]:
    """Return the query for the entries that fit and its arguments; no query if no table can fit."""
    entries, arguments = _build_entries(picked, limit, with_payload=with_payload)
    if not entries:
        return "", []
    query = _STREAM.format(
        columns=", ".join(_COLUMNS).replace("payload", "payload::text AS payload"),
        entries=entries,
        inner=_ORDER.format("ASC" if limit is None else "DESC"),
        limit="" if limit is None else "LIMIT %s",
        outer=_ORDER.format("ASC"),
    )
    return query, arguments if limit is None else [*arguments, limit]


def _build_entries(picked: HistoryFilter, limit: int | None, *, with_payload: bool) -> tuple[str, list[Any]]:
    """Return the union of the tables that can fit, and its arguments."""
    wanted = {name: value for name, value in picked._asdict().items() if value is not None and name != "kind"}
    parts: list[str] = []
    arguments: list[Any] = []
    for key, (table, same, others) in _TABLES.items():
        kind = _KINDS[key]
        if picked.kind not in (None, kind) or not wanted.keys() <= _CONDITIONS[key].keys():
            continue
        own = {name: name for name in same.split()} | others | {"kind": f"'{kind}'::text"}
        if "payload" in own and not with_payload:
            own["payload"] = "'null'::json"
        columns = ", ".join(f"{own.get(name, f'NULL::{type_}')} AS {name}" for name, type_ in _COLUMNS.items())
        conditions = " AND ".join(_CONDITIONS[key][name] for name in wanted)
        entries = _ENTRIES.format(columns=columns, table=table, conditions=conditions and f"WHERE {conditions}")
        arguments += [getattr(value, "value", value) for value in wanted.values()]
        if limit is not None:
            entries = _NEWEST.format(entries=entries, order=_ORDER.format("DESC"))
            arguments.append(limit)
        parts.append(entries)
    return " UNION ALL ".join(parts), arguments


def _sources_reader(cursor: psycopg2.extensions.cursor) -> Callable[[int], list[str]]:
    """Return a function that returns the sources of a run, or none if its row is gone."""

    @lru_cache(RUNS_REMEMBERED)
    def find_sources(run_id: int) -> list[str]:
        cursor.execute("SELECT sources FROM payproc.runs WHERE run_id = %s", (run_id,))
        found = cursor.fetchone()
        return found[0] if found else []

    return find_sources


def _make_entry(row: Record, find_sources: Callable[[int], list[str]]) -> PaymentEntry:
    """Return a row as an entry of its kind."""
    kind, index = row["kind"], row["source"]
    if index is not None:
        sources = find_sources(row["run_id"])
        row["source"] = sources[index] if 0 <= index < len(sources) else f"source {index}"
    if kind == "conflict":
        row["recorded"] = {"payment_id": row["original_payment_id"], "type": row["original_type"]}
        row["differs"] = row["reason"] == Reason.DUPLICATE_EVENT
    if row["payload"] is None:
        del row["payload"]
    return PaymentEntry(row["payment_id"], make_struct(_STRUCTS[kind], row))
