"""Runs: one row for each ingest, from where it starts to what it counted.

What belongs here: writing and reading that row. What a run did to payments is in their histories.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from payproc.db.connection import Database
from payproc.errors import CannotFinish
from payproc.logic import Outcome
from payproc.payments import in_utc

_OPEN = "INSERT INTO payproc.runs (sources) VALUES (%s) RETURNING run_id"

_SAVE = """
    UPDATE payproc.runs
    SET active_at = now(), finished_at = CASE WHEN %s THEN now() END,
        lines = %s, malformed = %s, applied = %s, ignored = %s, rejected = %s, manual_review = %s
    WHERE run_id = %s
"""

_LIST = """
    SELECT run_id, sources, started_at, active_at, finished_at, lines, malformed,
           applied, ignored, rejected, manual_review
    FROM payproc.runs ORDER BY run_id DESC LIMIT %s
"""


class Run(msgspec.Struct, frozen=True):
    """One ingest. Field for field the object that `runs --format json` prints."""

    run_id: int
    source: list[str]
    started_at: datetime
    active_at: datetime
    """When it last saved its counts, about once a second."""
    finished_at: datetime | None
    """None: interrupted, crashed or still running."""
    lines: int
    malformed: int
    events: int
    outcomes: dict[Outcome, int]


def open_run(database: Database, sources: list[str]) -> int:
    """Begin a run; give its number. Raises CannotFinish."""
    with database.transaction() as cursor:
        cursor.execute(_OPEN, (sources,))
        ((run_id,),) = cursor.fetchall()
    return int(run_id)


def save_counts(
    database: Database, run_id: int, lines: int, malformed: int, outcomes: Sequence[int], *, finished: bool
) -> None:
    """Write a run's counts; `outcomes` in the order of Outcome. Raises CannotFinish, also if the run's row is gone."""
    with database.transaction() as cursor:
        cursor.execute(_SAVE, (finished, lines, malformed, *outcomes, run_id))
        if not cursor.rowcount:
            raise CannotFinish(
                f"run {run_id}: its row in payproc.runs is gone, so its counts could not be saved; its events are on "
                "record"
            )


def list_runs(database: Database, limit: int | None) -> Iterator[Run]:
    """Past ingests, the newest first. Raises CannotFinish."""
    with database.snapshot() as connection:
        for run_id, sources, started, active, finished, lines, malformed, *outcomes in Database.stream(
            connection, _LIST, (limit,)
        ):
            counts = dict(zip(Outcome, outcomes, strict=True))
            yield Run(
                run_id, sources, in_utc(started), in_utc(active), finished and in_utc(finished),
                lines, malformed, lines - malformed, counts,
            )  # fmt: skip
