"""What goes out, in which order, and what stays behind. Many stories more are told in test_model.py."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from payproc.db import schema
from payproc.db.connection import Database
from payproc.db.rows import FETCH_LINES
from payproc.export import BLOCK_BYTES, ExportSummary, LeftOut, export
from payproc.handlers import Recorder
from payproc.ingest.run import Ingest, Options
from payproc.logic import Resolution
from payproc.review import ReviewDecision, resolve
from payproc.signals import Interrupt
from payproc.verify import VerifySummary, verify
from tests.support.events import input_events, messy_lines, write_lines
from tests.support.postgres import NewDatabase, Sql, SqlOn, as_database, contents, wait_for


def ingest(database: Database, *paths: Path, workers: int = 2) -> None:
    Ingest(database, [str(path) for path in paths], Options(workers)).run(Interrupt())


def exported(database: Database) -> tuple[list[bytes], ExportSummary, list[LeftOut]]:
    totals = ExportSummary()
    left_out: list[LeftOut] = []
    return b"".join(export(database, totals, left_out.append)).splitlines(keepends=True), totals, left_out


def without_origin(stored: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    """All that a copy has from its original: not from which line of which file something is."""
    return {
        "payments": stored["payments"],
        "events": [(*row[:8], row[10]) for row in stored["events"]],
        "conflicts": [(*row[:3], row[5]) for row in stored["conflicts"]],
    }


def test_a_copy_of_several_messy_runs_has_the_same_payments_histories_and_conflicts(
    database: Database, sql: Sql, new_database: NewDatabase, template: str, sql_on: SqlOn, tmp_path: Path
) -> None:
    copy_url = new_database(template)
    copy, sql_on_copy = as_database(copy_url, "the copy"), sql_on(copy_url)
    days = [write_lines(tmp_path / f"day {number}", messy_lines(number, 600)) for number in range(3)]
    ingest(database, days[0], days[1], workers=3)
    ingest(database, days[2], days[1], workers=1)
    lines, totals, left_out = exported(database)
    assert not left_out
    assert (totals.events, totals.conflicts) == (
        sql.value("SELECT count(*) FROM payproc.events"),
        sql.value("SELECT count(*) FROM payproc.event_conflicts"),
    )
    assert totals.conflicts > 50
    ingest(copy, write_lines(tmp_path / "exported", [line.removesuffix(b"\n") for line in lines]), workers=8)
    assert without_origin(contents(sql_on_copy)) == without_origin(contents(sql))
    assert exported(copy) == (lines, totals, [])
    assert list(verify(copy, VerifySummary())) == []


# ---- What people decided ----------------------------------------------------------------------------


@pytest.fixture
def record(database: Database, sql: Sql) -> Callable[..., None]:
    """Records facts (event_id, payment_id, type), one run each time."""

    def record(*facts: tuple[str, str, str]) -> None:
        run_id = sql.value("INSERT INTO payproc.runs (sources) VALUES ('{test}') RETURNING run_id")
        with closing(Recorder(database, run_id)) as recorder:
            recorder.handle(input_events(*facts))

    return record


def decide(database: Database, event_id: str, resolution: Resolution) -> None:
    assert resolve(database, event_id, ReviewDecision(resolution, "a note", "alice"), lambda *_: True)


def test_a_dismissed_event_waits_again_and_nothing_else_is_different(
    database: Database, record: Callable[..., None]
) -> None:
    record(("a1", "a", "authorize"), ("a2", "a", "refund"))
    before, _, _ = exported(database)
    decide(database, "a2", Resolution.DISMISS)
    assert exported(database)[0] == before
    record(("a3", "a", "capture"), ("a4", "a", "refund"))
    lines, totals, left_out = exported(database)
    assert lines[:2] == before
    assert totals == ExportSummary(events=4, resolutions={Resolution.APPLY: 0, Resolution.DISMISS: 1}, waiting=1)
    assert not left_out


def test_what_an_applied_event_changed_is_counted_event_by_event(
    database: Database, record: Callable[..., None]
) -> None:
    # Nothing after it: the payment alone is different in a copy.
    record(("a1", "a", "capture"))
    decide(database, "a1", Resolution.APPLY)
    # Two after it: the refund was applied here, and waits in a copy; the authorize was late here, and applies there.
    record(("b1", "b", "capture"))
    decide(database, "b1", Resolution.APPLY)
    record(("b2", "b", "refund"), ("b3", "b", "authorize"))
    # The way there differs, and the end does not: both know it as failed.
    record(("c1", "c", "fail"), ("c2", "c", "authorize"))
    decide(database, "c2", Resolution.APPLY)
    record(("c3", "c", "fail"))
    # Applied to the state that the payment had already: it moved nothing.
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


def test_a_resolution_that_belongs_to_nothing_does_not_disturb_the_counts(
    database: Database, record: Callable[..., None], sql: Sql
) -> None:
    record(("a1", "a", "capture"), ("b1", "b", "capture"), ("c1", "c", "capture"))
    for event_id in ("a1", "b1", "c1"):
        decide(database, event_id, Resolution.APPLY)
    sql.rows("UPDATE payproc.resolutions SET payment_id = 'aa' WHERE event_id = 'b1'")
    _, totals, _ = exported(database)
    assert totals.resolutions == {Resolution.APPLY: 3, Resolution.DISMISS: 0}
    assert totals.changed_payments == 2


# ---- What no longer says what is on record ----------------------------------------------------------

DAMAGE: list[tuple[str, str, list[tuple[str, str, str]]]] = [
    (
        "another payment_id",
        """UPDATE payproc.events SET payload = '{"event_id": "b1", "payment_id": "B\u202e", "type": "authorize"}'
        WHERE event_id = 'b1'""",
        [("event", "b1", r'its line has the payment_id "B\u202e"')],
    ),
    (
        "another event_id",
        """UPDATE payproc.events SET payload = '{"event_id": "b9", "payment_id": "b", "type": "authorize"}'
        WHERE event_id = 'b1'""",
        [("event", "b1", 'its line has the event_id "b9"')],
    ),
    (
        "another type",
        "UPDATE payproc.events SET type = 'fail' WHERE event_id = 'b1'",
        [("event", "b1", "its line has the type authorize, the record fail")],
    ),
    (
        "another event_id in the record",
        "UPDATE payproc.events SET event_id = 'a9' WHERE event_id = 'a1'",
        [
            ("event", "a9", 'its line has the event_id "a1"'),
            ("conflict", "a1", "no event is on record under its event_id, so it would become one"),
        ],
    ),
    (
        "a line that is malformed",
        "UPDATE payproc.events SET payload = '[]' WHERE event_id = 'b1'",
        [("event", "b1", "its line is malformed: an array, expected one JSON object a line")],
    ),
    (
        "a line that is two",
        """UPDATE payproc.events SET payload = '{"event_id": "b1", "payment_id": "b",\n "type": "authorize"}'
        WHERE event_id = 'b1'""",
        [("event", "b1", "its line has a line feed in it, so it would be two")],
    ),
    (
        "a line that is too long",
        """UPDATE payproc.events SET payload = ('{"event_id": "b1", "payment_id": "b", "type": "authorize", "x": "'
        || repeat('x', 1 << 20) || '"}')::json WHERE event_id = 'b1'""",
        [
            (
                "event",
                "b1",
                "its line is malformed: line too long: over 1,048,576 bytes, expected one JSON object a line of "
                "at most 1 MiB",
            )
        ],
    ),
    (
        "a conflict whose event is gone",
        "DELETE FROM payproc.events WHERE event_id = 'a1'",
        [("conflict", "a1", "no event is on record under its event_id, so it would become one")],
    ),
    (
        "a conflict whose event stays behind",
        "UPDATE payproc.events SET payload = '{}' WHERE event_id = 'a1'",
        [
            ("event", "a1", "its line is malformed: event_id: missing, expected a string of 1 to 255 characters"),
            ("conflict", "a1", "the event under its event_id is left out, so it would take its place"),
        ],
    ),
    (
        "a conflict that is none",
        """UPDATE payproc.event_conflicts SET payment_id = 'a', type = 'authorize',
        payload = '{"event_id": "a1", "payment_id": "a", "type": "authorize"}'""",
        [("conflict", "a1", "it says the same as the event under its event_id, so it would be a duplicate")],
    ),
    (
        "a conflict that says something else",
        "UPDATE payproc.event_conflicts SET type = 'capture'",
        [("conflict", "a1", "its line has the type refund, the record capture")],
    ),
]


@pytest.mark.parametrize(("damage", "expected"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_a_line_that_is_not_what_is_on_record_stays_behind_and_is_named(
    database: Database, record: Callable[..., None], sql: Sql, damage: str, expected: list[tuple[str, str, str]]
) -> None:
    record(("a1", "a", "authorize"), ("b1", "b", "authorize"), ("c1", "c", "authorize"), ("a1", "b", "refund"))
    before, _, _ = exported(database)
    sql.rows(damage.replace("%", "%%"))
    lines, totals, left_out = exported(database)
    assert [(each.kind, each.event_id, each.why) for each in left_out] == expected
    assert set(lines) < set(before)
    assert totals.left_out == len(expected)
    on_record = "SELECT (SELECT count(*) FROM payproc.events) + (SELECT count(*) FROM payproc.event_conflicts)"
    assert len(lines) == totals.lines == sql.value(on_record) - len(expected)


def test_what_comes_after_an_event_that_stays_behind_is_counted_as_a_copy_would_decide_it(
    database: Database, record: Callable[..., None], sql: Sql
) -> None:
    record(("a1", "a", "authorize"), ("a2", "a", "capture"), ("b1", "b", "fail"))
    sql.rows("UPDATE payproc.events SET payload = '{}' WHERE event_id IN ('a1', 'b1')")
    _, totals, _ = exported(database)
    assert totals == ExportSummary(events=1, left_out=2, waiting=1, changed_events=1, changed_payments=2)


def test_a_database_of_another_encoding_cannot_make_another_event_of_one(new_database: NewDatabase) -> None:
    """In EUC_JP a broken bar comes back as a full-width one, from the columns; the line as received has an escape."""
    database = as_database(new_database("template0", "EUC_JP"), "an EUC_JP database")
    schema.bring_up(database)
    with closing(Recorder(database, 1)) as recorder:
        recorder.handle(input_events(("e\u00a6", "p1", "authorize"), ("e日本", "p2", "authorize")))
    lines, totals, left_out = exported(database)
    assert [each.why for each in left_out] == ['its line has the event_id "e\u00a6"']
    assert (len(lines), totals.events, totals.left_out) == (1, 1, 1)


# ---- One moment, in blocks --------------------------------------------------------------------------


def test_it_sees_one_moment_and_hands_on_blocks_while_events_are_recorded(
    database: Database, record: Callable[..., None]
) -> None:
    count = 20 * FETCH_LINES
    record(*[(f"e{number}", f"p{number:05}", "capture") for number in range(count)], ("e0", "p1", "fail"))
    decide(database, "e1", Resolution.DISMISS)
    before, _, _ = exported(database)
    totals = ExportSummary()
    blocks = export(database, totals)
    first = next(blocks)
    assert BLOCK_BYTES <= len(first) < 2 * BLOCK_BYTES
    assert totals.events < count, "it read everything before it handed on anything"
    record(*[(f"f{number}", f"p{number:05}", "authorize") for number in range(count)], ("e0", "p2", "refund"))
    decide(database, "e2", Resolution.APPLY)
    rest = list(blocks)
    assert all(block.endswith(b"\n") for block in (first, *rest))
    assert b"".join((first, *rest)).splitlines(keepends=True) == before
    assert (totals.events, totals.conflicts, totals.changed_events, totals.changed_payments) == (count, 1, 0, 0)
    assert totals.resolutions == {Resolution.APPLY: 0, Resolution.DISMISS: 1}


def test_an_export_that_is_given_up_closes_its_connection(
    database: Database, record: Callable[..., None], sql: Sql
) -> None:
    record(*[(f"e{number}", f"p{number}", "authorize") for number in range(20 * FETCH_LINES)])
    blocks = export(database, ExportSummary())
    next(blocks)
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert sql.value(others) == 1
    blocks.close()
    wait_for(lambda: sql.value(others) == 0)
