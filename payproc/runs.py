"""Runs: one row for each ingest, from its start to its counts.

Belongs here: writing and reading that row. Its effects on payments are in their histories.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec
import psycopg2.extensions

from payproc.db.connection import Database
from payproc.db.rows import Record, make_struct, open_stream, read_rows
from payproc.errors import CannotFinish
from payproc.logic import Outcome

_OPEN = "INSERT INTO payproc.runs (sources, label) VALUES (%s, %s) RETURNING run_id"

_SAVE = """
    UPDATE payproc.runs
    SET active_at = now(), finished_at = CASE WHEN %s THEN now() END,
        lines = %s, malformed = %s, applied = %s, ignored = %s, rejected = %s, manual_review = %s
    WHERE run_id = %s
"""

_LIST = """
    SELECT run_id, label, sources AS source, started_at, active_at, finished_at, lines, malformed,
           lines - malformed AS events, applied, ignored, rejected, manual_review
    FROM payproc.runs ORDER BY run_id DESC LIMIT %s
"""

_COLUMN_OF = {
    Outcome.APPLY: "applied",
    Outcome.IGNORE: "ignored",
    Outcome.REJECT: "rejected",
    Outcome.MANUAL_REVIEW: "manual_review",
}
"""Column of each outcome's count."""


class Run(msgspec.Struct, frozen=True):
    """One ingest. Field for field the object that `runs --format json` prints."""

    run_id: int
    label: str | None
    """Its name for people, if `ingest --label` gave one."""
    source: list[str]
    started_at: datetime
    active_at: datetime
    """Time of its last saved counts, about once a second."""
    finished_at: datetime | None
    """None if it was interrupted, has crashed or is still running."""
    lines: int
    malformed: int
    events: int
    outcomes: dict[Outcome, int]


def open_run(database: Database, sources: list[str], label: str | None = None) -> int:
    """Begin a run; return its number. Raises CannotFinish."""
    with database.transaction() as cursor:
        cursor.execute(_OPEN, (sources, label))
        ((run_id,),) = cursor.fetchall()
    return int(run_id)


def save_counts(
    database: Database, run_id: int, lines: int, malformed: int, outcomes: Sequence[int], *, finished: bool
) -> None:
    """Write a run's counts; `outcomes` in the order of Outcome.

    Raises CannotFinish, also if its row is gone.
    """
    with database.transaction() as cursor:
        cursor.execute(_SAVE, (finished, lines, malformed, *outcomes, run_id))
        if not cursor.rowcount:
            raise CannotFinish(
                f"run {run_id}: its row in payproc.runs is gone, so its counts could not be saved; its events are on "
                "record"
            )


def list_runs(database: Database, limit: int | None) -> Iterator[Run]:
    """Yield past ingests, the newest first. Raises CannotFinish."""
    with database.snapshot() as connection, open_stream(connection, _LIST, (limit,)) as cursor:
        yield from map(_make_run, read_rows(cursor))


def read_last_run(cursor: psycopg2.extensions.cursor) -> Run | None:
    """Return the newest ingest, or None if there was none."""
    cursor.execute(_LIST, (1,))
    return next(map(_make_run, read_rows(cursor)), None)


def _make_run(row: Record) -> Run:
    return make_struct(Run, {**row, "outcomes": {outcome: row[column] for outcome, column in _COLUMN_OF.items()}})
