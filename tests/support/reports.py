"""Reports of a command, its decision lines and its line of error, compared with the records."""

import json
import re
from pathlib import Path
from typing import Any

from tests.support.command import Payproc
from tests.support.postgres import Sql

DECISIONS = "decisions.jsonl"
"""Usual name of a decision file in the command's folder."""


def read_decisions(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a decision file; the last line may be torn.

    The name of the source is dropped, and the text of an error, because the model has neither.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    decisions = [json.loads(line) for line in lines]
    for decision in decisions:
        del decision["source"]
    return [{**decision, "error": ...} if "error" in decision else decision for decision in decisions]


def assert_decisions_recorded(decisions: list[dict[str, Any]], sql: Sql) -> int:
    """Check that every decision reported is on record; return the number of events."""
    reported = [decision for decision in decisions if "event_id" in decision]
    query = "SELECT event_id, payment_id, type::text, outcome::text, reason::text FROM payproc.events"
    recorded = {event_id: row for event_id, *row in sql.rows(query)}
    conflicts = set(sql.rows("SELECT event_id, payment_id, type::text FROM payproc.event_conflicts"))
    redelivered = {event_id for (event_id,) in sql.rows("SELECT event_id FROM payproc.redeliveries")}
    for decision in reported:
        assert not decision.get("differs") or decision["event_id"] in redelivered
        fact = [decision["payment_id"], decision["type"]]
        if decision["reason"] == "event_id_conflict":
            assert (decision["event_id"], *fact) in conflicts
        elif decision["reason"] == "duplicate_event":
            assert recorded[decision["event_id"]][:3] == [*fact, decision["original_outcome"]]
        else:
            assert recorded[decision["event_id"]] == [*fact, decision["outcome"], decision["reason"]]
    return len(reported)


def error_of(code: int, stderr: str) -> str:
    """Return the line of error of a command that could not finish, without notes."""
    assert code == 1, stderr
    notes = r"payproc: database|<stdin>:|\S+\.jsonl:\d+: |… and |[\d,]+ events? (waits?|needs?) "
    (message,) = (row for row in stderr.splitlines() if not re.match(notes, row))
    return message.removeprefix("payproc: ")


def assert_verified(payproc: Payproc) -> None:
    """Check the records with `payproc verify`."""
    finished = payproc("verify", "--quiet")
    assert (finished.code, finished.stderr) == (0, ""), finished
