"""Exports: their lines, their order and their counts.

Many more exports are compared with the model in test_model.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from payproc.corrections import Correction, correct
from payproc.db.connection import Database
from payproc.db.rows import FETCH_LINES
from payproc.export import BLOCK_BYTES, CorrectedPayment, ExportSummary, export_events
from payproc.ingest.run import Ingest, Options
from payproc.logic import Resolution, State
from payproc.review import ReviewDecision, resolve_review
from payproc.signals import Interrupt
from payproc.verify import VerifySummary, verify_histories
from tests.support.events import messy_lines, write_lines
from tests.support.exports import exported
from tests.support.postgres import NewDatabase, Sql, SqlOn, as_database, contents, wait_for


def ingest(database: Database, *paths: Path, workers: int = 2) -> None:
    Ingest(database, [str(path) for path in paths], Options(workers)).run(Interrupt())


def without_origin(stored: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows without sources and lines, which differ between a copy and its original."""
    return {
        "payments": stored["payments"],
        "events": [(*row[:8], row[10]) for row in stored["events"]],
        "conflicts": [(*row[:3], row[5]) for row in stored["conflicts"]],
    }


def test_export_of_messy_runs_ingests_as_a_copy(
    database: Database, sql: Sql, new_database: NewDatabase, template: str, sql_on: SqlOn, tmp_path: Path
) -> None:
    """The copy has the same payments, histories and conflicts, and its export the same bytes."""
    copy_url = new_database(template)
    copy, sql_on_copy = as_database(copy_url, "the copy"), sql_on(copy_url)
    days = [write_lines(tmp_path / f"day {number}", messy_lines(number, 600)) for number in range(3)]
    ingest(database, days[0], days[1], workers=3)
    ingest(database, days[2], days[1], workers=1)
    lines, totals, omitted = exported(database)
    assert not omitted
    assert (totals.events, totals.conflicts) == (
        sql.value("SELECT count(*) FROM payproc.events"),
        sql.value("SELECT count(*) FROM payproc.event_conflicts"),
    )
    assert totals.conflicts > 50
    ingest(copy, write_lines(tmp_path / "exported", [line.removesuffix(b"\n") for line in lines]), workers=8)
    assert without_origin(contents(sql_on_copy)) == without_origin(contents(sql))
    assert exported(copy) == (lines, totals, [])
    assert list(verify_histories(copy, VerifySummary())) == []


# ---- Resolutions ---------------------------------------------------------------------------------


def decide(database: Database, event_id: str, resolution: Resolution) -> None:
    """Resolve a pending event."""
    assert resolve_review(database, event_id, ReviewDecision(resolution, "a note", "alice"), lambda *_: True)


def test_dismissed_event_is_pending_in_a_copy(database: Database, record: Callable[..., None]) -> None:
    """Resolutions stay behind, and a dismissal changes nothing else."""
    record(("a1", "a", "authorize"), ("a2", "a", "refund"))
    before, _, _ = exported(database)
    decide(database, "a2", Resolution.DISMISS)
    assert exported(database)[0] == before
    record(("a3", "a", "capture"), ("a4", "a", "refund"))
    lines, totals, omitted = exported(database)
    assert lines[:2] == before
    assert totals == ExportSummary(events=4, resolutions={Resolution.APPLY: 0, Resolution.DISMISS: 1}, waiting=1)
    assert not omitted


def test_effects_of_applied_events_are_counted(database: Database, record: Callable[..., None]) -> None:
    """A copy decides without the resolution, so later events may have another outcome there."""
    # Nothing follows: in a copy only the payment differs.
    record(("a1", "a", "capture"))
    decide(database, "a1", Resolution.APPLY)
    # Two follow: a copy flags the refund, which was applied here, and applies the authorize, which
    # was late here.
    record(("b1", "b", "capture"))
    decide(database, "b1", Resolution.APPLY)
    record(("b2", "b", "refund"), ("b3", "b", "authorize"))
    # The histories differ, but both end as failed.
    record(("c1", "c", "fail"), ("c2", "c", "authorize"))
    decide(database, "c2", Resolution.APPLY)
    record(("c3", "c", "fail"))
    # Applied to the state that the payment already had: it moved nothing.
    record(("d1", "d", "authorize"), ("d2", "d", "capture"), ("d3", "d", "refund"), ("d4", "d", "refund"))
    decide(database, "d4", Resolution.APPLY)
    record(("d5", "d", "authorize"))
    _, totals, _ = exported(database)
    assert totals == ExportSummary(
        events=12,
        resolutions={Resolution.APPLY: 4, Resolution.DISMISS: 0},
        waiting=5,  # a1, b1, b2, c2, d4
        changed_events=3,  # b2, b3, c3
        changed_payments=2,  # a, b
    )


def test_stray_resolution_leaves_counts_right(database: Database, record: Callable[..., None], sql: Sql) -> None:
    """Its event is of another payment."""
    record(("a1", "a", "capture"), ("b1", "b", "capture"), ("c1", "c", "capture"))
    for event_id in ("a1", "b1", "c1"):
        decide(database, event_id, Resolution.APPLY)
    sql.rows("UPDATE payproc.resolutions SET payment_id = 'aa' WHERE event_id = 'b1'")
    _, totals, _ = exported(database)
    assert totals.resolutions == {Resolution.APPLY: 3, Resolution.DISMISS: 0}
    assert totals.changed_payments == 2


def correct_state(database: Database, payment_id: str, state: State) -> None:
    """Correct a payment."""
    assert correct(database, payment_id, Correction(state, "a note", "alice"), lambda _: True)


def test_effects_of_corrections_are_counted(database: Database, record: Callable[..., None]) -> None:
    """Payments that end in another state in a copy are named if a person has corrected them."""
    # Nothing follows: in a copy only the payment differs.
    record(("a1", "a", "fail"), ("a2", "a", "capture"))
    correct_state(database, "a", State.CAPTURED)
    # An event follows, which a copy rejects.
    record(("b1", "b", "fail"), ("b2", "b", "capture"))
    correct_state(database, "b", State.CAPTURED)
    record(("b3", "b", "refund"))
    # A wrong decision was corrected, so the payment ends as in a copy.
    record(("c1", "c", "capture"))
    decide(database, "c1", Resolution.APPLY)
    correct_state(database, "c", State.CREATED)
    # A decision alone changes a payment, so it is counted but not named.
    record(("d1", "d", "refund"))
    decide(database, "d1", Resolution.APPLY)
    # A correction comes before the decision that is the last entry.
    record(("e1", "e", "authorize"), ("e2", "e", "refund"))
    correct_state(database, "e", State.FAILED)
    decide(database, "e2", Resolution.APPLY)
    totals, named = ExportSummary(), list[CorrectedPayment]()
    assert len(list(export_events(database, totals, on_corrected=named.append))) == 1
    assert named == [
        CorrectedPayment("a", State.CAPTURED, State.FAILED),
        CorrectedPayment("b", State.REFUNDED, State.FAILED),
        CorrectedPayment("e", State.REFUNDED, State.AUTHORIZED),
    ]
    assert totals == ExportSummary(
        events=9,
        resolutions={Resolution.APPLY: 3, Resolution.DISMISS: 0},
        corrections=4,
        waiting=3,  # c1, d1, e2
        changed_events=1,  # b3
        changed_payments=4,  # a, b, d, e
    )


def test_stray_correction_leaves_counts_right(database: Database, record: Callable[..., None], sql: Sql) -> None:
    """Its payment has no events."""
    record(("a1", "a", "fail"), ("b1", "b", "fail"), ("c1", "c", "fail"))
    for payment_id in "abc":
        correct_state(database, payment_id, State.CAPTURED)
    sql.rows("UPDATE payproc.corrections SET payment_id = 'aa' WHERE payment_id = 'b'")
    _, totals, _ = exported(database)
    assert (totals.corrections, totals.changed_payments) == (3, 2)


# ---- One snapshot, in blocks ---------------------------------------------------------------------


def test_export_is_one_snapshot_in_blocks(database: Database, record: Callable[..., None]) -> None:
    """Events are recorded between the first block and the rest."""
    count = 20 * FETCH_LINES
    record(*[(f"e{number}", f"p{number:05}", "capture") for number in range(count)], ("e0", "p1", "fail"))
    decide(database, "e1", Resolution.DISMISS)
    before, _, _ = exported(database)
    totals = ExportSummary()
    blocks = export_events(database, totals)
    first = next(blocks)
    assert BLOCK_BYTES <= len(first) < 2 * BLOCK_BYTES
    assert totals.events < count, "everything was read before the first block"
    record(*[(f"f{number}", f"p{number:05}", "authorize") for number in range(count)], ("e0", "p2", "refund"))
    decide(database, "e2", Resolution.APPLY)
    rest = list(blocks)
    assert all(block.endswith(b"\n") for block in (first, *rest))
    assert b"".join((first, *rest)).splitlines(keepends=True) == before
    assert (totals.events, totals.conflicts, totals.changed_events, totals.changed_payments) == (count, 1, 0, 0)
    assert totals.resolutions == {Resolution.APPLY: 0, Resolution.DISMISS: 1}


def test_abandoned_export_closes_its_connection(database: Database, record: Callable[..., None], sql: Sql) -> None:
    """A reader may stop after the first block."""
    record(*[(f"e{number}", f"p{number}", "authorize") for number in range(20 * FETCH_LINES)])
    blocks = export_events(database, ExportSummary())
    next(blocks)
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'payproc'"
    wait_for(lambda: sql.value(others) == 1)  # the backend of the recorder may still be about to end
    blocks.close()
    wait_for(lambda: sql.value(others) == 0)
