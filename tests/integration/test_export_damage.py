"""Exports of damaged records: a line unlike its record is omitted, named and counted."""

from collections.abc import Callable
from contextlib import closing

import pytest

from payproc.db import schema
from payproc.db.connection import Database
from payproc.export import ExportSummary
from payproc.handlers import Recorder
from tests.support.events import input_events
from tests.support.exports import exported
from tests.support.postgres import NewDatabase, Sql, as_database

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
            ("conflict", "a1", "no event is recorded under its event_id, so it would become one"),
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
        [("event", "b1", "its line holds a line feed, so it would become two")],
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
        [("conflict", "a1", "no event is recorded under its event_id, so it would become one")],
    ),
    (
        "a conflict whose event stays behind",
        "UPDATE payproc.events SET payload = '{}' WHERE event_id = 'a1'",
        [
            ("event", "a1", "its line is malformed: event_id: missing, expected a string of 1 to 255 characters"),
            ("conflict", "a1", "the event under its event_id is omitted, so it would replace that event"),
        ],
    ),
    (
        "a conflict that is none",
        """UPDATE payproc.event_conflicts SET payment_id = 'a', type = 'authorize',
        payload = '{"event_id": "a1", "payment_id": "a", "type": "authorize"}'""",
        [("conflict", "a1", "it has the payment and type of the event under its event_id, so it would be a duplicate")],
    ),
    (
        "a conflict that says something else",
        "UPDATE payproc.event_conflicts SET type = 'capture'",
        [("conflict", "a1", "its line has the type refund, the record capture")],
    ),
    (
        "a redelivery whose event is gone",
        "DELETE FROM payproc.events WHERE event_id = 'c1'",
        [("redelivery", "c1", "no event is recorded under its event_id, so it would become one")],
    ),
    (
        "a redelivery whose event stays behind",
        "UPDATE payproc.events SET payload = '{}' WHERE event_id = 'c1'",
        [
            ("event", "c1", "its line is malformed: event_id: missing, expected a string of 1 to 255 characters"),
            ("redelivery", "c1", "the event under its event_id is omitted, so it would replace that event"),
        ],
    ),
    (
        "a redelivery that says something else",
        """UPDATE payproc.redeliveries SET payload = '{"event_id": "c1", "payment_id": "a", "type": "authorize"}'""",
        [("redelivery", "c1", 'its line has the payment_id "a"')],
    ),
    (
        "a redelivery that is none",
        """UPDATE payproc.redeliveries SET payload = '{"payment_id":"c","event_id":"c1","type":"authorize"}'""",
        [("redelivery", "c1", "it has the content of the event")],
    ),
]


@pytest.mark.parametrize(("damage", "expected"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_line_unlike_its_record_is_omitted_and_named(
    database: Database, record: Callable[..., None], sql: Sql, damage: str, expected: list[tuple[str, str, str]]
) -> None:
    """Each damage is done directly in the database."""
    record(("a1", "a", "authorize"), ("b1", "b", "authorize"), ("c1", "c", "authorize"), ("a1", "b", "refund"))
    sql.rows(
        """INSERT INTO payproc.redeliveries (event_id, digest, run_id, source, line, payload)
        VALUES ('c1', 'd', 1, 0, 5, '{"event_id": "c1", "payment_id": "c", "type": "authorize", "attempt": 2}')"""
    )
    before, _, _ = exported(database)
    sql.rows(damage.replace("%", "%%"))
    lines, totals, omitted = exported(database)
    assert [(each.kind, each.event_id, each.why) for each in omitted] == expected
    assert set(lines) < set(before)
    assert totals.omitted == len(expected)
    on_record = "SELECT (SELECT count(*) FROM payproc.events) + (SELECT count(*) FROM payproc.event_conflicts) + 1"
    assert len(lines) == totals.lines == sql.value(on_record) - len(expected)


def test_events_after_an_omitted_one_are_counted(database: Database, record: Callable[..., None], sql: Sql) -> None:
    """They count as a copy would decide them."""
    record(("a1", "a", "authorize"), ("a2", "a", "capture"), ("b1", "b", "fail"))
    sql.rows("UPDATE payproc.events SET payload = '{}' WHERE event_id IN ('a1', 'b1')")
    _, totals, _ = exported(database)
    assert totals == ExportSummary(events=1, omitted=2, waiting=1, changed_events=1, changed_payments=2)


def test_lossy_encoding_omits_the_event(new_database: NewDatabase) -> None:
    """EUC_JP returns a broken bar as a full-width one from the columns.

    The line as received holds an escape.
    """
    database = as_database(new_database("template0", "EUC_JP"), "an EUC_JP database")
    schema.bring_up(database)
    with closing(Recorder(database, 1)) as recorder:
        recorder.handle(input_events(("e\u00a6", "p1", "authorize"), ("e日本", "p2", "authorize")))
    lines, totals, omitted = exported(database)
    assert [each.why for each in omitted] == ['its line has the event_id "e\u00a6"']
    assert (len(lines), totals.events, totals.omitted) == (1, 1, 1)
