"""`payproc payments`: payments by state and age."""

import json
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.support.events import event_line, write_lines
from tests.support.in_process import InProcess
from tests.support.postgres import Sql

DAY = [
    event_line("e1", "p1", "authorize"),
    event_line("e2", "p2", "authorize"),
    event_line("e3", "p2", "capture"),
    event_line("e4", "p3", "capture"),
    event_line("e5", "p3", "refund"),
    event_line("e6", "p4", "capture"),
    event_line("e7", "p5", "fail"),
]
"""Payments without pending reviews, with two, with a resolved one, and a failed one."""

AGES = {"p1": 10, "p2": 8, "p3": 6, "p4": 4, "p5": 2}
"""Days since each payment's last move."""


@pytest.fixture(scope="module")
def filled(shared: InProcess) -> InProcess:
    """The command on five payments that moved days ago."""
    write_lines(shared.folder / "day.jsonl", DAY)
    shared("ingest", "day.jsonl", "--workers", "1")
    shared("resolve", "e6", "--dismiss", "--note", "x", "--yes")
    return shared


@pytest.fixture(scope="module")
def aged(filled: InProcess) -> InProcess:
    """The same, with the times of their last moves in the past."""
    url = make_url(filled.environment["DATABASE_URL"])
    with closing(Sql(url)) as sql:
        for payment, days in AGES.items():
            sql.rows(
                "UPDATE payproc.payments SET state_since = now() - %s * interval '1 day' WHERE payment_id = %s"
                " RETURNING version",
                days,
                payment,
            )
    return filled


def payments(run: InProcess, *options: str) -> list[dict[str, Any]]:
    """List payments as JSON."""
    finished = run("payments", "--format", "json", *options)
    assert finished.code == 0, finished
    return [json.loads(row) for row in finished.stdout.splitlines()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", ["p1", "p2", "p3", "p4", "p5"]),
        ("--state created", ["p3", "p4"]),
        ("--state Captured", ["p2"]),
        ("--state refunded", []),
        ("--older-than 7d", ["p1", "p2"]),
        ("--older-than 100h", ["p1", "p2", "p3"]),
        ("--older-than 2w", []),
        ("--waiting", ["p3"]),
        ("--waiting --state failed", []),
        ("--state created --older-than 5d --waiting", ["p3"]),
        ("--limit 2", ["p1", "p2"]),
    ],
)
def test_payments_filters_narrow_the_list(aged: InProcess, options: str, expected: list[str]) -> None:
    """Those longest in their state are first."""
    assert [each["payment_id"] for each in payments(aged, *options.split())] == expected


def test_payments_json_has_state_and_reviews(aged: InProcess) -> None:
    third = payments(aged)[2]
    for time in ("state_since", "created_at"):
        assert third.pop(time).endswith("Z")
    assert third == {"payment_id": "p3", "state": "created", "version": 2, "waiting": 2}
    assert [each["waiting"] for each in payments(aged)] == [0, 0, 2, 0, 0]


def test_payments_table_fits_long_ids(aged: InProcess) -> None:
    wide = [" ".join(row.split()) for row in aged("payments", env={"COLUMNS": "110"}).stdout.splitlines()]
    assert wide[0] == "Payment State Since (UTC) Age Entries Waiting"
    assert wide[4].startswith("p3 created 2")
    assert wide[4].endswith(" 6 d 2 2")


def test_payments_without_a_match(aged: InProcess) -> None:
    assert aged("payments", "--state", "refunded").stdout == "no payments match\n"


def test_ignored_event_keeps_the_age(run_in_process: InProcess) -> None:
    """Only a move of the payment starts its age anew."""
    run_in_process("ingest", "-", stdin=event_line("e1", "p1", "authorize"))
    (before,) = payments(run_in_process)
    run_in_process("ingest", "-", stdin=event_line("e2", "p1", "authorize"))
    (after,) = payments(run_in_process)
    assert (after["state_since"], after["version"]) == (before["state_since"], 2)
    run_in_process("ingest", "-", stdin=event_line("e3", "p1", "capture"))
    assert payments(run_in_process)[0]["state_since"] > before["state_since"]
