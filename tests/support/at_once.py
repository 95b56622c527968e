"""Processes at once: who gets which part of a day, and what must be true of all their reports together."""

import random
from typing import Any

from tests.support.model import Line
from tests.support.postgres import Sql

NOT_RECORDED = ("duplicate_event", "event_id_conflict")
"""Reasons of events that are not new under their event_id."""


def shares(lines: list[Line], chance: random.Random, number: int) -> list[list[Line]]:
    """What each of so many processes gets: the whole day, a part that overlaps, or its own; in order or shuffled."""
    own = [lines[start::number] for start in range(number)]
    parts = []
    for start in range(number):
        part = chance.choice((lines, chance.sample(lines, len(lines) // 2), own[start]))
        parts.append(chance.sample(part, len(part)) if chance.random() < 0.5 else list(part))
    return parts


def check_reports(reports: list[dict[str, Any]], sql: Sql) -> None:
    """None missing, none twice: of all reports about an event_id exactly one says that it was recorded, and as what.

    The others call it a duplicate of that, or a conflict with that.
    """
    first = {report["event_id"]: report for report in reports if report["reason"] not in NOT_RECORDED}
    assert len(first) == sum(report["reason"] not in NOT_RECORDED for report in reports)
    assert first.keys() == {report["event_id"] for report in reports}
    assert sorted(
        (event_id, report["payment_id"], report["type"], report["outcome"], report["reason"])
        for event_id, report in first.items()
    ) == sql.rows("SELECT event_id, payment_id, type::text, outcome::text, reason::text FROM payproc.events ORDER BY 1")
    for report in reports:
        original = first[report["event_id"]]
        if report["reason"] == "duplicate_event":
            assert report["original_outcome"] == original["outcome"]
            assert (report["payment_id"], report["type"]) == (original["payment_id"], original["type"])
        elif report["reason"] == "event_id_conflict":
            assert report["recorded"] == {"payment_id": original["payment_id"], "type": original["type"]}
