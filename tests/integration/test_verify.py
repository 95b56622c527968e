"""`verify`: each problem that it must find is made on purpose, directly in the database."""

from contextlib import closing

import pytest
from sqlalchemy import URL

from payproc.corrections import Correction, correct
from payproc.db.connection import Database
from payproc.handlers import Recorder
from payproc.logic import Resolution, State
from payproc.review import ReviewDecision, resolve_review
from payproc.verify import Problem, VerifySummary, verify_histories
from tests.support.events import input_events
from tests.support.postgres import Sql, SqlOn, as_database, create_schema


@pytest.fixture
def books(database: Database, sql: Sql) -> None:
    """Four consistent payments, one with a resolution in its history and one with a correction."""
    run_id = sql.value("INSERT INTO payproc.runs (sources) VALUES ('{test}') RETURNING run_id")
    with closing(Recorder(database, run_id)) as recorder:
        recorder.handle(
            input_events(
                ("a1", "a", "authorize"),
                ("a2", "a", "capture"),
                ("a3", "a", "capture"),
                ("b1", "b", "capture"),
                ("b2", "b", "authorize"),
                ("B1", "B", "fail"),
                ("B2", "B", "refund"),
            )
        )
        resolve_review(database, "b1", ReviewDecision(Resolution.APPLY, "paid", "alice"), lambda *_: True)
        recorder.handle(input_events(("b3", "b", "refund"), ("b4", "b", "refund"), first_line=8))
        recorder.handle(input_events(("c1", "c", "fail"), ("c2", "c", "capture"), first_line=10))
        correct(database, "c", Correction(State.CAPTURED, "it was paid", "alice"), lambda _: True)
        recorder.handle(input_events(("c3", "c", "refund"), first_line=12))


def find_problems(database: Database) -> list[tuple[str, str, int | None, str, str]]:
    return [
        (finding.payment_id, finding.problem.value, finding.position, finding.found, finding.expected)
        for finding in verify_histories(database, VerifySummary())
    ]


def test_consistent_records_have_no_findings(database: Database, books: None) -> None:
    """Payments and entries are counted."""
    totals = VerifySummary()
    assert list(verify_histories(database, totals)) == []
    assert (totals.payments, totals.entries, totals.wrong) == (4, 14, 0)


def test_empty_database_has_no_findings(database: Database) -> None:
    totals = VerifySummary()
    assert list(verify_histories(database, totals)) == []
    assert (totals.payments, totals.entries) == (0, 0)


DAMAGE: list[tuple[str, str, list[tuple[str, str, int | None, str, str]]]] = [
    (
        "an entry that does not start where the one before ended",
        "UPDATE payproc.events SET state_before = 'captured' WHERE event_id = 'a2'",
        [
            ("a", "broken_chain", 2, "captured", "authorized"),
            (
                "a",
                "rules_changed",
                2,
                "APPLY transition, captured to captured",
                "IGNORE already_in_state, captured to captured",
            ),
        ],
    ),
    (
        "a payment with another state",
        "UPDATE payproc.payments SET state = 'refunded' WHERE payment_id = 'a'",
        [("a", "wrong_state", None, "refunded", "captured")],
    ),
    (
        "a payment with another version",
        "UPDATE payproc.payments SET version = 7 WHERE payment_id = 'b'",
        [("b", "wrong_version", None, "7", "5")],
    ),
    (
        "an entry that is gone",
        "DELETE FROM payproc.events WHERE event_id = 'a2'",
        [("a", "gap", 3, "3", "2"), ("a", "broken_chain", 3, "captured", "authorized")],
    ),
    (
        "a last entry that is gone",
        "DELETE FROM payproc.events WHERE event_id = 'a3'",
        [("a", "wrong_version", None, "3", "2")],
    ),
    (
        "a resolution that is gone",
        "DELETE FROM payproc.resolutions",
        [("b", "gap", 4, "4", "3"), ("b", "broken_chain", 4, "captured", "authorized")],
    ),
    (
        "a payment that is gone",
        "DELETE FROM payproc.payments WHERE payment_id = 'B'",
        [("B", "no_payment", None, "2 entries and no payment", "failed")],
    ),
    (
        "a history that is gone",
        "DELETE FROM payproc.events WHERE payment_id = 'B'",
        [("B", "no_history", None, "failed and no history", "at least one entry")],
    ),
    (
        "a refused event that moved the payment",
        "UPDATE payproc.events SET state_after = 'refunded' WHERE event_id = 'a3'",
        [
            ("a", "illegal_move", 3, "IGNORE already_in_state, captured to refunded", "captured to captured"),
            ("a", "wrong_state", None, "captured", "refunded"),
        ],
    ),
    (
        "an applied event that went somewhere else",
        "UPDATE payproc.events SET state_after = 'failed' WHERE event_id = 'a2'",
        [
            ("a", "illegal_move", 2, "APPLY transition, authorized to failed", "authorized to captured"),
            ("a", "broken_chain", 3, "captured", "failed"),
        ],
    ),
    (
        "a decision that today's table would not make",
        "UPDATE payproc.events SET outcome = 'MANUAL_REVIEW', reason = 'repeated_refund' WHERE event_id = 'a3'",
        [
            (
                "a",
                "rules_changed",
                3,
                "MANUAL_REVIEW repeated_refund, captured to captured",
                "IGNORE already_in_state, captured to captured",
            )
        ],
    ),
    (
        "a resolution that went somewhere else",
        "UPDATE payproc.resolutions SET state_after = 'failed'",
        [
            ("b", "illegal_move", 3, "apply resolution, authorized to failed", "authorized to captured"),
            ("b", "broken_chain", 4, "captured", "failed"),
        ],
    ),
    (
        "a resolution of nothing",
        "UPDATE payproc.resolutions SET event_id = 'a1'",
        [
            (
                "b",
                "illegal_move",
                3,
                "apply nothing to resolve, authorized to captured",
                "an earlier event of this payment in MANUAL_REVIEW",
            )
        ],
    ),
    (
        "a resolution of an event that is not on record",
        "UPDATE payproc.resolutions SET event_id = 'nope'",
        [
            (
                "b",
                "illegal_move",
                3,
                "apply nothing to resolve, authorized to captured",
                "an earlier event of this payment in MANUAL_REVIEW",
            )
        ],
    ),
    (
        "a correction that is gone",
        "DELETE FROM payproc.corrections",
        [("c", "gap", 4, "4", "3"), ("c", "broken_chain", 4, "captured", "failed")],
    ),
    (
        "a correction that does not start where the entry before ended",
        "UPDATE payproc.corrections SET state_before = 'authorized'",
        [("c", "broken_chain", 3, "authorized", "failed")],
    ),
    (
        "a correction that went somewhere else",
        "UPDATE payproc.corrections SET state_after = 'authorized'",
        [("c", "broken_chain", 4, "captured", "authorized")],
    ),
    (
        "a correction to the state that the payment had",
        "UPDATE payproc.corrections SET state_after = 'failed'",
        [
            ("c", "illegal_move", 3, "state correction, failed to failed", "failed to another state"),
            ("c", "broken_chain", 4, "captured", "failed"),
        ],
    ),
    (
        "a correction at another position",
        "UPDATE payproc.corrections SET position = 5",
        [
            ("c", "gap", 4, "4", "3"),
            ("c", "broken_chain", 4, "captured", "failed"),
            ("c", "broken_chain", 5, "failed", "refunded"),
            ("c", "wrong_state", None, "refunded", "captured"),
            ("c", "wrong_version", None, "4", "5"),
        ],
    ),
    (
        "a correction of a payment that is not on record",
        "UPDATE payproc.corrections SET payment_id = 'nope', position = 1, state_before = 'created'",
        [
            ("c", "gap", 4, "4", "3"),
            ("c", "broken_chain", 4, "captured", "failed"),
            ("nope", "no_payment", None, "1 entries and no payment", "captured"),
        ],
    ),
]


@pytest.mark.parametrize(("damage", "expected"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_damage_is_found_and_named(
    database: Database, books: None, sql: Sql, damage: str, expected: list[tuple[str, str, int | None, str, str]]
) -> None:
    """Each damage is done directly in the database."""
    sql.rows(damage)
    assert find_problems(database) == expected


def test_every_problem_is_tested() -> None:
    found = {finding[1] for _, _, expected in DAMAGE for finding in expected}
    assert found | {Problem.WRONG_CLAIM.value} == {problem.value for problem in Problem}


@pytest.fixture
def citus_books(bare_url: URL, sql_on: SqlOn) -> tuple[Database, Sql]:
    """Two payments in the tables for Citus, with one event each, and a claim without an event."""
    database, sql = as_database(bare_url, "a database"), sql_on(bare_url)
    with database.transaction() as cursor:
        create_schema(cursor, for_citus=True)
    for payment_id in ("a", "b"):
        sql.rows("INSERT INTO payproc.payments (payment_id, state, version) VALUES (%s, 'authorized', 1)", payment_id)
        sql.rows(
            "INSERT INTO payproc.events (event_id, payment_id, position, type, outcome, reason, state_before,"
            " state_after, source, run_id, line, payload) VALUES (%s, %s, 1, 'authorize', 'APPLY', 'transition',"
            " 'created', 'authorized', 0, 1, 1, '{}')",
            f"{payment_id}1",
            payment_id,
        )
    sql.rows(
        "INSERT INTO payproc.event_ids VALUES ('a1', 'a', 'authorize'), ('b1', 'b', 'authorize'), ('x', 'x', 'fail')"
    )
    return database, sql


def test_claim_without_an_event_is_no_finding(citus_books: tuple[Database, Sql]) -> None:
    """Its run has died, or is still to record the event."""
    assert find_problems(citus_books[0]) == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM payproc.event_ids WHERE event_id = 'a1'", "event a1 not claimed"),
        (
            "UPDATE payproc.event_ids SET payment_id = 'b' WHERE event_id = 'a1'",
            "event a1 claimed for authorize of payment b",
        ),
        ("UPDATE payproc.event_ids SET type = 'fail' WHERE event_id = 'a1'", "event a1 claimed for fail of payment a"),
    ],
    ids=["none", "another payment", "another type"],
)
def test_wrong_claim_is_found(citus_books: tuple[Database, Sql], damage: str, found: str) -> None:
    database, sql = citus_books
    sql.rows(damage)
    assert find_problems(database) == [("a", "wrong_claim", 1, found, "a claim for authorize")]


def test_event_of_two_payments_is_found(citus_books: tuple[Database, Sql]) -> None:
    """On Citus no key of events refuses it, because each payment may be on another machine."""
    database, sql = citus_books
    sql.rows("UPDATE payproc.events SET event_id = 'a1' WHERE payment_id = 'b'")
    assert find_problems(database) == [
        ("b", "wrong_claim", 1, "event a1 claimed for authorize of payment a", "a claim for authorize")
    ]


def test_event_claimed_after_the_snapshot_is_right(citus_books: tuple[Database, Sql]) -> None:
    """Each machine of a cluster has a snapshot of its own, and some may be older."""
    database, sql = citus_books
    sql.rows("DELETE FROM payproc.event_ids WHERE event_id = 'b1'")
    sql.rows("UPDATE payproc.payments SET version = 7 WHERE payment_id = 'a'")
    findings = verify_histories(database, VerifySummary())
    assert next(findings).problem is Problem.WRONG_VERSION
    sql.rows("INSERT INTO payproc.event_ids VALUES ('b1', 'b', 'authorize')")
    assert list(findings) == []
