"""Concurrent processes: sharing a day's lines among them, and checking all their decisions."""

import random
from typing import Any

from tests.support.model import Line
from tests.support.postgres import Sql

NOT_RECORDED = ("duplicate_event", "event_id_conflict")
"""Reasons of events whose event_id is already on record."""


def shares(lines: list[Line], chance: random.Random, number: int) -> list[list[Line]]:
    """Return one share a process.

    A share is the whole day, an overlapping half or a disjoint part, in order or shuffled.
    """
    own = [lines[start::number] for start in range(number)]
    parts = []
    for start in range(number):
        part = chance.choice((lines, chance.sample(lines, len(lines) // 2), own[start]))
        parts.append(chance.sample(part, len(part)) if chance.random() < 0.5 else list(part))
    return parts


def assert_each_recorded_once(decisions: list[dict[str, Any]], sql: Sql) -> None:
    """Check that one decision about each event_id reports it as recorded, as the table has it.

    Every other decision about it must be a duplicate of that one, or a conflict with it. Duplicates
    that differ are on record.
    """
    first = {decision["event_id"]: decision for decision in decisions if decision["reason"] not in NOT_RECORDED}
    assert len(first) == sum(decision["reason"] not in NOT_RECORDED for decision in decisions)
    assert first.keys() == {decision["event_id"] for decision in decisions}
    assert sorted(
        (event_id, decision["payment_id"], decision["type"], decision["outcome"], decision["reason"])
        for event_id, decision in first.items()
    ) == sql.rows("SELECT event_id, payment_id, type::text, outcome::text, reason::text FROM payproc.events ORDER BY 1")
    differing = {decision["event_id"] for decision in decisions if decision.get("differs")}
    assert differing == {event_id for (event_id,) in sql.rows("SELECT event_id FROM payproc.redeliveries")}
    for decision in decisions:
        original = first[decision["event_id"]]
        if decision["reason"] == "duplicate_event":
            assert decision["original_outcome"] == original["outcome"]
            assert (decision["payment_id"], decision["type"]) == (original["payment_id"], original["type"])
        elif decision["reason"] == "event_id_conflict":
            assert decision["recorded"] == {"payment_id": original["payment_id"], "type": original["type"]}
